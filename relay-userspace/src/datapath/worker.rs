//! The seam between the backends: one worker, on either of them.
//!
//! The plan names the backend, and on XDP the mode to ask for. If the kernel refuses, the daemon
//! builds the plan anew without what was refused ([`crate::daemon`]).

use std::{
    collections::HashMap,
    os::fd::{BorrowedFd, RawFd},
    sync::{Arc, atomic::AtomicBool},
};

use super::{
    error::SetupError, next_hops::NextHops, output_link::Link, remote::Remote, stats::WorkerStats,
    uring, xdp,
};
use crate::{
    kernel::Kernel,
    plan::{self, Backend, InterfaceId, Mode, Plan},
};

/// One forwarding thread's state.
#[derive(Debug)]
pub enum Worker {
    /// AF_XDP sockets.
    Xdp(Box<xdp::XdpWorker>),
    /// Packet sockets and io_uring.
    IoUring(Box<uring::UringWorker>),
}

impl Worker {
    /// Forwards until `stop` is set, then forwards the frames that have arrived. A worker that
    /// `owns_cpu` looks for frames a while before it sleeps.
    pub fn run(&mut self, stop: &AtomicBool, owns_cpu: bool) {
        match self {
            Self::Xdp(worker) => worker.run(stop, owns_cpu),
            Self::IoUring(worker) => worker.run(stop, owns_cpu),
        }
    }

    /// One round of [`Self::run`]. Returns whether a frame arrived.
    pub fn poll_once(&mut self) -> bool {
        match self {
            Self::Xdp(worker) => worker.poll_once(),
            Self::IoUring(worker) => worker.poll_once(),
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

    /// The packet socket that it receives from, if it does. Valid as long as the worker lives.
    #[must_use]
    pub fn packet_socket(&self) -> Option<RawFd> {
        match self {
            Self::Xdp(_) => None,
            Self::IoUring(worker) => Some(worker.socket()),
        }
    }

    /// What it knows about the links that copies leave through, one per interface; the watcher
    /// keeps it up to date.
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
    /// What control changes it with while it runs.
    pub remote: Remote,
    /// The mode of its AF_XDP sockets, as the kernel reports it. `None` on io_uring.
    pub mode: Option<Mode>,
}

/// The fanouts of the interfaces whose flows several workers share, by the interface's id.
#[derive(Debug, Default)]
pub struct Fanouts(HashMap<InterfaceId, uring::Fanout>);

impl Fanouts {
    /// Lets `bound` share its input with the other workers that the plan gives it to. Returns
    /// whether it is the first of them.
    fn join(
        &mut self,
        plan: &Plan,
        worker: &plan::WorkerPlan,
        bound: &uring::UringWorker,
    ) -> Result<bool, SetupError> {
        let sharing = plan.workers.iter().filter(|one| one.input == worker.input);
        if let Some(input) = worker.input
            && sharing.count() > 1
        {
            let copies = bound.share(self.0.get(&input).copied())?;
            return Ok(self.0.insert(input, copies).is_none());
        }
        Ok(true)
    }
}

/// Binds a worker's sockets. `fanouts` is the same for all workers of a plan, and `next_hops` for
/// all of a relay.
///
/// # Errors
///
/// The first refusal; nothing stays bound.
pub fn bind(
    plan: &Plan,
    worker: &plan::WorkerPlan,
    kernel: &Kernel,
    fanouts: &mut Fanouts,
    next_hops: &Arc<NextHops>,
) -> Result<Bound, SetupError> {
    match worker.backend {
        Backend::Xdp => {
            let mode = worker.mode(plan);
            let chunks = xdp::chunk_count(worker, mode);
            let local = kernel.local_device();
            let (mut bound, remote) =
                xdp::XdpWorker::bind(plan, worker, mode, chunks, local, next_hops)?;
            if let Some(marks) = kernel.marks(Backend::Xdp) {
                bound.sample_latencies(marks);
            }
            Ok(Bound {
                // The kernel may have chosen another mode than the one asked for.
                mode: Some(bound.mode().unwrap_or(mode)),
                worker: Worker::Xdp(Box::new(bound)),
                remote,
            })
        }
        Backend::IoUring => {
            let attach = |socket: BorrowedFd<'_>| kernel.attach_filter(socket);
            let (mut bound, remote) =
                uring::UringWorker::bind(plan, worker, uring::BUFFERS, &attach, next_hops)?;
            let is_first = fanouts.join(plan, worker, &bound)?;
            if is_first && let Some(marks) = kernel.marks(Backend::IoUring) {
                bound.sample_latencies(marks);
            }
            Ok(Bound {
                worker: Worker::IoUring(Box::new(bound)),
                remote,
                mode: None,
            })
        }
    }
}
