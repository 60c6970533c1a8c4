//! The seam: what moves the frames of a worker, and the ladder that chooses it.
//!
//! Zero copy is tried where the drivers of all interfaces that a worker binds sockets on promise it: they
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

use log::warn;

pub use self::error::SetupError;
use self::xdp::Worker;
use crate::plan::{self, Mode, Plan};

/// A worker with its sockets bound.
#[derive(Debug)]
pub struct Bound {
    /// The worker.
    pub worker: Worker,
    /// What it was bound for: the planned one, or that in copy mode.
    pub planned: plan::Worker,
    /// The mode that the kernel confirmed.
    pub mode: Mode,
    /// Why it is that mode.
    pub reason: String,
}

/// Binds a worker's sockets by the best mode to be had.
///
/// # Errors
///
/// When the last rung of the ladder is refused as well.
pub fn bind(plan: &Plan, worker: &plan::Worker) -> Result<Bound, SetupError> {
    let mut without: Vec<String> = worker
        .ports
        .iter()
        .filter_map(|port| plan.interfaces.get(port.interface))
        .filter(|interface| !interface.zero_copy)
        .map(|interface| format!("{} ({})", interface.name, interface.driver))
        .collect();
    without.dedup();
    let reason = match &without[..] {
        [] => match Worker::bind(plan, worker, Mode::ZeroCopy, xdp::chunk_count(worker)) {
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
    let bound = Worker::bind(plan, &worker, Mode::Copy, xdp::chunk_count(&worker))?;
    Ok(confirm(bound, worker, reason))
}

/// Asks the kernel which mode it is: a promise is not enough.
fn confirm(worker: Worker, planned: plan::Worker, reason: String) -> Bound {
    let (mode, reason) = match worker.mode() {
        Ok(mode) => (mode, reason),
        Err(error) => (
            Mode::Copy,
            format!("{reason}; the kernel does not tell the mode ({error})"),
        ),
    };
    Bound {
        worker,
        planned,
        mode,
        reason,
    }
}
