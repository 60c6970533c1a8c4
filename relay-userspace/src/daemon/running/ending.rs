//! Waits for workers that were asked to end, but not for ever: nothing can end the thread of one
//! that hangs.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{drain, worker::RunningWorker};

/// How long workers may take to end. They need 0.2 s at most for what is on its way; the rest is
/// for a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Asks all `workers` to end, and waits for them. Returns the numbers of those that hang.
pub fn hanging(workers: &[RunningWorker]) -> BTreeSet<usize> {
    workers.iter().for_each(RunningWorker::halt);
    let deadline = Instant::now() + PATIENCE;
    drain::wait(deadline, || workers.iter().all(RunningWorker::has_ended));
    let hang = workers.iter().filter(|worker| !worker.has_ended());
    hang.map(|worker| worker.number).collect()
}
