//! The io_uring loop, for interfaces without native XDP: receive, sort, send, give back.

use std::{
    os::fd::{BorrowedFd, RawFd},
    sync::{Arc, atomic::AtomicBool},
};

use super::SetupError;
use crate::{
    device_drops::Cut,
    kernel::KernelError,
    plan::{self, Plan},
    stats::WorkerStats,
};

/// Whether this kernel and this sandbox let the process use io_uring.
///
/// # Errors
///
/// What forbids it.
pub fn probe() -> Result<(), SetupError> {
    Ok(())
}

/// One forwarding thread's state.
#[derive(Debug)]
pub struct Worker {
    stats: Arc<WorkerStats>,
}

impl Worker {
    /// Opens the sockets of `worker`. `attach` puts the socket filter on the one that receives, before it is bound.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn bind(
        _plan: &Plan,
        _worker: &plan::Worker,
        _attach: &dyn Fn(BorrowedFd<'_>) -> Result<(), KernelError>,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            stats: Arc::new(WorkerStats::new(0, 0)),
        })
    }

    /// The counters, which stay readable while the worker runs and after it ended.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The socket that receives, for its statistics; valid as long as the worker lives.
    #[must_use]
    pub fn socket(&self) -> RawFd {
        -1
    }

    /// What it believes of the devices that copies leave by, in the order of [`plan::Worker::senders`].
    pub fn devices(&self) -> impl Iterator<Item = Arc<Cut>> {
        std::iter::empty()
    }

    /// Forwards until `stop` is set, then forwards what has arrived.
    pub fn run(&mut self, _stop: &AtomicBool, _owns_cpu: bool) {}
}
