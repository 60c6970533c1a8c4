//! The frames on an interface during a test that failed, as a pcap file.
//!
//! Frames are kept in memory, bounded, and written only when the test panics, so that a passing run
//! leaves nothing behind.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::background::Background;
use crate::sys::{Batch, Receives};
use crate::veth::Endpoint;

/// How many of the first frames of a test are kept: a failure usually begins there.
const FIRST_KEPT: usize = 2_000;
/// How many of the last frames are kept: a failure is noticed there.
const LAST_KEPT: usize = 2_000;
/// Bytes kept of each frame: the headers and the sequence header. The tally checks the rest.
const SNAP_LEN: usize = 192;

struct Record {
    when: Duration,
    length: usize,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Records {
    first: Vec<Record>,
    last: VecDeque<Record>,
    left_out: u64,
}

/// Captures what arrives at one interface and what its host sends there, for as long as it lives.
#[derive(Debug)]
pub struct Capture {
    background: Background<Records>,
    path: PathBuf,
}

impl Capture {
    /// Starts to capture.
    pub fn start(endpoint: &Endpoint) -> Result<Self> {
        let socket = endpoint.packet_socket(Receives::Everything)?;
        let mut batch = Batch::new(64, SNAP_LEN);
        let name = format!("capture-{}", endpoint.interface);
        let background = Background::start(
            &name,
            vec![socket],
            Records::default(),
            move |_, socket, records| {
                let count = batch.receive(socket)?;
                let when = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                for message in batch.messages() {
                    records.add(when, message.full_length, message.bytes);
                }
                Ok(count)
            },
        )?;
        let test = thread::current()
            .name()
            .unwrap_or("main")
            .replace("::", "-");
        let path = target_directory()
            .join("pcap")
            .join(format!("{test}-{}.pcap", endpoint.interface));
        Ok(Self { background, path })
    }
}

impl Records {
    fn add(&mut self, when: Duration, length: usize, bytes: &[u8]) {
        let mut record = Record {
            when,
            length,
            bytes: Vec::new(),
        };
        if self.first.len() < FIRST_KEPT {
            record.bytes.extend_from_slice(bytes);
            self.first.push(record);
            return;
        }
        if self.last.len() == LAST_KEPT {
            self.left_out += 1;
            // The newest record takes over the buffer of the oldest.
            record.bytes = self
                .last
                .pop_front()
                .map(|oldest| oldest.bytes)
                .unwrap_or_default();
            record.bytes.clear();
        }
        record.bytes.extend_from_slice(bytes);
        self.last.push_back(record);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.background.stop();
        let written = self.background.as_it_is(|records| {
            let frames = records.first.iter().chain(&records.last);
            write_pcap(&self.path, frames).map(|n| (n, records.left_out))
        });
        match written {
            Ok((n, left_out)) => eprintln!(
                "testbed: {n} frames in {} ({left_out} more in the middle left out)",
                self.path.display()
            ),
            Err(e) => eprintln!("testbed: writing {}: {e}", self.path.display()),
        }
    }
}

/// Cargo's target directory: the nearest folder above the running program with that name.
pub fn target_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let found = program.ancestors().find(|path| path.ends_with("target"));
    found.map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

/// Writes the classic format: microseconds, link type Ethernet.
fn write_pcap<'a>(path: &Path, records: impl Iterator<Item = &'a Record>) -> io::Result<usize> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = io::BufWriter::new(fs::File::create(path)?);
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65_535, 1] {
        file.write_all(&word.to_ne_bytes())?;
    }
    let mut count = 0;
    for record in records {
        let seconds = record.when.as_secs() as u32;
        let lengths = [record.bytes.len() as u32, record.length as u32];
        for word in [seconds, record.when.subsec_micros(), lengths[0], lengths[1]] {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.write_all(&record.bytes)?;
        count += 1;
    }
    file.flush()?;
    Ok(count)
}
