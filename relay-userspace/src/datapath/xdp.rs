//! The AF_XDP loop: take completions, receive, sort, transmit, kick, refill.
//!
//! ```text
//!               +--> TX sockets: one GSO packet per run and output --> kernel (copies) ---+
//!               |                                                                         |
//!   RX ring --> batch --> ring outputs --> TX ring of each output --> completion ring --+ |
//!      ^                      | copies use chunks of the free list                      | |
//!      +-- FILL ring <----------------- free list <-------------------------------------+-+
//! ```
//!
//! One [`XdpWorker`] is one thread with one UMEM. Nothing in [`XdpWorker::run`] allocates, locks or
//! logs; the only system calls are `sendmmsg`, the TX kick and, when there is nothing to do,
//! `poll`; and `send` for an output that has refused copies.

mod kick;
mod port;
pub mod receive;
pub mod ring_outputs;
pub mod ring_sizes;
pub mod sendmmsg;
mod socket_mode;
pub mod transmitter;
pub mod tx_ring_account;
mod tx_sockets;
pub mod umem;
mod umem_sizes;

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

pub use self::umem_sizes::chunk_count;
use self::{
    port::Port,
    ring_sizes::{BATCH, RX_SIZE},
    transmitter::Device,
    tx_sockets::TxSockets,
    umem::{Chunk, Chunks},
};
use super::{
    batch::Batch,
    change::Inbox,
    error::SetupError,
    flow_table::Flows,
    output_link::Link,
    remote::{Holds, Remote},
    stats::WorkerStats,
    timings::{DRAIN, SPIN, WAITING},
    tx_socket,
};
use crate::{
    packet::Known,
    plan::{self, Checksums, InterfaceId, Mode, Plan},
};

/// The longest that a worker sleeps before it checks whether it should stop.
const IDLE_MS: u16 = 100;
/// How long it sleeps at most while its frames are on their way.
const BUSY_MS: u16 = 1;
/// The same if they cannot leave because their device is down: once it is up they leave this much
/// later.
const DOWN_MS: u16 = 10;
/// How long a bind retries while a closed socket still holds the queue: 12-74 ms were seen.
const BIND_PATIENCE: Duration = Duration::from_secs(2);

/// Rounds after which every frame has been received that was in an RX ring before: twice what a
/// full ring takes, because one round may take only the part of a ring that it has seen before.
const DRAINED: u64 = 2 * (RX_SIZE as u64).div_ceil(BATCH as u64);

/// One forwarding thread's state: UMEM, ports, flows.
#[derive(Debug)]
pub struct XdpWorker {
    inbox: Inbox,
    chunks: Chunks,
    ports: Vec<Port>,
    inputs: Vec<Input>,
    flows: Flows,
    batch: Batch<Chunk>,
    tx_sockets: TxSockets,
    /// The chunks that one port received. Its capacity is `BATCH`.
    received: Vec<Chunk>,
    stats: Arc<WorkerStats>,
}

/// A port that receives.
#[derive(Debug, Clone, Copy)]
struct Input {
    /// The port's position in the worker's ports.
    port: usize,
    /// The kernel's index of the interface.
    index: u32,
    /// The port in the plan.
    planned: plan::Port,
    /// What is known of the UDP checksums of its frames.
    known: Known,
}

/// A socket that receives, for an entry of the XSKMAP.
#[derive(Debug, Clone, Copy)]
pub struct ReceivingSocket {
    /// The interface's id.
    pub interface: InterfaceId,
    /// The queue.
    pub queue: u32,
    /// The socket, valid as long as its worker lives.
    pub fd: RawFd,
}

impl XdpWorker {
    /// Registers the UMEM and binds all ports of `worker` in `mode`. Returns the worker, and what
    /// control changes it with.
    ///
    /// # Errors
    ///
    /// The first refusal; all ports bound before it are released.
    pub fn bind(
        plan: &Plan,
        worker: &plan::WorkerPlan,
        mode: Mode,
        chunk_count: u32,
    ) -> Result<(Self, Remote), SetupError> {
        let interface = |port: &plan::Port| plan.interfaces.get(port.interface);
        let chunks = Chunks::new(worker.chunk_size(plan, mode), chunk_count)?;
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
            let lends = umem_sizes::lends(worker, port, mode);
            let bound = bind_patiently(&chunks, &interface.name, port.queue, mode, lends)?;
            ports.push(bound);
        }
        let (remote, first) = Remote::new(plan, worker, Holds::Rounds(DRAINED))?;
        first.stats.chunks.total.set(chunks.total());
        let worker = Self {
            inbox: first.inbox,
            chunks,
            ports,
            inputs,
            batch: Batch::new(BATCH, first.open),
            flows: first.flows,
            tx_sockets: TxSockets::new(first.tx_sockets),
            received: Vec::with_capacity(BATCH),
            stats: first.stats,
        };
        Ok((worker, remote))
    }

    /// The mode that the kernel chose. All ports have the same one: they share the UMEM.
    ///
    /// # Errors
    ///
    /// The error of the socket option.
    pub fn mode(&self) -> io::Result<Mode> {
        self.ports
            .first()
            .map_or(Ok(Mode::Copy), |port| socket_mode::mode(port.fd()))
    }

    /// The counters, which stay readable while the worker runs and after it ended.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The sockets that receive.
    pub fn receiving_sockets(&self) -> impl Iterator<Item = ReceivingSocket> {
        self.inputs.iter().filter_map(|input| {
            Some(ReceivingSocket {
                interface: input.planned.interface,
                queue: input.planned.queue,
                fd: self.ports.get(input.port)?.fd(),
            })
        })
    }

    /// What it knows about the links that copies leave through.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> {
        self.flows.links()
    }

    /// Fills the FILL rings, right after the bind, and kicks every queue that has one: some drivers
    /// leave it dead otherwise.
    ///
    /// # Errors
    ///
    /// The error of the kick.
    pub fn fill(&mut self) -> io::Result<()> {
        for port in &mut self.ports {
            port.refill(&mut self.chunks)?;
            port.kick_receiver()?;
        }
        self.publish_chunks();
        Ok(())
    }

    /// Forwards until `stop` is set, then forwards the frames that have arrived, waits a moment for
    /// frames on their way, and counts those that stay. A worker that `owns_cpu` looks for frames a
    /// while before it sleeps.
    pub fn run(&mut self, stop: &AtomicBool, owns_cpu: bool) {
        let mut poll_set: Vec<PollFd<'static>> = Vec::with_capacity(self.inputs.len());
        let mut idle_since: Option<Instant> = None;
        while !stop.load(Relaxed) {
            if self.poll_once() {
                idle_since = None;
            } else if owns_cpu && idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                self.sleep(&mut poll_set);
            }
        }
        self.drain();
    }

    /// One round over all ports. Returns whether a frame arrived.
    pub fn poll_once(&mut self) -> bool {
        let mut busy = false;
        if self.inbox.calls() {
            self.attend();
        }
        self.flows.follow_links();
        for port in &mut self.ports {
            port.begin_round(&mut self.chunks);
        }
        tx_socket::retry_all(self.tx_sockets.tx_sockets_mut(), &self.stats.outputs);
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
            self.tx_sockets.send(batch, flows, chunks, stats);
            // Only after the TX sockets: the last copy takes the received chunk itself.
            for frame in batch.end() {
                ring_outputs::forward(frame, flows, chunks, ports, stats);
            }
        }
        self.kick();
        for port in &mut self.ports {
            // A refused wakeup shows in `device()` at the next kick; it loses no frame.
            let _ = port.refill(&mut self.chunks);
        }
        self.publish_chunks();
        let progress = &self.stats.progress;
        progress.rounds.add(1);
        if !busy {
            progress.empty_rounds.add(1);
        }
        busy
    }

    /// Takes a change, if there is one, and sees whether the last one has settled. Between two
    /// rounds no batch is open.
    #[cold]
    fn attend(&mut self) {
        let Self {
            inbox,
            ports,
            flows,
            batch,
            tx_sockets,
            stats,
            ..
        } = self;
        inbox.take(|change| {
            change.swap_table(flows, batch, stats);
            let tx_sockets = tx_sockets.tx_sockets_mut();
            change.tx_sockets.swap(tx_sockets, &stats.outputs);
            for port in ports.iter_mut() {
                port.begin_settling();
            }
        });
        inbox.settle(|taken| {
            let mut tx_sockets = tx_sockets.tx_sockets().iter();
            ports.iter().all(Port::is_settled)
                && tx_sockets.all(|tx_socket| tx_socket.is_settled(taken))
        });
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

    /// Waits for a frame, for a time that depends on the frames on their way. `poll_set` has room
    /// for all inputs.
    fn sleep(&self, poll_set: &mut Vec<PollFd<'static>>) {
        if tx_socket::any_waits(self.tx_sockets.tx_sockets()) {
            std::thread::sleep(WAITING);
            return;
        }
        poll_set.clear();
        for input in &self.inputs {
            let Some(port) = self.ports.get(input.port) else {
                continue;
            };
            if port.waiting() > 0 && port.device() == Device::Ready {
                // `poll` would transmit the copies that wait there, and hide the device's refusals.
                std::thread::sleep(WAITING);
                return;
            }
            // Copies that wait for a device that is down have time, and so have frames that arrive
            // on it: `poll` leaves this port out.
            if !port.transmits_when_polled() {
                // SAFETY: the sockets live as long as `self`, and `poll_set` is not read after this
                // call.
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
        // An interrupted `poll` does no harm: the caller looks at everything again.
        let _ = poll(poll_set, PollTimeout::from(timeout));
    }

    /// Gives frames in flight a moment to leave, then counts the rest.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN;
        while self.poll_once() && Instant::now() < deadline {}
        while Instant::now() < deadline
            && (self.ports.iter().any(|port| port.outstanding() > 0)
                || tx_socket::any_waits(self.tx_sockets.tx_sockets()))
        {
            tx_socket::retry_all(self.tx_sockets.tx_sockets_mut(), &self.stats.outputs);
            self.kick();
            for port in &mut self.ports {
                port.reap(&mut self.chunks);
            }
            std::thread::sleep(WAITING);
        }
        for port in &mut self.ports {
            port.abandon(&mut self.chunks, &self.stats.outputs);
        }
        tx_socket::abandon_all(self.tx_sockets.tx_sockets_mut(), &self.stats.outputs);
        self.publish_chunks();
    }
}

/// What is known of the UDP checksums of frames that an XDP program gets from `interface`.
fn known(interface: &plan::Interface) -> Known {
    match interface.checksums {
        Some(Checksums::Complete) => Known::Complete,
        Some(Checksums::ByValue | Checksums::Told) | None => Known::Nothing,
    }
}

/// Binds, and retries for a while if a closed socket still holds the queue.
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
