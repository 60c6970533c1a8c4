//! The journal's own protocol (systemd, "Native Journal Protocol"): a datagram per line, with
//! fields beside the message, so that `journalctl RULE=feed` and `INTERFACE=eth0` find it.

use std::{
    env, io,
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    path::Path,
};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The most bytes of a value: a datagram must fit into the buffer of a socket, which has 208 KiB
/// unless `sysctl net.core.wmem_default` is less.
const MOST_BYTES: usize = 96 << 10;

/// The journal, if standard error leads there.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// `None` if standard error leads elsewhere, or if nothing listens there.
    #[must_use]
    pub fn behind_stderr() -> Option<Self> {
        let stream = env::var("JOURNAL_STREAM").ok()?;
        let stderr = std::fs::metadata("/proc/self/fd/2").ok()?;
        if stream != format!("{}:{}", stderr.dev(), stderr.ino()) || !Path::new(SOCKET).exists() {
            return None;
        }
        UnixDatagram::unbound().ok().map(Self)
    }

    /// Sends an [`entry`]. Waits for room.
    ///
    /// # Errors
    ///
    /// The journal does not take it.
    pub fn send(&self, entry: &[u8]) -> io::Result<()> {
        // By its path, which stays while the journal starts anew.
        self.0.send_to(entry, SOCKET).map(|_| ())
    }
}

/// One entry of the journal. Values that are too long for a datagram are cut.
#[must_use]
pub fn entry<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut entry = Vec::new();
    for (key, value) in fields {
        let value = value.get(..value.floor_char_boundary(MOST_BYTES));
        let value = value.unwrap_or_default().as_bytes();
        entry.extend(key.to_ascii_uppercase().bytes());
        if value.contains(&b'\n') {
            entry.push(b'\n');
            entry.extend((value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend(value);
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_several_lines_has_its_length_in_front_and_a_long_one_is_cut() {
        let bytes = entry([("rule", "feed"), ("MESSAGE", "one\ntwo")]);
        let mut expected = b"RULE=feed\nMESSAGE\n".to_vec();
        expected.extend(7_u64.to_le_bytes());
        expected.extend(b"one\ntwo\n");
        assert_eq!(bytes, expected);
        let long = "ä".repeat(MOST_BYTES);
        assert_eq!(entry([("A", &long[..])]).len(), MOST_BYTES + "A=\n".len());
    }
}
