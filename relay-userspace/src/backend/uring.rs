//! The io_uring loop, for interfaces without native XDP: collect, sort, post, submit.
//!
//! ```text
//!   packet socket --> buffers --> batch --> slots of each outlet --> submission queue --> kernel
//!   with a filter       ^                     | one hold a buffer                           |
//!                       +--- buffer ring <----+---------- last hold ends <-- completion ----+
//! ```
//!
//! One [`Worker`] is one thread with one ring and one input interface. Every message is gathered from a header of its
//! slot and payloads where they were received, so user space copies none. Nothing in [`Worker::run`] allocates, locks or
//! logs; docs/architecture.md lists the system calls that it makes.

pub mod buffers;
pub mod flights;
mod input;
mod io;
mod mapping;
mod outbox;
mod probe;
pub mod receive;
#[cfg(test)]
mod tests;

use std::{
    os::fd::{BorrowedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use self::{
    buffers::{Buffers, Held},
    input::Input,
    io::Io,
    outbox::Post,
    receive::{Arrival, Datagrams},
};
pub use self::{input::Fanout, probe::probe};
use super::{
    DRAIN, SPIN, SetupError, WAITING,
    batch::Batch,
    copies,
    flows::Flows,
    outlet::{self, Outlet},
};
use crate::{
    kernel::KernelError,
    link::Link,
    plan::{self, Plan},
    stats::WorkerStats,
};

/// Receive buffers. What arrives beyond them waits in the socket's own buffer.
pub const BUFFERS: u16 = 2048;
/// Frames of a batch. A super-frame is many.
const BATCH: usize = 1024;
/// Where the kernel brings as many frames at once as it ever does (`MULTISHOT_MAX_RETRY`, io_uring/net.c), more of them
/// are waiting.
const AT_ONCE: usize = 32;
/// So many frames are a batch, however many more are waiting. The rest of the buffers can be filled meanwhile.
const ENOUGH: usize = 1024;
/// How long a worker sleeps at most before it looks whether it should stop.
const IDLE: Duration = Duration::from_millis(100);
/// How long a stopping worker waits for frames that passed the filter and are not in its socket yet.
const LATE: Duration = Duration::from_millis(2);
/// How often in a row the receive may end without a frame before the worker sleeps in between.
const PATIENCE: u32 = 8;

/// One forwarding thread's state: ring, buffers, flows.
#[derive(Debug)]
pub struct Worker {
    io: Io,
    buffers: Buffers,
    /// The kernel's index of the input interface.
    input: u32,
    flows: Flows,
    batch: Batch<Held>,
    /// What is being read. Its capacity is the number of buffers.
    reading: Vec<Arrival>,
    /// How often in a row the receive has ended without a frame.
    failures: u32,
    stats: Arc<WorkerStats>,
}

impl Worker {
    /// Makes the ring and opens the sockets of `worker`, with so many receive `buffers`, a power of two. `attach` puts the
    /// socket filter on the socket that receives, before it is bound.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn bind(
        plan: &Plan,
        worker: &plan::Worker,
        buffers: u16,
        attach: &dyn Fn(BorrowedFd<'_>) -> Result<(), KernelError>,
    ) -> Result<Self, SetupError> {
        let completions = completions(worker, buffers);
        Self::with_ring(completions, plan, worker, buffers, attach)
    }

    /// The same with so many entries of the completion queue.
    fn with_ring(
        completions: u32,
        plan: &Plan,
        worker: &plan::Worker,
        buffers: u16,
        attach: &dyn Fn(BorrowedFd<'_>) -> Result<(), KernelError>,
    ) -> Result<Self, SetupError> {
        let outlets = Outlet::open_all(plan, worker)?;
        let Some(input) = worker.input.and_then(|at| plan.interfaces.get(at)) else {
            return Err(SetupError::NoInput);
        };
        let ring = io::ring(completions).map_err(probe::explain)?;
        // SAFETY: `Drop` closes nothing before the kernel is done with the buffers, or leaks them.
        let buffers =
            unsafe { Buffers::provide(&ring, buffers) }.map_err(|error| SetupError::IoUring {
                what: "providing receive buffers",
                error,
                remedy: "memory is short: raise `ulimit -l`, or give `cpus` fewer CPUs".into(),
            })?;
        let socket = Input::open(input, attach)?;
        let flows = Flows::new(plan, worker);
        let stats = super::stats(plan, worker, buffers.total());
        let worker = Self {
            reading: Vec::with_capacity(buffers.total() as usize),
            io: Io::new(ring, socket, outlets, &buffers),
            buffers,
            input: input.index,
            batch: Batch::new(BATCH, flows.len()),
            flows,
            failures: 0,
            stats,
        };
        worker.publish_buffers();
        Ok(worker)
    }

    /// Shares the input's flows with the other workers of the group, which it founds if there is none yet.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn share(&self, group: Option<Fanout>) -> Result<Fanout, SetupError> {
        self.io.join(group)
    }

    /// The counters, which stay readable while the worker runs and after it ended.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The socket that receives, for its statistics; valid as long as the worker lives.
    #[must_use]
    pub fn socket(&self) -> RawFd {
        self.io.input()
    }

    /// What it knows of the links that copies leave by.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> {
        let outlets = self.io.outlets.iter();
        self.flows.links().chain(outlets.map(Outlet::link))
    }

    /// Forwards until `stop` is set, then forwards what has arrived, waits a moment for sends on their way, and counts
    /// those that stay. A worker that `owns_cpu` looks for frames a while before it sleeps.
    pub fn run(&mut self, stop: &AtomicBool, owns_cpu: bool) {
        let mut idle_since: Option<Instant> = None;
        while !stop.load(Relaxed) {
            if self.turn() {
                idle_since = None;
            } else if owns_cpu && idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                while !self.io.has_work() && idle_since.is_some_and(|since| since.elapsed() < SPIN)
                {
                    std::hint::spin_loop();
                }
            } else if outlet::any_waits(&self.io.outlets) {
                self.sleep(WAITING);
            } else {
                self.sleep(IDLE);
            }
        }
        self.end();
    }

    /// One round: submits what the last one posted, takes what has arrived, and posts its copies. Returns whether a
    /// frame came in. The first call makes the ring the calling thread's.
    pub fn turn(&mut self) -> bool {
        self.io.arm();
        loop {
            let before = self.io.arrivals.len();
            self.io.enter();
            self.io.collect(&self.buffers, &self.stats);
            let now = self.io.arrivals.len();
            if now < before + AT_ONCE || now >= ENOUGH {
                break;
            }
        }
        let busy = !self.io.arrivals.is_empty();
        outlet::retry_all(&mut self.io.outlets, &self.stats.outputs);
        self.forward();
        if busy {
            self.failures = 0;
        } else if self.io.must_arm() {
            self.failures += 1;
            return self.failures < PATIENCE;
        }
        busy
    }

    /// Posts the copies of what has arrived.
    fn forward(&mut self) {
        self.flows.follow_links();
        std::mem::swap(&mut self.io.arrivals, &mut self.reading);
        let Self {
            io,
            buffers,
            input,
            flows,
            batch,
            reading,
            stats,
            ..
        } = self;
        for arrival in reading.drain(..) {
            let datagrams = Datagrams::read(&arrival, *input, io.message(), buffers, flows, stats);
            if let Some(mut datagrams) = datagrams {
                while let Some(frame) = datagrams.next(&arrival.held, buffers) {
                    batch.add(frame, buffers, flows, stats);
                    if batch.is_full() {
                        post(io, buffers, flows, batch, stats);
                    }
                }
            }
            buffers.release(arrival.held);
        }
        post(io, buffers, flows, batch, stats);
        self.publish_buffers();
    }

    fn publish_buffers(&self) {
        let chunks = &self.stats.chunks;
        chunks.fill.set(self.buffers.provided());
        chunks.in_flight.set(self.buffers.held());
        self.stats.ring.refusals.set(self.io.refusals());
    }

    /// Waits for a completion.
    fn sleep(&mut self, at_most: Duration) {
        if !self.io.wait(at_most) {
            // It comes back at once, and would be called for ever.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Forwards what has arrived, ends the receive, and counts what the kernel does not send.
    fn end(&mut self) {
        let deadline = Instant::now() + DRAIN;
        let late = |worker: &mut Self| {
            worker.sleep(LATE);
            worker.turn()
        };
        while (self.turn() || late(self)) && Instant::now() < deadline {}
        self.io.cancel();
        self.finish(deadline);
        self.io.abandon(&self.stats);
        self.publish_buffers();
    }

    /// Works until the kernel is done with everything, or until `deadline`.
    fn finish(&mut self, deadline: Instant) {
        while (self.io.is_busy() || outlet::any_waits(&self.io.outlets))
            && Instant::now() < deadline
        {
            self.sleep(if self.io.is_busy() { LATE } else { WAITING });
            self.io.collect(&self.buffers, &self.stats);
            outlet::retry_all(&mut self.io.outlets, &self.stats.outputs);
            self.forward();
        }
    }
}

impl Drop for Worker {
    /// Nothing is unmapped that the kernel may write to still. Unless a defect ended the worker, it is done already.
    fn drop(&mut self) {
        self.io.cancel();
        self.finish(Instant::now() + DRAIN);
        if self.io.is_busy() {
            self.buffers.leak();
            self.io.leak();
        }
    }
}

/// Entries of the completion queue: one for every buffer, every slot, and the ends of the receive, so that it never
/// overflows.
fn completions(worker: &plan::Worker, buffers: u16) -> u32 {
    u32::from(buffers) + worker.senders.len() as u32 * flights::PER_OUTLET + 8
}

/// Posts the copies of a batch, and ends it: what lies in its buffers is held by the messages alone.
#[inline]
fn post(
    io: &mut Io,
    buffers: &Buffers,
    flows: &Flows,
    batch: &mut Batch<Held>,
    stats: &WorkerStats,
) {
    for outlet in 0..io.outlets.len() {
        let mut outbox = Post::new(io, outlet, stats);
        copies::make(outlet, batch, flows, buffers, stats, &mut outbox);
    }
    for frame in batch.end() {
        buffers.release(frame.place);
    }
}
