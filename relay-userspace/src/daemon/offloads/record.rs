//! What was switched, on disk: one file per interface, so that a relay that was killed has left
//! behind what the next one needs to know.
//!
//! `/run/relay/offloads/NAMESPACE-INDEX.json`, in a folder that a boot empties, as it resets the
//! interfaces. The number of the network namespace is never given twice until then. An index may
//! be, so the file has the MAC address as well.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::host::{Switched, regular_file};

/// More than any record has.
const MOST_BYTES: u64 = 64 * 1024;

/// The offloads of one interface that a relay has switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The interface's name, for people.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// What was otherwise before.
    #[serde(flatten)]
    pub switched: Switched,
}

/// The files of one network namespace.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    namespace: u64,
}

impl Records {
    /// Those of network namespace `namespace` in `folder`, which need not exist yet.
    pub fn new(folder: &Path, namespace: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            namespace,
        }
    }

    /// The file of the interface with this index.
    pub fn path(&self, index: u32) -> PathBuf {
        self.folder.join(format!("{}-{index}.json", self.namespace))
    }

    /// Writes a record in place of the one that the interface has. No reader sees half of it.
    ///
    /// # Errors
    ///
    /// The file system's refusal.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(&self.folder)?;
        let path = self.path(record.index);
        let new = path.with_extension("new");
        // One that a relay which was killed had begun. A link is not followed.
        let _ = fs::remove_file(&new);
        let text = serde_json::to_vec(record)?;
        let mut options = fs::OpenOptions::new();
        let created = options.write(true).create_new(true).mode(0o644).open(&new);
        let written = created.and_then(|mut file| file.write_all(&text));
        let written = written.and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            // Half of it, where the file system is full.
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// The record of the interface with this index; `None` if it has none that can be read. Another
    /// kind of file keeps nobody waiting, and of one without an end no more is read than a record
    /// has.
    pub fn read(&self, index: u32) -> Option<Record> {
        let file = regular_file::open(&self.path(index), libc::O_NOFOLLOW).ok()?;
        let mut text = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut text).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.index == index).then_some(record)
    }

    /// Removes the record of the interface with this index, if it has one.
    pub fn remove(&self, index: u32) {
        // One that stays is compared with the interface before it is acted upon.
        let _ = fs::remove_file(self.path(index));
    }

    /// All records of this network namespace.
    pub fn all(&self) -> Vec<Record> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let records = files.filter_map(|file| {
            let name = file.file_name();
            let (namespace, index) = name.to_str()?.strip_suffix(".json")?.split_once('-')?;
            let is_ours = namespace.parse() == Ok(self.namespace);
            is_ours.then(|| self.read(index.parse().ok()?)).flatten()
        });
        records.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records in a folder of this test, and one of them.
    fn records(test: &str) -> (PathBuf, Records, Record) {
        let name = format!("relay-records-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let records = Records::new(&folder, 1);
        let record = Record {
            interface: "in0".into(),
            index: 7,
            mac: [2, 0, 0, 0, 0, 1],
            switched: Switched::default(),
        };
        (folder, records, record)
    }

    #[test]
    fn a_file_of_another_kind_or_size_is_no_record() {
        let (folder, records, record) = records("kind");
        records.write(&record).unwrap();
        let (path, aside) = (records.path(7), folder.join("aside"));
        assert_eq!(records.read(7), Some(record));
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        assert_eq!(records.read(7), None);
        fs::remove_file(&path).unwrap();
        // Opening it would wait for somebody who writes.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(records.read(7), None);
        fs::remove_file(&path).unwrap();
        let mut long = fs::read(&aside).unwrap();
        long.resize(MOST_BYTES as usize, b' ');
        fs::write(&path, &long).unwrap();
        assert!(records.read(7).is_some());
        long.push(b'x');
        fs::write(&path, &long).unwrap();
        assert!(records.read(7).is_some(), "what is behind is not read");
        assert_eq!(records.all().len(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let (folder, records, record) = records("write");
        // In the way of the record.
        fs::create_dir_all(records.path(7)).unwrap();
        records.write(&record).unwrap_err();
        let left: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
        let left: Vec<PathBuf> = left.iter().map(fs::DirEntry::path).collect();
        assert_eq!(left, [records.path(7)]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
