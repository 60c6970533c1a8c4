//! The file system that the guest boots into: a cpio archive of the form "newc", made in memory.
//!
//! The kernel unpacks it in order (`init/initramfs.c`), so a folder comes before what is in it.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that grows.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Initramfs {
    /// An archive with a console and nothing else: the kernel opens `/dev/console` for the first
    /// program.
    pub fn new() -> Result<Self> {
        let mut archive = Self::default();
        archive.parents("dev/console")?;
        archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[])?;
        Ok(archive)
    }

    /// Adds an executable file, and the folders that it is in. `path` may begin with a slash.
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let path = path.trim_start_matches('/');
        self.parents(path)?;
        self.entry(path, PROGRAM, (0, 0), content)
    }

    /// Adds an empty folder, and those that it is in.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        self.parents(&format!("{path}/x"))
    }

    /// The whole archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            let folder = path.get(..end).unwrap_or_default();
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len())
            .with_context(|| format!("{name} is too large for an initramfs"))?;
        let length = u32::try_from(name.len() + 1).context("a name in an initramfs")?;
        self.entries += 1;
        // inode, mode, user, group, links, time, size, device of the file, device, name, checksum
        let (major, minor) = device;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            major,
            minor,
            length,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_lists_folders_first_and_gives_files_back() {
        let mut archive = Initramfs::new().unwrap();
        archive.file("/a/b/five", b"12345").unwrap();
        archive.file("a/b/empty", b"").unwrap();
        let archive = archive.finish().unwrap();
        assert_eq!(archive.len() % 4, 0);
        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            let field = |n: usize| {
                let digits = std::str::from_utf8(&rest[6 + 8 * n..14 + 8 * n]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let name_end = 110 + field(11);
            let name = std::str::from_utf8(&rest[110..name_end - 1]).unwrap();
            let start = name_end.next_multiple_of(4);
            let content = rest[start..start + field(6)].to_vec();
            seen.push((name.to_owned(), field(1), content));
            rest = &rest[(start + field(6)).next_multiple_of(4)..];
        }
        let names: Vec<_> = seen.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "dev",
                "dev/console",
                "a",
                "a/b",
                "a/b/five",
                "a/b/empty",
                "TRAILER!!!"
            ]
        );
        assert_eq!(
            seen[4],
            ("a/b/five".to_owned(), 0o100_755, b"12345".to_vec())
        );
        assert_eq!(seen[3].1, 0o040_755);
    }
}
