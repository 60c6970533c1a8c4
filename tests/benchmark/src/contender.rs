//! The programs that are compared: the relay, and what else moves multicast on Linux.
//!
//! Every contender does the same [`Job`] on the same core. When [`Contender::start`] returns, it
//! forwards already; when its value is dropped, nothing of it stays behind.

mod active;
pub mod command;
mod links;
mod multicast_routing;
pub mod napi_thread;
mod relay;
mod testpmd;
mod udp;

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};

use self::{active::Active, links::Links};
use crate::{
    drops::Lost,
    job::Job,
    relay::Options,
    scenario::{Cast, Scenario},
};

/// The relay's backend for interfaces without native XDP, as its flag `--backend` has it.
const IO_URING: &str = "io-uring";

/// What tables call another build of the relay.
pub const RELAY_BEFORE: &str = "relay-before";

/// A program that can be given a [`Job`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contender {
    /// The relay.
    Relay {
        /// The program.
        binary: PathBuf,
        /// How it is asked to run.
        options: Options,
    },
    /// Another build of the relay, which chooses by itself: compared with the relay it shows what a
    /// change costs.
    RelayBefore {
        /// The program.
        binary: PathBuf,
    },
    /// One thread that receives, one that sends, a channel between them.
    TwoThreads,
    /// One thread, `recvmmsg` and `sendmmsg`.
    Sendmmsg,
    /// socat.
    Socat,
    /// The kernel's multicast routing, set up by smcroute.
    MulticastRouting {
        /// Forwards in a kernel thread that is pinned to the job's core. Otherwise the kernel
        /// forwards on the core where the frame arrives, which is the generator's: right for
        /// latency, and no measure of capacity.
        threaded: bool,
    },
    /// DPDK's testpmd over AF_XDP.
    Testpmd,
}

/// A contender at work; killed on drop.
pub struct Running {
    active: Box<dyn Active>,
    links: Links,
}

impl Contender {
    /// Every contender; the relay, which is `binary`, by its own choice, on io_uring, and with TX
    /// rings.
    pub fn all(binary: &Path) -> Vec<Self> {
        let relay = |backend: Option<&str>, transmit: Option<&str>| Self::Relay {
            binary: binary.to_owned(),
            options: Options {
                backend: backend.map(str::to_owned),
                transmit: transmit.map(str::to_owned),
                watched: false,
            },
        };
        vec![
            relay(None, None),
            relay(Some(IO_URING), None),
            relay(None, Some("xsk")),
            Self::TwoThreads,
            Self::Sendmmsg,
            Self::Socat,
            Self::MulticastRouting { threaded: false },
            Self::MulticastRouting { threaded: true },
            Self::Testpmd,
        ]
    }

    /// What tables call it.
    pub fn name(&self) -> String {
        match self {
            Self::Relay { options, .. } => {
                let asked = options.backend.iter().chain(&options.transmit);
                let names = std::iter::once("relay").chain(asked.map(String::as_str));
                names.collect::<Vec<_>>().join("-")
            }
            Self::RelayBefore { .. } => RELAY_BEFORE.into(),
            Self::TwoThreads => "two-threads".into(),
            Self::Sendmmsg => "sendmmsg-fanout".into(),
            Self::Socat => "socat".into(),
            Self::MulticastRouting { threaded: false } => "kernel-multicast".into(),
            Self::MulticastRouting { threaded: true } => "kernel-multicast (threaded)".into(),
            Self::Testpmd => "dpdk-testpmd".into(),
        }
    }

    /// Whether it works on the job's core and on no other; otherwise its highest rate means
    /// nothing.
    pub fn has_own_core(&self) -> bool {
        !matches!(self, Self::MulticastRouting { threaded: false })
    }

    /// Whether it is the relay; all others are what the relay is measured against.
    pub fn is_relay(&self) -> bool {
        matches!(self, Self::Relay { .. } | Self::RelayBefore { .. })
    }

    /// Whether it takes part in a scenario.
    pub fn is_in(&self, scenario: &Scenario) -> bool {
        let cast = scenario.cast;
        match self {
            Self::Relay { options, .. } if *options == Options::default() => true,
            Self::Relay { options, .. } if options.transmit.is_none() => cast != Cast::RelayAlone,
            Self::Relay { .. } => cast == Cast::EveryTxMethod,
            Self::RelayBefore { .. } => true,
            // In all others it stands behind the one thread, as it does in these.
            Self::TwoThreads => scenario.is_base(),
            _ => !cast.is_relay(),
        }
    }

    /// Whether copies get the group and port of their output; otherwise they keep those of their
    /// flow.
    pub fn rewrites(&self) -> bool {
        !matches!(self, Self::MulticastRouting { .. } | Self::Testpmd)
    }

    /// `job` with the groups and ports that its copies really have, for the sinks to expect.
    pub fn delivered(&self, job: &Job) -> Job {
        let mut delivered = job.clone();
        if !self.rewrites() {
            for flow in &mut delivered.flows {
                for output in &mut flow.outputs {
                    (output.group, output.port) = (flow.group, flow.port);
                }
            }
        }
        delivered
    }

    /// Whether it can do this job, or why not.
    ///
    /// # Errors
    ///
    /// The reason, as the end of "it cannot do this, because".
    pub fn can(&self, job: &Job) -> Result<(), String> {
        match self {
            Self::Relay { .. } | Self::RelayBefore { .. } | Self::TwoThreads | Self::Sendmmsg => {
                Ok(())
            }
            Self::Socat => udp::socat_can(job),
            Self::MulticastRouting { .. } => multicast_routing::can(job),
            Self::Testpmd => testpmd::can(job),
        }
    }

    /// What must be installed before it can start.
    pub fn missing(&self) -> Option<String> {
        let (program, package) = match self {
            Self::Relay { binary, .. } | Self::RelayBefore { binary } => {
                let advice = "build it: cargo xtask build";
                return (!binary.is_file())
                    .then(|| format!("there is no {}; {advice}", binary.display()));
            }
            Self::TwoThreads | Self::Sendmmsg => {
                return command::own(self.program()).err().map(|e| e.to_string());
            }
            Self::Socat => (udp::SOCAT, "socat"),
            Self::MulticastRouting { .. } => (multicast_routing::SMCROUTED, "smcroute"),
            Self::Testpmd => (testpmd::TESTPMD, "dpdk-dev librte-meta-net"),
        };
        (!on_path(program))
            .then(|| format!("{program} is not installed; on Debian: apt-get install {package}"))
    }

    /// The benchmark's own program of that contender.
    fn program(&self) -> &'static str {
        match self {
            Self::TwoThreads => "two-threads",
            _ => "sendmmsg-fanout",
        }
    }

    /// Starts it, and waits until it forwards.
    ///
    /// # Errors
    ///
    /// When it cannot do the job, is not there, or was not ready in time; with its log.
    pub fn start(&self, job: &Job) -> Result<Running> {
        self.can(job).map_err(|why| anyhow!("{why}"))?;
        if let Some(missing) = self.missing() {
            bail!("{missing}");
        }
        let links = Links::new(job)?;
        let active: Result<Box<dyn Active>> = match self {
            Self::Relay { binary, options } => relay::start(job, binary, options),
            Self::RelayBefore { binary } => relay::start(job, binary, &Options::default()),
            Self::TwoThreads | Self::Sendmmsg => udp::start_own(job, self.program()),
            Self::Socat => udp::start_socat(job),
            Self::MulticastRouting { threaded } => multicast_routing::start(job, *threaded),
            Self::Testpmd => testpmd::start(job),
        };
        let active = active.with_context(|| format!("starting {}", self.name()))?;
        Ok(Running { active, links })
    }
}

impl Running {
    /// Processes and kernel threads whose CPU time is the contender's. Empty where the kernel
    /// forwards in the time of another process.
    pub fn pids(&self) -> Vec<u32> {
        self.active.pids()
    }

    /// Ends the contender and says what was lost since it started: by its own account, by the
    /// kernel's for its sockets, and by its interfaces.
    ///
    /// # Errors
    ///
    /// When it does not end, or its account cannot be read.
    pub fn stop(self) -> Result<Lost> {
        let links = self.links.drops()?;
        let own = self.active.stop()?;
        Ok(Lost { own, links })
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("pids", &self.pids())
            .finish_non_exhaustive()
    }
}

/// Whether a program can be started by its name. smcrouted is in a folder that only root's PATH
/// has.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
