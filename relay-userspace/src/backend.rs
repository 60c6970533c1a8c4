//! The seam: what moves the frames of a worker.
//!
//! The plan says which backend it is, and on XDP which mode to ask for. Where the kernel refuses, the plan is built
//! anew without ([`crate::run`]).

mod backlog;
pub mod batch;
pub mod copies;
mod error;
pub mod flows;
pub mod head;
pub mod outlet;
pub mod sockopt;
pub mod uring;
pub mod xdp;

use std::{
    collections::HashMap,
    os::fd::RawFd,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

pub use self::error::SetupError;
use crate::{
    kernel::Kernel,
    link::Link,
    plan::{self, Backend, Mode, Plan},
    stats::WorkerStats,
};

/// How long a worker with a CPU of its own looks for frames before it sleeps. Waking up costs tens of
/// microseconds, which a feed of 5,000 frames a second and more is spared by this; slower ones are not worth
/// a busy CPU.
const SPIN: Duration = Duration::from_micros(200);
/// How long a worker sleeps while copies wait that a full TX ring has refused: neither `poll` nor a
/// completion tells when there is room.
const WAITING: Duration = Duration::from_micros(200);
/// How long a stopping worker forwards what has arrived, and waits for frames on their way.
const DRAIN: Duration = Duration::from_millis(200);

/// One forwarding thread's state.
#[derive(Debug)]
pub enum Worker {
    /// By AF_XDP sockets.
    Xdp(Box<xdp::Worker>),
    /// By packet sockets.
    IoUring(Box<uring::Worker>),
}

/// The sockets that a worker receives by, for what the kernel drops in front of them. Valid as long as the worker lives.
#[derive(Debug, Clone)]
pub enum Receivers {
    /// AF_XDP sockets.
    Xdp(Vec<RawFd>),
    /// A packet socket.
    IoUring(RawFd),
}

impl Worker {
    /// Forwards until `stop` is set, then forwards what has arrived. A worker that `owns_cpu` looks for frames a while
    /// before it sleeps.
    pub fn run(&mut self, stop: &AtomicBool, owns_cpu: bool) {
        match self {
            Self::Xdp(worker) => worker.run(stop, owns_cpu),
            Self::IoUring(worker) => worker.run(stop, owns_cpu),
        }
    }

    /// One round of [`Self::run`]. Returns whether a frame came in.
    pub fn turn(&mut self) -> bool {
        match self {
            Self::Xdp(worker) => worker.turn(),
            Self::IoUring(worker) => worker.turn(),
        }
    }

    /// The counters, which stay readable while the worker runs and after it ended.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        match self {
            Self::Xdp(worker) => worker.stats(),
            Self::IoUring(worker) => worker.stats(),
        }
    }

    /// The sockets that it receives by.
    #[must_use]
    pub fn receivers(&self) -> Receivers {
        match self {
            Self::Xdp(worker) => Receivers::Xdp(worker.receiving_sockets().map(|s| s.fd).collect()),
            Self::IoUring(worker) => Receivers::IoUring(worker.socket()),
        }
    }

    /// What it knows of the links that copies leave by, to be kept true by whoever watches them. Several may be of one
    /// interface.
    #[must_use]
    pub fn links(&self) -> Vec<Arc<Link>> {
        match self {
            Self::Xdp(worker) => worker.links().collect(),
            Self::IoUring(worker) => worker.links().collect(),
        }
    }
}

/// A worker with its sockets bound.
#[derive(Debug)]
pub struct Bound {
    /// The worker.
    pub worker: Worker,
    /// The mode of its AF_XDP sockets, as the kernel tells it. `None` on io_uring.
    pub mode: Option<Mode>,
}

/// The interfaces whose flows several workers share, by position in [`Plan::interfaces`].
#[derive(Debug, Default)]
pub struct Fanouts(HashMap<usize, uring::Fanout>);

impl Fanouts {
    /// Has `bound` share its input with the other workers that the plan gives it to.
    fn join(
        &mut self,
        plan: &Plan,
        worker: &plan::Worker,
        bound: &uring::Worker,
    ) -> Result<(), SetupError> {
        let sharing = plan.workers.iter().filter(|one| one.input == worker.input);
        if let Some(input) = worker.input
            && sharing.count() > 1
        {
            let group = bound.share(self.0.get(&input).copied())?;
            self.0.insert(input, group);
        }
        Ok(())
    }
}

/// Zeros for `worker`, which has so many chunks or receive buffers.
fn stats(plan: &Plan, worker: &plan::Worker, chunks: u64) -> Arc<WorkerStats> {
    let flows = worker.flows.iter().filter_map(|&at| plan.flows.get(at));
    let outputs = flows.map(|flow| flow.outputs.len()).sum();
    let stats = WorkerStats::new(worker.flows.len(), outputs);
    stats.chunks.total.set(chunks);
    Arc::new(stats)
}

/// Binds a worker's sockets. `fanouts` is the same for all workers of a plan.
///
/// # Errors
///
/// The first refusal; nothing stays bound.
pub fn bind(
    plan: &Plan,
    worker: &plan::Worker,
    kernel: &Kernel,
    fanouts: &mut Fanouts,
) -> Result<Bound, SetupError> {
    match worker.backend {
        Backend::Xdp => {
            let mode = worker.mode(plan);
            let chunks = xdp::chunk_count(worker, mode);
            let bound = xdp::Worker::bind(plan, worker, mode, chunks)?;
            Ok(Bound {
                // Asked for is not enough.
                mode: Some(bound.mode().unwrap_or(mode)),
                worker: Worker::Xdp(Box::new(bound)),
            })
        }
        Backend::IoUring => {
            let bound = uring::Worker::bind(plan, worker, uring::BUFFERS, &|socket| {
                kernel.attach_filter(socket)
            })?;
            fanouts.join(plan, worker, &bound)?;
            Ok(Bound {
                worker: Worker::IoUring(Box::new(bound)),
                mode: None,
            })
        }
    }
}
