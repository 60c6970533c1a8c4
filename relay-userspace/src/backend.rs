//! The seam: what moves the frames of a worker, and the ladder that chooses it.
//!
//! Zero copy is tried where the drivers of all of a worker's interfaces promise it: its ports share one
//! UMEM, and a UMEM is one or the other. Otherwise, and where the kernel refuses, the worker runs in copy
//! mode. Which it is, and why, is logged and reported.

pub mod xdp;

use log::warn;

use crate::plan::{self, Mode, Plan};
use xdp::{SetupError, Worker};

/// A worker with its sockets bound.
#[derive(Debug)]
pub struct Bound {
    /// The worker.
    pub worker: Worker,
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
    let chunks = xdp::chunk_count(worker);
    let mut without: Vec<String> = worker
        .ports
        .iter()
        .filter_map(|port| plan.interfaces.get(port.interface))
        .filter(|interface| !interface.zero_copy)
        .map(|interface| format!("{} ({})", interface.name, interface.driver))
        .collect();
    without.dedup();
    let reason = match &without[..] {
        [] => match Worker::bind(plan, worker, Mode::ZeroCopy, chunks) {
            Ok(bound) => return Ok(confirm(bound, "all drivers offer it".into())),
            Err(error) => {
                warn!("{error}; trying copy mode");
                format!("zero copy was refused: {error}")
            }
        },
        without => format!("there is no zero copy on {}", without.join(", ")),
    };
    Worker::bind(plan, worker, Mode::Copy, chunks).map(|worker| confirm(worker, reason))
}

/// Asks the kernel which mode it is: a promise is not enough.
fn confirm(worker: Worker, reason: String) -> Bound {
    match worker.mode() {
        Ok(mode) => Bound {
            worker,
            mode,
            reason,
        },
        Err(error) => Bound {
            worker,
            mode: Mode::Copy,
            reason: format!("{reason}; the kernel does not tell the mode ({error})"),
        },
    }
}
