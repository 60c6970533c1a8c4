//! The AF_XDP loop: reap, receive, sort, transmit, kick, refill.
//!
//! ```text
//!              +--> senders: one super-frame a run and output --> kernel --> (copied) --+
//!              |                                                                       |
//!   RX ring --> batch --> fanout --> TX ring of each output --> completion ring --+     |
//!      ^                    | copies come from the free list                      |     |
//!      +-- FILL ring <----------------- free list <-------------------------------+-----+
//! ```
//!
//! One [`Worker`] is one thread with one UMEM. Nothing in [`Worker::run`] allocates, locks or logs;
//! the only system calls are `sendmmsg`, the TX kick and, when there is nothing to do, `poll`; and
//! for an output that has refused copies, `send`.

pub mod fanout;
pub mod ledger;
pub mod messages;
mod port;
pub mod receive;
mod senders;
mod sizes;
pub mod transmitter;
pub mod umem;
mod wakeup;

use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use self::sizes::chunk_count;
use self::{
    port::{BATCH, Port},
    senders::Senders,
    transmitter::Device,
    umem::{Chunk, Chunks},
};
use super::{DRAIN, SPIN, SetupError, WAITING, batch::Batch, flows::Flows, outlet, sockopt};
use crate::{
    link::Link,
    plan::{self, Checksums, Mode, Plan},
    rewrite::Known,
    stats::WorkerStats,
};

/// How long a worker sleeps at most before it looks whether it should stop.
const IDLE_MS: u16 = 100;
/// How long it sleeps at most while frames of it are on their way.
const BUSY_MS: u16 = 1;
/// The same where they cannot leave, because their device is down: they leave so much after it is up again.
const DOWN_MS: u16 = 10;
/// How long a bind waits for a queue that a closed socket still holds: 12-74 ms were seen.
const BIND_PATIENCE: Duration = Duration::from_secs(2);

/// One forwarding thread's state: UMEM, ports, flows.
#[derive(Debug)]
pub struct Worker {
    chunks: Chunks,
    ports: Vec<Port>,
    inputs: Vec<Input>,
    flows: Flows,
    batch: Batch<Chunk>,
    senders: Senders,
    /// What one port received. Its capacity is `BATCH`.
    received: Vec<Chunk>,
    stats: Arc<WorkerStats>,
}

/// A port that receives.
#[derive(Debug, Clone, Copy)]
struct Input {
    /// Its position in the worker's ports.
    port: usize,
    /// The kernel's index of the interface.
    index: u32,
    /// Where the plan has it.
    planned: plan::Port,
    /// What is known of the UDP checksums of its frames.
    known: Known,
}

/// A socket that receives, to be put into the XSKMAP.
#[derive(Debug, Clone, Copy)]
pub struct ReceivingSocket {
    /// Position in [`Plan::interfaces`].
    pub interface: usize,
    /// The queue.
    pub queue: u32,
    /// The socket, valid as long as its worker lives.
    pub fd: RawFd,
}

impl Worker {
    /// Registers the UMEM and binds all ports of `worker` in `mode`.
    ///
    /// # Errors
    ///
    /// The first refusal; everything bound before is released.
    pub fn bind(
        plan: &Plan,
        worker: &plan::Worker,
        mode: Mode,
        chunk_count: u32,
    ) -> Result<Self, SetupError> {
        let interface = |port: &plan::Port| plan.interfaces.get(port.interface);
        let chunks = Chunks::new(sizes::chunk_size(plan, worker, mode), chunk_count)?;
        let mut ports = Vec::with_capacity(worker.ports.len());
        let mut inputs = Vec::new();
        for port in &worker.ports {
            let Some(interface) = interface(port) else {
                continue;
            };
            if port.receives {
                inputs.push(Input {
                    port: ports.len(),
                    index: interface.index,
                    planned: *port,
                    known: known(interface),
                });
            }
            let lends = sizes::lends(worker, port, mode);
            let bound = bind_patiently(&chunks, &interface.name, port.queue, mode, lends)?;
            ports.push(bound);
        }
        let stats = super::stats(plan, worker, chunks.total());
        let flows = Flows::new(plan, worker);
        Ok(Self {
            chunks,
            ports,
            inputs,
            batch: Batch::new(BATCH, flows.len()),
            flows,
            senders: Senders::open(plan, worker)?,
            received: Vec::with_capacity(BATCH),
            stats,
        })
    }

    /// The mode that the kernel chose. It is the same for all ports: they share the UMEM.
    ///
    /// # Errors
    ///
    /// The socket option's.
    pub fn mode(&self) -> io::Result<Mode> {
        self.ports
            .first()
            .map_or(Ok(Mode::Copy), |port| sockopt::mode(port.fd()))
    }

    /// The counters, which stay readable while the worker runs and after it ended.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The sockets that want frames.
    pub fn receiving_sockets(&self) -> impl Iterator<Item = ReceivingSocket> {
        self.inputs.iter().filter_map(|input| {
            Some(ReceivingSocket {
                interface: input.planned.interface,
                queue: input.planned.queue,
                fd: self.ports.get(input.port)?.fd(),
            })
        })
    }

    /// What it knows of the links that copies leave by.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> {
        self.flows.links().chain(self.senders.links())
    }

    /// Fills the FILL rings, right after the bind, and kicks every queue that has one: some drivers leave it dead
    /// otherwise.
    ///
    /// # Errors
    ///
    /// The kick's.
    pub fn fill(&mut self) -> io::Result<()> {
        for port in &mut self.ports {
            port.refill(&mut self.chunks)?;
            port.kick_receiver()?;
        }
        self.publish_chunks();
        Ok(())
    }

    /// Forwards until `stop` is set, then forwards what has arrived, waits a moment for frames on their way,
    /// and counts those that stay. A worker that `owns_cpu` looks for frames a while before it sleeps.
    pub fn run(&mut self, stop: &AtomicBool, owns_cpu: bool) {
        let mut poll_set: Vec<PollFd<'static>> = Vec::with_capacity(self.inputs.len());
        let mut idle_since: Option<Instant> = None;
        while !stop.load(Relaxed) {
            if self.turn() {
                idle_since = None;
            } else if owns_cpu && idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                self.sleep(&mut poll_set);
            }
        }
        self.drain();
    }

    /// One round over all ports. Returns whether a frame came in.
    pub fn turn(&mut self) -> bool {
        let mut busy = false;
        self.flows.follow_links();
        for port in &mut self.ports {
            port.begin_round(&mut self.chunks);
        }
        outlet::retry_all(self.senders.outlets_mut(), &self.stats.outputs);
        for input in &self.inputs {
            let Self {
                chunks,
                ports,
                flows,
                batch,
                stats,
                ..
            } = self;
            if let Some(port) = ports.get_mut(input.port) {
                port.receive(chunks, &mut self.received);
            }
            busy |= !self.received.is_empty();
            let source = receive::Source {
                interface: input.index,
                known: input.known,
            };
            receive::add_all(source, &mut self.received, batch, chunks, flows, stats);
            self.senders.send(batch, flows, chunks, stats);
            // Only now: the last copy takes the received chunk itself.
            for frame in batch.end() {
                fanout::forward(frame, flows, chunks, ports, stats);
            }
        }
        self.kick();
        for port in &mut self.ports {
            // A refused wakeup shows in `device()` at the next kick; frames are not lost by it.
            let _ = port.refill(&mut self.chunks);
        }
        self.publish_chunks();
        busy
    }

    fn kick(&mut self) {
        for port in &mut self.ports {
            if port.waiting() > 0 {
                port.kick(&mut self.chunks, &self.stats.outputs);
            }
        }
    }

    fn publish_chunks(&self) {
        self.stats.chunks.free.set(self.chunks.free());
        self.stats.chunks.fill.set(self.chunks.fill());
        self.stats.chunks.in_flight.set(self.chunks.in_flight());
    }

    /// Waits for a frame, for a while that depends on what is on its way. `poll_set` has room for all inputs.
    fn sleep(&self, poll_set: &mut Vec<PollFd<'static>>) {
        if outlet::any_waits(self.senders.outlets()) {
            std::thread::sleep(WAITING);
            return;
        }
        poll_set.clear();
        for input in &self.inputs {
            let Some(port) = self.ports.get(input.port) else {
                continue;
            };
            if port.waiting() > 0 && port.device() == Device::Ready {
                // `poll` would transmit what waits there, and its refusals would go unseen.
                std::thread::sleep(WAITING);
                return;
            }
            // What waits for a device that is down has time, and what comes in by it waits as well.
            if !port.transmits_when_polled() {
                // SAFETY: the sockets live as long as `self`, and `poll_set` is not looked at after this call.
                let fd = unsafe { BorrowedFd::borrow_raw(port.fd()) };
                poll_set.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        let mut on_their_way = self.ports.iter().filter(|port| port.outstanding() > 0);
        let timeout = match on_their_way.clone().next() {
            None => IDLE_MS,
            Some(_) if on_their_way.any(|port| port.device() == Device::Ready) => BUSY_MS,
            Some(_) => DOWN_MS,
        };
        // An interruption is as good as a frame: the caller looks at everything again.
        let _ = poll(poll_set, PollTimeout::from(timeout));
    }

    /// Gives frames on their way a moment to leave, then counts the rest.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN;
        while self.turn() && Instant::now() < deadline {}
        while Instant::now() < deadline
            && (self.ports.iter().any(|port| port.outstanding() > 0)
                || outlet::any_waits(self.senders.outlets()))
        {
            outlet::retry_all(self.senders.outlets_mut(), &self.stats.outputs);
            self.kick();
            for port in &mut self.ports {
                port.reap(&mut self.chunks);
            }
            std::thread::sleep(WAITING);
        }
        for port in &mut self.ports {
            port.abandon(&mut self.chunks, &self.stats.outputs);
        }
        outlet::abandon_all(self.senders.outlets_mut(), &self.stats.outputs);
        self.publish_chunks();
    }
}

/// What is known of the UDP checksums of what an XDP program gets from `interface`.
fn known(interface: &plan::Interface) -> Known {
    match interface.checksums {
        Some(Checksums::Complete) => Known::Complete,
        Some(Checksums::ByValue | Checksums::Told) | None => Known::Nothing,
    }
}

/// Binds, and tries again for a while where a closed socket still holds the queue.
fn bind_patiently(
    chunks: &Chunks,
    interface: &str,
    queue: u32,
    mode: Mode,
    lends: u32,
) -> Result<Port, SetupError> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match Port::bind(chunks, interface, queue, mode, lends) {
            Err(SetupError::Bind { error, .. })
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}
