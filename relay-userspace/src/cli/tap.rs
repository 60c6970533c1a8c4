//! `relay tap`: the frames of a rule as they came in and left, or what the kernel program leaves to
//! the network stack; as lines, or as a pcapng file.
//!
//! Frames go to standard output or to a file; what was counted, and what the tap lost, goes to
//! standard error at the end.

mod lines;
mod sink;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use self::{
    lines::{Shown, ended},
    sink::Sink,
};
use super::{exit, logging, target::Target};
use crate::{
    control::{ClientError, TapEvent},
    daemon::requests::{TapOutputs, TapRequest},
    datapath::tap::ring::{LARGEST, SMALLEST},
};

/// How often a quiet tap looks whether it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What to show, and how much of it.
#[derive(Debug, Clone, Args)]
pub struct TapOptions {
    /// The rule
    #[arg(value_name = "RULE", required_unless_present = "passed")]
    pub rule: Option<String>,
    /// Beside what comes in, the copies of this output; the first one of the rule is 1 [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "passed")]
    pub output: Option<u32>,
    /// Beside what comes in, the copies of all outputs
    #[arg(long, conflicts_with_all = ["output", "passed"])]
    pub all: bool,
    /// Instead of a rule: the frames that the kernel program on INTERFACE leaves to this host's
    /// network stack, and why
    #[arg(long, value_name = "INTERFACE", conflicts_with = "rule")]
    pub passed: Option<String>,
    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// Write pcapng to FILE, or with `-` to standard output
    #[arg(short, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// KiB that each worker may keep until they are read; what finds no room is lost by the tap
    #[arg(
        long,
        value_name = "KIB",
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(SMALLEST_KIB..=LARGEST_KIB),
        conflicts_with = "passed"
    )]
    pub buffer: u32,
}

const SMALLEST_KIB: i64 = SMALLEST.div_ceil(1 << 10) as i64;
const LARGEST_KIB: i64 = (LARGEST >> 10) as i64;

impl TapOptions {
    fn request(&self) -> TapRequest {
        match (&self.rule, &self.passed) {
            (Some(name), None) => TapRequest::Rule {
                name: name.clone(),
                outputs: match self.all {
                    true => TapOutputs::All,
                    false => TapOutputs::One(self.output.unwrap_or(1)),
                },
                ring: (self.buffer as usize) << 10,
            },
            (_, passed) => TapRequest::Passed {
                interface: passed.clone().unwrap_or_default(),
            },
        }
    }
}

/// Shows frames until there are enough, a signal comes, or the relay ends the tap. Returns the exit
/// code.
///
/// # Errors
///
/// No relay serves there, it refuses, or the file cannot be written.
pub fn tap(target: &Target, options: &TapOptions) -> anyhow::Result<u8> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("handling signals")?;
    }
    let client = target.connect()?;
    // Before the tap begins, so that a file that cannot be written costs nothing.
    let sink = Sink::open(options.write.as_deref())?;
    let mut tap = client.tap(options.request())?;
    let interfaces = tap.interfaces().to_vec();
    let mut shown = Shown::new(interfaces, sink);
    shown.begin();
    let deadline = options
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let mut enough = false;
    let mut patience = Duration::ZERO;
    loop {
        let is_enough = options.count.is_some_and(|count| shown.count() >= count)
            || deadline.is_some_and(|deadline| Instant::now() >= deadline)
            || stop.load(Relaxed)
            || shown.has_no_reader();
        if is_enough && !enough {
            enough = true;
            tap.finish();
        }
        let event = tap.next(patience);
        let event = event.map_err(|error| ClientError::Connection {
            path: target.path(),
            error,
        });
        match event {
            Ok(TapEvent::Frame(header, frame)) => {
                patience = Duration::ZERO;
                // By the clock, what came until then is shown; by the count, no more than that.
                let is_counted_off = options.count.is_some_and(|count| shown.count() >= count);
                shown.note(&header, (!is_counted_off).then_some(frame))?;
            }
            Ok(TapEvent::Nothing) => {
                shown.flush()?;
                patience = LOOK_EVERY;
            }
            Ok(TapEvent::End(summary)) => {
                shown.flush()?;
                logging::say(ended(&summary, &shown).trim_end());
                return Ok(if enough { exit::OK } else { exit::UNAVAILABLE });
            }
            Err(error) => {
                shown.flush()?;
                return Err(error.into());
            }
        }
    }
}
