//! The most that this machine can do in one direction, without a relay: a yardstick for a
//! contender's numbers. The program `ceiling` (src/bin/ceiling) measures it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use relay_tests::{netns::Namespace, process::Process};
use serde::{Deserialize, Serialize};

use crate::{
    contender::command::{self, Scratch},
    job::Job,
    peer,
};

/// How much longer than asked for a measurement may take: it starts, and a receiver waits for its
/// first frame.
const PATIENCE: Duration = Duration::from_secs(30);

/// One direction, by one kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceiling {
    /// Transmits whole frames by AF_XDP in copy mode to the outputs of the job's first flow.
    XdpTransmit,
    /// Receives by AF_XDP on the job's input and drops. Traffic must run meanwhile.
    XdpReceive,
    /// Transmits GSO packets of several payloads by AF_PACKET to the outputs of the job's first
    /// flow.
    Segmented {
        /// Payloads of one GSO packet; together they must fit into 64 KiB.
        joined: u32,
    },
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Frames sent or received.
    pub frames: u64,
    /// The time of the measurement.
    pub seconds: f64,
}

/// A running measurement; killed on drop.
#[derive(Debug)]
pub struct Measuring {
    process: Process,
    seconds: u32,
    namespace: Arc<Namespace>,
    input: String,
    _scratch: Scratch,
}

impl Ceiling {
    /// What tables call it.
    pub fn name(&self) -> String {
        match self {
            Self::XdpTransmit => "xdp-tx".into(),
            Self::XdpReceive => "xdp-rx".into(),
            Self::Segmented { joined } => format!("segmented-tx ({joined} joined)"),
        }
    }

    /// Starts to measure for `seconds`; a receiver's time starts with its first frame. `payload` is
    /// in bytes, and a receiver takes all frames.
    ///
    /// # Errors
    ///
    /// When the program does not start, with its log.
    pub fn start(&self, job: &Job, payload: usize, seconds: u32) -> Result<Measuring> {
        let scratch = Scratch::new()?;
        let mut command = command::pinned(job, command::own("ceiling")?)?;
        command.arg(scratch.write_work(job)?);
        command.args(["--seconds", &seconds.to_string()]);
        let payload = payload.to_string();
        match self {
            Self::XdpTransmit => command.args(["xdp-tx", "--payload", &payload]),
            Self::XdpReceive => command.arg("xdp-rx"),
            Self::Segmented { joined } => {
                let joined = joined.to_string();
                command.args(["segmented-tx", "--payload", &payload, "--joined", &joined])
            }
        };
        let mut process = Process::spawn(command)?;
        command::wait_for_log(&mut process, peer::READY)
            .with_context(|| format!("starting {}", self.name()))?;
        Ok(Measuring {
            process,
            seconds,
            namespace: Arc::clone(&job.namespace),
            input: job.input.clone(),
            _scratch: scratch,
        })
    }
}

impl Measuring {
    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// When the program fails or nothing was there to receive, with its log.
    pub fn finish(mut self) -> Result<Measured> {
        let time = Duration::from_secs(self.seconds.into()) + PATIENCE;
        let status = self.process.wait(time)?;
        if !status.is_some_and(|status| status.success()) {
            bail!(
                "the measurement did not end well ({status:?}); its log is:\n{}",
                self.process.log()
            );
        }
        let answer = self.process.stdout();
        serde_json::from_str(&answer).with_context(|| format!("reading the result `{answer}`"))
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        command::detach_xdp(&self.namespace, &self.input);
    }
}
