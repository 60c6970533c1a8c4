//! The workers' threads, and their counters, which other threads read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use super::{
    affinity::{self, Home},
    error::RunError,
};
use crate::{
    datapath::{Worker, socket_drops::SocketCounter, stats::WorkerStats},
    plan::Plan,
};

/// A worker's thread, and its counters, which other threads read.
pub struct Thread {
    /// Returns the worker, so that its sockets stay open until the counters are read.
    pub handle: JoinHandle<Worker>,
    /// Its counters.
    pub stats: Arc<WorkerStats>,
    /// Frames that the kernel drops in front of it.
    pub drops: SocketCounter,
    /// The log says already that it ended because of a defect.
    pub reported_dead: bool,
}

/// Starts one thread per worker.
///
/// # Errors
///
/// The kernel refuses a thread; those that run already are stopped.
pub fn start(
    plan: &Plan,
    workers: Vec<Worker>,
    halt: &Arc<AtomicBool>,
) -> Result<Vec<Thread>, RunError> {
    let mut threads: Vec<Thread> = Vec::with_capacity(workers.len());
    let homes = affinity::homes(plan);
    for (number, (mut worker, home)) in workers.into_iter().zip(homes).enumerate() {
        let stats = worker.stats();
        let drops = SocketCounter::new(worker.receivers());
        let own_halt = Arc::clone(halt);
        let handle = thread::Builder::new()
            .name(format!("relay-worker-{number}"))
            .spawn(move || {
                if let Some(home) = home {
                    home.settle(number);
                }
                worker.run(&own_halt, home.is_some_and(Home::is_own));
                worker
            });
        match handle {
            Ok(handle) => threads.push(Thread {
                handle,
                stats,
                drops,
                reported_dead: false,
            }),
            Err(error) => {
                halt.store(true, Relaxed);
                for thread in threads {
                    let _ = thread.handle.join();
                }
                return Err(RunError::System {
                    what: "start a worker's thread",
                    error,
                });
            }
        }
    }
    Ok(threads)
}
