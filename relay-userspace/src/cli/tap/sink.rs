//! Where the frames of a tap go.

use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::cli::output::write_all;

/// Bytes that are collected before they are written.
const AT_ONCE: usize = 64 << 10;

/// A file, or standard output, and what is to be written to it.
#[derive(Debug)]
pub struct Sink {
    file: Option<(File, PathBuf)>,
    /// Frames are written as pcapng, and not as lines.
    pub is_pcapng: bool,
    /// What is to be written.
    pub bytes: Vec<u8>,
    /// The reader of standard output has closed.
    pub is_closed: bool,
}

impl Sink {
    /// Lines on standard output; or pcapng there with `-`, or in a new file of this name.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = match path {
            Some(path) if path != Path::new("-") => {
                let file = File::create(path);
                let file = file.with_context(|| format!("cannot make {}", path.display()))?;
                Some((file, path.to_owned()))
            }
            _ => None,
        };
        Ok(Self {
            file,
            is_pcapng: path.is_some(),
            bytes: Vec::new(),
            is_closed: false,
        })
    }

    /// Whether there is so much that it should be written.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= AT_ONCE
    }

    /// Writes everything.
    ///
    /// # Errors
    ///
    /// The system call fails. A reader that has closed its end is none.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        let result = match &self.file {
            Some((file, _)) => write_all(file.as_fd(), &self.bytes),
            None if self.is_closed => Ok(()),
            None => write_all(io::stdout().as_fd(), &self.bytes),
        };
        self.bytes.clear();
        match (result, &self.file) {
            (Err(error), Some((_, path))) => {
                Err(error).with_context(|| format!("cannot write to {}", path.display()))
            }
            (Err(error), None) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            (result, _) => result.context("writing to standard output"),
        }
    }
}
