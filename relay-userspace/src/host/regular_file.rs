//! Opens files without waiting for anybody.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Opens the file at `path` for reading, with these flags of `open(2)` besides. What is no regular
/// file, such as a pipe that nobody writes to, is refused.
///
/// # Errors
///
/// The file system's refusal, or it is no regular file.
pub fn open(path: &Path, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | flags);
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}
