//! `relay save`: the running rules as a rule file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::{output::print, target::Target};
use crate::daemon::requests::{Answer, Request};

/// Writes the running rules to `file`: all of them, or on an error none, and the file stays as it
/// was.
///
/// # Errors
///
/// No relay serves there, it refuses, or the file cannot be written.
pub fn save(target: &Target, file: &Path) -> anyhow::Result<()> {
    let Answer::Rules(text) = target.connect()?.ask(Request::Save)? else {
        bail!("the relay answered with something else than its rules");
    };
    replace(file, &text)
        .with_context(|| format!("cannot write the rules to {}", file.display()))?;
    print(&format!("{}: saved\n", file.display()))
}

/// Writes a new file, and puts it in place of `file` once it is on the disk.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // A link stays, and what it leads to is replaced.
    let (file, before) = match fs::canonicalize(file) {
        Ok(file) => {
            let metadata = fs::metadata(&file)?;
            if !metadata.is_file() {
                let why = "it is not a regular file; give the path of a file";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            (file, Some(metadata))
        }
        Err(_) if file.is_symlink() => {
            let why = "it is a link that leads to no file; give the path of a file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (file.to_owned(), None),
        Err(error) => return Err(error),
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = Draft(file.with_file_name(format!(".{name}.{}", std::process::id())));
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&draft.0)?;
    if let Some(before) = before {
        let (owner, group) = (before.uid(), before.gid());
        let own = out.metadata()?;
        if (own.uid(), own.gid()) != (owner, group) {
            // Whoever could read the rules must be able to read them at the next start.
            fchown(&out, Some(owner), Some(group)).map_err(|error| {
                io::Error::new(error.kind(), format!("its owner cannot be kept: {error}"))
            })?;
        }
        out.set_permissions(before.permissions())?;
    }
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&draft.0, &file)?;
    // So that the new name is on the disk as well.
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A file that is removed unless it was renamed.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_saved_file_replaces_the_old_one_whole_and_keeps_its_mode_and_links() {
        let folder = std::env::temp_dir().join(format!("relay-save-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, link) = (folder.join("rules.toml"), folder.join("link.toml"));
        replace(&file, "one").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("rules.toml", &link).unwrap();
        replace(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(link.is_symlink());
        std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).unwrap();
        replace(&link, "of another user").unwrap();
        let kept = fs::metadata(&file).unwrap();
        assert_eq!((kept.uid(), kept.gid()), (65_534, 65_534));
        assert_eq!(kept.permissions().mode() & 0o777, 0o600);
        let nowhere = folder.join("nowhere.toml");
        symlink("none.toml", &nowhere).unwrap();
        assert!(replace(&nowhere, "three").is_err());
        fs::remove_file(&nowhere).unwrap();
        assert!(replace(&folder, "three").is_err());
        assert!(replace(&folder.join("none/rules.toml"), "four").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "a draft is left");
        fs::remove_dir_all(&folder).unwrap();
    }
}
