//! The seam: what moves the frames of a worker, and the ladder of modes on XDP.
//!
//! The plan says which backend it is. On XDP, zero copy is tried where the drivers of all interfaces that a worker binds sockets on promise it: they
//! share one UMEM, and a UMEM is one or the other. Otherwise, and where the kernel refuses, the worker runs in
//! copy mode, and its copies leave by what is fastest then. Which it is, and why, is logged and reported.

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
};

use log::warn;

pub use self::error::SetupError;
use crate::{
    device_drops::Cut,
    kernel::Kernel,
    plan::{self, Backend, Mode, Plan},
    stats::WorkerStats,
};

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

    /// What it believes of the devices that copies leave by through packet sockets, in the order of
    /// [`plan::Worker::senders`].
    #[must_use]
    pub fn devices(&self) -> Vec<Arc<Cut>> {
        match self {
            Self::Xdp(worker) => worker.segmented_devices().collect(),
            Self::IoUring(worker) => worker.devices().collect(),
        }
    }
}

/// A worker with its sockets bound.
#[derive(Debug)]
pub struct Bound {
    /// The worker.
    pub worker: Worker,
    /// What it was bound for: the planned one, or that in copy mode.
    pub planned: plan::Worker,
    /// The mode of its AF_XDP sockets that the kernel confirmed, and why it is that one. `None` on io_uring.
    pub mode: Option<(Mode, String)>,
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

/// Binds a worker's sockets, on XDP by the best mode to be had. `fanouts` is the same for all workers of a plan.
///
/// # Errors
///
/// When the last rung of the ladder is refused as well.
pub fn bind(
    plan: &Plan,
    worker: &plan::Worker,
    kernel: &Kernel,
    fanouts: &mut Fanouts,
) -> Result<Bound, SetupError> {
    match worker.backend {
        Backend::Xdp => bind_xdp(plan, worker),
        Backend::IoUring => {
            let bound = uring::Worker::bind(plan, worker, uring::BUFFERS, &|socket| {
                kernel.attach_filter(socket)
            })?;
            fanouts.join(plan, worker, &bound)?;
            Ok(Bound {
                worker: Worker::IoUring(Box::new(bound)),
                planned: worker.clone(),
                mode: None,
            })
        }
    }
}

fn bind_xdp(plan: &Plan, worker: &plan::Worker) -> Result<Bound, SetupError> {
    let mut without: Vec<String> = worker
        .ports
        .iter()
        .filter_map(|port| plan.interfaces.get(port.interface))
        .filter(|interface| !interface.zero_copy)
        .map(|interface| format!("{} ({})", interface.name, interface.driver))
        .collect();
    without.dedup();
    let reason = match &without[..] {
        [] => match xdp::Worker::bind(plan, worker, Mode::ZeroCopy, xdp::chunk_count(worker)) {
            Ok(bound) => {
                return Ok(confirm(
                    bound,
                    worker.clone(),
                    "all drivers offer it".into(),
                ));
            }
            Err(error) => {
                warn!("{error}; trying copy mode");
                format!("zero copy was refused: {error}")
            }
        },
        without => format!("there is no zero copy on {}", without.join(", ")),
    };
    let worker = worker.in_copy_mode(plan);
    let bound = xdp::Worker::bind(plan, &worker, Mode::Copy, xdp::chunk_count(&worker))?;
    Ok(confirm(bound, worker, reason))
}

/// Asks the kernel which mode it is: a promise is not enough.
fn confirm(worker: xdp::Worker, planned: plan::Worker, reason: String) -> Bound {
    let (mode, reason) = match worker.mode() {
        Ok(mode) => (mode, reason),
        Err(error) => (
            Mode::Copy,
            format!("{reason}; the kernel does not tell the mode ({error})"),
        ),
    };
    Bound {
        worker: Worker::Xdp(Box::new(worker)),
        planned,
        mode: Some((mode, reason)),
    }
}
