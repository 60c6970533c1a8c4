//! Waiting for workers: until they have dealt with what had been matched, until they have taken a
//! new flow table, and until the ports are closed that they have lost.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::worker::RunningWorker;

/// How often control looks.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// How long frames that had been matched may take to be dealt with.
const DRAINED: Duration = Duration::from_millis(250);
/// How long a frame takes from the kernel program into the socket, and more.
const MATCHED: Duration = Duration::from_millis(1);
/// How long the copies in a port may take to leave before it is closed, and the worker to hand it
/// back.
const CLOSED: Duration = Duration::from_millis(500);
/// How long a worker may take to take its table. One that takes longer hangs.
const TAKEN: Duration = Duration::from_secs(2);

/// Waits until every frame that the kernel had matched before the call is in a socket: a program
/// hands its frames over at the end of the softirq that it runs in.
pub fn frames_in_sockets() {
    thread::sleep(MATCHED);
}

/// Waits until `workers` have dealt with every frame that is in their sockets at the call. What is
/// left after [`DRAINED`] is counted by the worker as `no_rule`.
pub fn matched_frames(workers: &[&RunningWorker]) {
    let marks: Vec<_> = workers.iter().map(|one| one.remote.mark()).collect();
    let deadline = Instant::now() + DRAINED;
    wait(deadline, || {
        let working = workers.iter().zip(&marks);
        let working = working.filter(|(one, mark)| !one.has_ended() && !one.remote.drained(mark));
        // An empty round counts, and a worker that sleeps makes none.
        working.inspect(|(one, _)| one.remote.wake()).count() == 0
    });
}

/// Waits until all of `workers` have taken the tables that they were sent. Returns the number of
/// one that did not, if any.
pub fn tables_taken(workers: &mut [RunningWorker]) -> Option<usize> {
    let deadline = Instant::now() + TAKEN;
    let mut late = None;
    wait(deadline, || {
        let mut waiting = workers.iter_mut();
        let waiting = waiting.find_map(|one| {
            let waits = !one.has_ended() && !one.remote.is_taken();
            waits.then_some(one.number)
        });
        late = waiting;
        late.is_none()
    });
    late
}

/// Waits until the ports that `workers` have lost are closed. One that hands them back later closes
/// them later.
pub fn ports_closed(workers: &mut [RunningWorker]) {
    let deadline = Instant::now() + CLOSED;
    wait(deadline, || {
        // Of all workers, not only up to the first that still has some.
        let mut closed = true;
        for worker in &mut *workers {
            closed &= worker.has_ended() || worker.remote.close_ports();
        }
        closed
    });
}

pub(super) fn wait(deadline: Instant, mut done: impl FnMut() -> bool) {
    while !done() && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
    }
}
