//! The io_uring loop, for interfaces without native XDP: collect, sort, post, submit.
//!
//! ```text
//!   RX socket --> buffers --> batch --> slots of each TX socket --> submission queue --> kernel
//!   with a filter   ^                     | one hold per buffer                         |
//!                   +--- buffer ring <----+---------- last hold ends <-- completion ----+
//! ```
//!
//! One [`UringWorker`] is one thread with one ring and one input interface. The kernel gathers
//! every message from a header in its slot and payloads where they were received, so user space
//! copies none. Nothing in [`UringWorker::run`] allocates, locks or logs; docs/architecture.md
//! lists the system calls that it makes.

pub mod buffers;
mod outbox;
mod probe;
pub mod receive;
mod ring;
mod rx_socket;
pub mod send_slots;
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
    outbox::Post,
    receive::{Arrival, Datagrams},
    ring::Ring,
    rx_socket::RxSocket,
};
pub use self::{probe::probe, rx_socket::Fanout};
use super::{
    batch::Batch,
    change::Inbox,
    error::SetupError,
    flow_table::Flows,
    gso_packets,
    latency::Sampler,
    next_hops::NextHops,
    output_link::Link,
    remote::{Holds, Remote},
    stats::WorkerStats,
    timings::{DRAIN, SPIN, WAITING},
    tx_socket, watched,
};
use crate::{
    host::limits,
    kernel::{KernelError, Marks},
    plan::{self, Plan},
};

/// Receive buffers. Frames that arrive beyond them wait in the socket's own buffer.
pub const BUFFERS: u16 = 2048;
/// Datagrams of a batch. A GSO packet has many.
const BATCH: usize = 1024;
/// The most frames that the kernel ever brings at once (`MULTISHOT_MAX_RETRY`, io_uring/net.c): if
/// it brings that many, more are waiting.
const AT_ONCE: usize = 32;
/// From this many frames on the worker forwards, however many more are waiting. The kernel can fill
/// the rest of the buffers meanwhile.
const ENOUGH: usize = 1024;
/// The longest that a worker sleeps before it checks whether it should stop.
const IDLE: Duration = Duration::from_millis(100);
/// How long a stopping worker waits for frames that passed the filter and are not in its socket
/// yet.
const LATE: Duration = Duration::from_millis(2);
/// More frames and GSO packets than an RX socket holds. It holds 16 MiB, and the kernel counts more
/// than 512 bytes for the shortest frame (`SKB_TRUESIZE`, include/linux/skbuff.h).
const SOCKET_HOLDS: u64 = (16 << 20) / 512;
/// How often in a row the receive may end without a frame before the worker sleeps in between, and
/// for how long.
const PATIENCE: u32 = 8;
const FAILED: Duration = Duration::from_millis(1);

/// One forwarding thread's state: ring, buffers, flows.
#[derive(Debug)]
pub struct UringWorker {
    inbox: Inbox,
    ring: Ring,
    buffers: Buffers,
    /// The kernel's index of the input interface.
    input: u32,
    flows: Flows,
    batch: Batch<Held>,
    /// The arrivals that are being read. Its capacity is the number of buffers.
    reading: Vec<Arrival>,
    sampler: Sampler,
    /// Where the kernel program marks frames, for their latencies.
    marks: Option<Arc<Marks>>,
    /// How often in a row the receive has ended without a frame.
    failures: u32,
    /// It has counted what has not left: nothing leaves any more.
    ended: bool,
    stats: Arc<WorkerStats>,
}

impl UringWorker {
    /// Makes the ring and opens the sockets of `worker`, with `buffers` receive buffers, a power of
    /// two. `attach` puts the socket filter on the RX socket, before it is bound. Returns the
    /// worker, and what control changes it with.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn bind(
        plan: &Plan,
        worker: &plan::WorkerPlan,
        buffers: u16,
        attach: &dyn Fn(BorrowedFd<'_>) -> Result<(), KernelError>,
        next_hops: &Arc<NextHops>,
    ) -> Result<(Self, Remote), SetupError> {
        let completions = completions(worker, buffers);
        Self::with_ring(completions, plan, worker, buffers, attach, next_hops)
    }

    /// The same, with `completions` entries in the completion queue.
    fn with_ring(
        completions: u32,
        plan: &Plan,
        worker: &plan::WorkerPlan,
        buffers: u16,
        attach: &dyn Fn(BorrowedFd<'_>) -> Result<(), KernelError>,
        next_hops: &Arc<NextHops>,
    ) -> Result<(Self, Remote), SetupError> {
        let holds = Holds::Arrivals(SOCKET_HOLDS);
        let (remote, first) = Remote::new(plan, worker, holds, None, None, next_hops)?;
        let Some(input) = worker.input.and_then(|at| plan.interfaces.get(at)) else {
            return Err(SetupError::NoInput);
        };
        let ring = ring::ring(completions).map_err(probe::explain)?;
        // SAFETY: `Drop` waits until the kernel is done with the buffers, or leaks them.
        let buffers =
            unsafe { Buffers::provide(&ring, buffers) }.map_err(|error| SetupError::IoUring {
                what: "providing receive buffers",
                error,
                remedy: format!(
                    "; memory is short: raise `ulimit -l`, or give `cpus` fewer CPUs{}",
                    limits::of_addresses()
                ),
            })?;
        let socket = RxSocket::open(input, attach)?;
        first.stats.chunks.total.set(buffers.total());
        let worker = Self {
            reading: Vec::with_capacity(buffers.total() as usize),
            sampler: Sampler::new(input.index, 0),
            marks: None,
            ring: Ring::new(ring, socket, first.tx_sockets, &buffers, first.inbox.bell()),
            inbox: first.inbox,
            buffers,
            input: input.index,
            batch: Batch::new(BATCH, first.open),
            flows: first.flows,
            failures: 0,
            ended: false,
            stats: first.stats,
        };
        worker.publish_buffers();
        Ok((worker, remote))
    }

    /// Joins the fanout that shares the input's flows among workers, or founds it if there is none
    /// yet.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn share(&self, fanout: Option<Fanout>) -> Result<Fanout, SetupError> {
        self.ring.join(fanout)
    }

    /// Samples latencies, by these marks. If several workers share an input, only one of them may.
    pub fn sample_latencies(&mut self, marks: Arc<Marks>) {
        self.marks = Some(marks);
    }

    /// The counters, which stay readable while the worker runs and after it ended.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The RX socket, for its statistics; valid as long as the worker lives.
    #[must_use]
    pub fn socket(&self) -> RawFd {
        self.ring.input()
    }

    /// What it knows about the links that copies leave through.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> {
        self.flows.links()
    }

    /// Forwards until `stop` is set, then forwards the frames that have arrived, waits a moment for
    /// sends on their way, and counts what stays. A worker that `owns_cpu` looks for frames a while
    /// before it sleeps.
    pub fn run(&mut self, stop: &AtomicBool, owns_cpu: bool) {
        let mut idle_since: Option<Instant> = None;
        while !stop.load(Relaxed) {
            if self.poll_once() {
                idle_since = None;
            } else if owns_cpu && idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                while !self.ring.has_work()
                    && idle_since.is_some_and(|since| since.elapsed() < SPIN)
                {
                    std::hint::spin_loop();
                }
            } else if self.ring.must_arm() {
                // Nothing is received meanwhile, so nothing would end the sleep.
                std::thread::sleep(FAILED);
            } else if tx_socket::any_waits(self.ring.tx_sockets()) {
                self.sleep(WAITING);
            } else {
                self.sleep(IDLE);
            }
        }
        self.end(Instant::now() + DRAIN);
    }

    /// One round: submits the sends that the last one posted, takes the frames that have arrived,
    /// and posts their copies. Returns whether a frame arrived. The first call ties the ring to the
    /// calling thread.
    pub fn poll_once(&mut self) -> bool {
        self.ring.arm();
        loop {
            let before = self.ring.arrivals.len();
            self.ring.enter();
            self.ring.collect(&self.buffers, &self.stats);
            let now = self.ring.arrivals.len();
            if now < before + AT_ONCE || now >= ENOUGH {
                break;
            }
        }
        // What the last round has posted.
        self.sampler.handed_over(&self.stats.latencies);
        let busy = !self.ring.arrivals.is_empty();
        if self.inbox.calls() {
            self.attend();
        }
        tx_socket::retry_all(self.ring.tx_sockets_mut(), &self.stats.outputs);
        self.forward();
        self.stats.progress.rounds.add(1);
        if busy {
            self.failures = 0;
        } else if self.ring.must_arm() {
            self.failures += 1;
            return self.failures < PATIENCE;
        } else {
            // The kernel receives, and has nothing.
            self.stats.progress.empty_rounds.add(1);
        }
        busy
    }

    /// Takes a change, if there is one, and sees whether the last one has settled. No batch is
    /// open: what has arrived was not read yet. Called right after the kernel has taken what the
    /// last round posted, and so, as it takes or refuses every send at once, while no send is in
    /// flight. Should one be, the change waits for the next round: then nothing in flight refers to
    /// a TX socket or a send slot by its position.
    #[cold]
    fn attend(&mut self) {
        if self.ring.sends() {
            return;
        }
        let Self {
            inbox,
            ring,
            flows,
            batch,
            stats,
            ..
        } = self;
        inbox.take(None, |change| {
            change.swap_table(flows, batch, stats);
            ring.change(change, &stats.outputs);
        });
        inbox.settle(|taken| {
            let mut tx_sockets = ring.tx_sockets().iter();
            tx_sockets.all(|tx_socket| tx_socket.is_settled(taken))
        });
    }

    /// Posts the copies of the frames that have arrived.
    fn forward(&mut self) {
        self.flows.follow_links();
        self.flows.follow_next_hops();
        self.take_arrivals(post);
    }

    /// Makes batches of the frames that have arrived, and has each of them ended.
    #[inline(always)]
    fn take_arrivals(
        &mut self,
        end: impl Fn(&mut Ring, &Buffers, &Flows, &mut Batch<Held>, &WorkerStats),
    ) {
        std::mem::swap(&mut self.ring.arrivals, &mut self.reading);
        let arrivals = self.reading.len() as u64;
        let Self {
            ring,
            buffers,
            input,
            flows,
            batch,
            reading,
            sampler,
            marks,
            stats,
            ..
        } = self;
        if let (Some(marks), [_, ..]) = (marks, &reading[..]) {
            let frames = reading.iter().map(|one| one.frame(buffers));
            sampler.look(marks, frames, &stats.latencies);
        }
        for arrival in reading.drain(..) {
            let datagrams =
                Datagrams::read(&arrival, *input, ring.message(), buffers, flows, stats);
            if let Some(mut datagrams) = datagrams {
                while let Some(frame) = datagrams.next(&arrival.held, buffers) {
                    let keeps = flows.keep_any()
                        && batch.keep(datagrams.kept(&arrival, ring.message(), buffers, flows));
                    batch.add(frame, keeps, buffers, flows, stats);
                    if batch.is_full() {
                        watched::look(batch.frames(), flows, buffers, stats);
                        end(ring, buffers, flows, batch, stats);
                    }
                }
            }
            buffers.release(arrival.held);
        }
        watched::look(batch.frames(), flows, buffers, stats);
        end(ring, buffers, flows, batch, stats);
        stats.progress.arrivals.add(arrivals);
        self.publish_buffers();
    }

    fn publish_buffers(&self) {
        let chunks = &self.stats.chunks;
        chunks.fill.set(self.buffers.provided());
        chunks.in_flight.set(self.buffers.held());
        self.stats.ring.refusals.set(self.ring.refusals());
    }

    /// Waits for a completion.
    fn sleep(&mut self, at_most: Duration) {
        if !self.ring.wait(at_most) {
            // The wait returned at once, and would do so for ever.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Forwards the frames that have arrived, but no longer than until `deadline`, ends the
    /// receive, and counts the copies that have not left.
    fn end(&mut self, deadline: Instant) {
        let late = |worker: &mut Self| {
            worker.sleep(LATE);
            worker.poll_once()
        };
        while (self.poll_once() || late(self)) && Instant::now() < deadline {}
        self.leave_unread();
        self.finish(deadline.max(Instant::now() + LATE));
        self.ring.abandon(&self.stats);
        self.publish_buffers();
        self.ended = true;
    }

    /// Submits what the last round has posted, and counts the frames that the socket still has:
    /// their copies do not leave.
    fn leave_unread(&mut self) {
        let mut left = SOCKET_HOLDS;
        while left > 0 {
            self.ring.arm();
            self.ring.enter();
            self.ring.collect(&self.buffers, &self.stats);
            let arrived = self.ring.arrivals.len() as u64;
            if arrived == 0 && !self.ring.must_arm() {
                break;
            }
            self.take_arrivals(leave);
            left = left.saturating_sub(arrived.max(1));
        }
    }

    /// Ends the receive, and waits until the kernel is done with everything, or until `deadline`.
    fn finish(&mut self, deadline: Instant) {
        self.ring.cancel();
        while !self.is_done() {
            self.ring.enter();
            self.ring.collect(&self.buffers, &self.stats);
            tx_socket::retry_all(self.ring.tx_sockets_mut(), &self.stats.outputs);
            self.take_arrivals(leave);
            if self.is_done() || Instant::now() >= deadline {
                break;
            }
            self.sleep(if self.ring.is_busy() { LATE } else { WAITING });
        }
    }

    /// Whether nothing is received or sent any more.
    fn is_done(&self) -> bool {
        !self.ring.is_busy() && !tx_socket::any_waits(self.ring.tx_sockets())
    }
}

impl Drop for UringWorker {
    /// Unmaps no memory that the kernel may still write to. The kernel is done already, unless a
    /// defect ended the worker, or the kernel refused to be.
    fn drop(&mut self) {
        if !self.ended {
            self.finish(Instant::now() + DRAIN);
        }
        if self.ring.is_busy() {
            self.buffers.leak();
            self.ring.leak();
        }
    }
}

/// Entries of the completion queue: one for every buffer, every send slot, and the ends of the
/// receive, so that it never overflows. A worker that gets many more TX sockets later may see it
/// full for a moment, which loses nothing.
fn completions(worker: &plan::WorkerPlan, buffers: u16) -> u32 {
    u32::from(buffers) + worker.tx_sockets.len() as u32 * send_slots::PER_SOCKET + 8
}

/// Posts the copies of a batch, and ends it: then only the messages hold its buffers.
#[inline]
fn post(
    ring: &mut Ring,
    buffers: &Buffers,
    flows: &Flows,
    batch: &mut Batch<Held>,
    stats: &WorkerStats,
) {
    for tx_socket in 0..ring.tx_sockets().len() {
        let mut outbox = Post::new(ring, tx_socket, stats);
        gso_packets::make(tx_socket, batch, flows, buffers, stats, &mut outbox);
    }
    for frame in batch.end().0 {
        buffers.release(frame.place);
    }
}

/// Ends a batch whose copies do not leave any more, and counts them.
#[cold]
fn leave(
    _: &mut Ring,
    buffers: &Buffers,
    flows: &Flows,
    batch: &mut Batch<Held>,
    stats: &WorkerStats,
) {
    for frame in batch.end().0 {
        flows.count_unsent(frame.flow, stats);
        buffers.release(frame.place);
    }
}
