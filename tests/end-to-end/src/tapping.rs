//! `relay tap` in the background, and the pcapng file that it writes, read by this testbed's own
//! parser and by tshark.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::background::eventually;
use crate::process::Process;
use crate::relay::{RelayProcess, binary};

static NEXT_FILE: AtomicU32 = AtomicU32::new(0);
/// How long a tap may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A frame in a pcapng file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TappedFrame {
    /// The name of its interface.
    pub interface: String,
    /// Whether it left, or should have.
    pub outbound: bool,
    /// Its comment.
    pub comment: String,
    /// Frames that are missing before it.
    pub lost: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// A tap that is on, and writes a file; both go with this value.
#[derive(Debug)]
pub struct Tapping {
    process: Process,
    file: PathBuf,
}

/// How a tap ended.
#[derive(Debug)]
pub struct Tapped {
    /// Its frames.
    pub frames: Vec<TappedFrame>,
    /// What it said at its end.
    pub said: String,
    /// Its exit code.
    pub code: Option<i32>,
}

impl Tapped {
    /// Fails unless it said that it lost nothing.
    pub fn assert_lost_nothing(&self) -> Result<()> {
        let said = &self.said;
        ensure!(said.contains("the tap lost nothing"), "{said}");
        Ok(())
    }
}

impl Tapping {
    /// Runs `relay tap ARGUMENTS -w FILE`, and waits until it is on.
    pub fn start(relay: &RelayProcess, arguments: &[&str]) -> Result<Self> {
        let number = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-tap-{}-{number}.pcapng", std::process::id());
        let file = std::env::temp_dir().join(name);
        let mut command = Command::new(binary()?);
        command.arg("tap").args(arguments).arg("-w").arg(&file);
        command.arg("--control").arg(relay.control());
        let mut tapping = Self {
            process: Process::spawn(command)?,
            file,
        };
        let began = eventually(PATIENCE, || {
            let written = fs::metadata(&tapping.file).is_ok_and(|file| file.len() > 0);
            written || !tapping.process.is_running()
        });
        ensure!(
            began.is_some() && tapping.process.is_running(),
            "the tap did not begin: {}",
            tapping.process.log()
        );
        Ok(tapping)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends it as Ctrl-C does.
    pub fn end(self) -> Result<Tapped> {
        self.process.signal(Signal::SIGINT)?;
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Result<Tapped> {
        let status = self.process.wait(PATIENCE)?;
        let status = status.with_context(|| format!("still runs: {}", self.process.log()))?;
        Ok(Tapped {
            frames: read(&fs::read(&self.file)?)?,
            said: self.process.log(),
            code: status.code(),
        })
    }
}

impl Drop for Tapping {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    Ok(u32::from_le_bytes(*word.context("a word")?))
}

/// The frames of a pcapng file.
pub fn read(file: &[u8]) -> Result<Vec<TappedFrame>> {
    let mut rest = file;
    let (mut interfaces, mut frames) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (kind, len) = (word(rest, 0)?, word(rest, 4)? as usize);
        let block = rest.get(..len).context("a whole block")?;
        ensure!(word(block, len - 4)? as usize == len && len % 4 == 0);
        let body = &block[8..len - 4];
        match kind {
            0x0a0d_0d0a => ensure!(frames.is_empty() && word(body, 0)? == 0x1a2b_3c4d),
            1 => {
                ensure!(word(body, 0)? == 1, "Ethernet");
                let options = options(&body[8..])?;
                ensure!(options.get(&9).is_some_and(|exponent| *exponent == [9]));
                let name = options.get(&2).context("a name")?;
                interfaces.push(String::from_utf8(name.clone())?);
            }
            6 => {
                let captured = word(body, 12)? as usize;
                ensure!(word(body, 16)? as usize == captured);
                let data = body.get(20..20 + captured).context("a frame")?;
                let options = options(&body[20 + captured.next_multiple_of(4)..])?;
                let flags = word(options.get(&2).context("flags")?, 0)?;
                ensure!([1, 2].contains(&flags));
                let lost = options.get(&4).map_or(Ok(0), |lost| word(lost, 0))?;
                let comment = options.get(&1).context("a comment")?;
                frames.push(TappedFrame {
                    interface: interfaces[word(body, 0)? as usize].clone(),
                    outbound: flags == 2,
                    comment: String::from_utf8(comment.clone())?,
                    lost: lost.into(),
                    time: u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?),
                    bytes: data.to_vec(),
                });
            }
            other => anyhow::bail!("a block of kind {other}"),
        }
        rest = &rest[len..];
    }
    Ok(frames)
}

fn options(mut bytes: &[u8]) -> Result<BTreeMap<u16, Vec<u8>>> {
    let mut options = BTreeMap::new();
    loop {
        let head = word(bytes, 0)?;
        let (code, len) = (head as u16, (head >> 16) as usize);
        if code == 0 {
            return Ok(options);
        }
        options.insert(code, bytes.get(4..4 + len).context("an option")?.to_vec());
        bytes = &bytes[4 + len.next_multiple_of(4)..];
    }
}

/// What tshark says of each frame of a file: the fields with tabs between them.
pub fn tshark(file: &Path, fields: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    // Checksums are looked at.
    command.args([
        "-o",
        "udp.check_checksum:TRUE",
        "-o",
        "ip.check_checksum:TRUE",
    ]);
    let output = command.output().context("running tshark")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tshark: {errors}");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(str::to_owned).collect())
}
