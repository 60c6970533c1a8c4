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
//! logs. Where there is something to do, the only system calls are `sendmmsg`, the TX kick, a `poll`
//! that wakes a FILL ring, and `send` for an output that has refused copies; where there is nothing,
//! the worker sleeps in `poll`.

pub mod egress;
mod kick;
pub mod local_frames;
mod pieces;
mod port;
pub mod port_change;
pub mod receive;
pub mod ring_outputs;
pub mod ring_sizes;
pub mod sendmmsg;
pub mod sharing;
mod socket_mode;
pub mod sockets;
pub mod transmitter;
pub mod tx_ring_account;
pub mod tx_rings;
mod tx_sockets;
pub mod umem;
mod umem_sizes;

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use self::{
    port::Port,
    sockets::{ReceivingSocket, Sockets},
    umem::{Chunk, Chunks, Closed},
    umem_sizes::chunk_count,
};
use self::{
    port_change::Ports,
    ring_outputs::{GROUP, Prepared},
    ring_sizes::{BATCH, LARGEST_BATCH, RX_SIZE},
    transmitter::Device,
    tx_sockets::TxSockets,
};
use super::{
    batch::Batch,
    change::Inbox,
    error::SetupError,
    flow_table::Flows,
    next_hops::NextHops,
    output_link::Link,
    remote::{Holds, Remote},
    stats::WorkerStats,
    timings::{DRAIN, SPIN, WAITING},
    tx_socket, watched,
};
use crate::{
    kernel::Marks,
    plan::{self, Mode, Plan},
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
    ports: Ports,
    flows: Flows,
    batch: Batch<Chunk>,
    /// Room for a group of frames that share payloads. Its capacity is [`GROUP`].
    prepared: Vec<Prepared>,
    tx_sockets: TxSockets,
    /// The chunks that one port received. Its capacity is `BATCH`.
    received: Vec<Chunk>,
    /// Where the kernel program marks frames, for their latencies.
    marks: Option<Arc<Marks>>,
    stats: Arc<WorkerStats>,
}

impl XdpWorker {
    /// Registers the UMEM and binds all ports of `worker` in `mode`. Flows with `local` need the
    /// local device, given by its index. Returns the worker, and what control changes it with.
    ///
    /// # Errors
    ///
    /// The first refusal; all ports bound before it are released.
    pub fn bind(
        plan: &Plan,
        worker: &plan::WorkerPlan,
        mode: Mode,
        chunk_count: u32,
        local_device: Option<u32>,
        next_hops: &Arc<NextHops>,
    ) -> Result<(Self, Remote), SetupError> {
        let header_slots = sharing::header_slots(plan, worker);
        let chunks = Chunks::new(worker.chunk_size(plan, mode), chunk_count, header_slots)?;
        let (sockets, all, inputs) = Sockets::bind(&chunks, plan, worker, mode)?;
        let (remote, first) = Remote::new(
            plan,
            worker,
            Holds::Rounds(DRAINED),
            Some(sockets),
            local_device,
            next_hops,
        )?;
        first.stats.chunks.total.set(chunks.total());
        let worker = Self {
            inbox: first.inbox,
            chunks,
            ports: Ports {
                poll_set: Vec::with_capacity(inputs.len() + 1),
                all,
                inputs,
                leaving: Vec::new(),
            },
            batch: Batch::new(LARGEST_BATCH, first.open),
            prepared: Vec::with_capacity(GROUP),
            flows: first.flows,
            tx_sockets: TxSockets::new(first.tx_sockets),
            received: Vec::with_capacity(BATCH),
            marks: None,
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
        let mut ports = self.ports.all.iter();
        ports
            .next()
            .map_or(Ok(Mode::Copy), |port| socket_mode::mode(port.fd()))
    }

    /// The counters, which stay readable while the worker runs and after it ended.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// Samples latencies, by these marks.
    pub fn sample_latencies(&mut self, marks: Arc<Marks>) {
        self.marks = Some(marks);
    }

    /// What it knows about the links that copies leave through.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> {
        self.flows.links()
    }

    /// What was redirected to its ports and is accounted for, once it has ended, as [`Port`] has it.
    pub fn accounted(&self) -> impl Iterator<Item = (u32, u64)> {
        self.ports.all.iter().map(Port::accounted)
    }

    /// Fills the FILL rings, right after the bind, and kicks every queue that has one: some drivers
    /// leave it dead otherwise.
    ///
    /// # Errors
    ///
    /// The error of the kick.
    pub fn fill(&mut self) -> io::Result<()> {
        self.fill_last(self.ports.all.len())?;
        self.publish_chunks();
        Ok(())
    }

    /// The same for the last ports, so many of them.
    fn fill_last(&mut self, count: usize) -> io::Result<()> {
        for port in self.ports.all.iter_mut().rev().take(count) {
            port.refill(&mut self.chunks)?;
            port.kick_receiver()?;
        }
        Ok(())
    }

    /// Forwards until `stop` is set, then forwards the frames that have arrived, waits a moment for
    /// frames on their way, and counts what stays. A worker that `owns_cpu` looks for frames a
    /// while before it sleeps.
    pub fn run(&mut self, stop: &AtomicBool, owns_cpu: bool) {
        let mut idle_since: Option<Instant> = None;
        while !stop.load(Relaxed) {
            if self.poll_once() {
                idle_since = None;
            } else if owns_cpu && idle_since.get_or_insert_with(Instant::now).elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                self.sleep();
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
        self.flows.follow_next_hops();
        for port in &mut self.ports.all {
            port.begin_round(&mut self.chunks, &self.stats.outputs);
        }
        tx_socket::retry_all(self.tx_sockets.tx_sockets_mut(), &self.stats.outputs);
        for input in &self.ports.inputs {
            let Self {
                chunks,
                flows,
                batch,
                prepared,
                marks,
                stats,
                ..
            } = self;
            let ports = &mut self.ports.all;
            loop {
                if let Some(port) = ports.get_mut(input.port) {
                    port.receive(chunks, &mut self.received);
                }
                let took_all_it_may = self.received.len() == BATCH;
                busy |= !self.received.is_empty();
                receive::add_all(
                    input.source(),
                    &mut self.received,
                    batch,
                    chunks,
                    flows,
                    stats,
                );
                if !(took_all_it_may && batch.wants(BATCH)) {
                    break;
                }
                // More than a round's frames: the kernel needs chunks for the next ones now.
                if let Some(port) = ports.get_mut(input.port) {
                    let _ = port.refill(chunks);
                }
            }
            watched::look(batch.frames(), flows, chunks, stats);
            if let (Some(marks), [_, ..], Some(port)) =
                (marks, batch.frames(), ports.get_mut(input.port))
            {
                let frames = batch.frames().iter();
                let frames = frames.map(|frame| chunks.frame(&frame.place));
                port.sampler.look(marks, frames, &stats.latencies);
            }
            self.tx_sockets.send(batch, flows, chunks, stats);
            if let Some(local) = flows.local() {
                local.give_back(input.index, batch.frames(), chunks, stats);
            }
            // Only after the sockets: the last copy takes the received chunk itself.
            ring_outputs::forward_all(batch, prepared, flows, chunks, ports, stats);
        }
        self.kick();
        for port in &mut self.ports.all {
            port.sampler.handed_over(&self.stats.latencies);
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
    /// rounds no batch is open, and no chunk is in the worker's hands.
    #[cold]
    fn attend(&mut self) {
        let mut new = 0;
        let Self {
            inbox,
            chunks,
            ports,
            flows,
            batch,
            tx_sockets,
            received,
            stats,
            ..
        } = self;
        inbox.take(Some(&mut *chunks), |change| {
            change.swap_table(flows, batch, stats);
            let tx_sockets = tx_sockets.tx_sockets_mut();
            change.tx_sockets.swap(tx_sockets, &stats.outputs);
            if let Some(change) = &mut change.ports {
                new = ports.swap(change);
            }
            for port in &mut ports.all {
                port.begin_settling();
            }
        });
        ports.discard(chunks, received, stats);
        ports.work_off(chunks, &stats.outputs);
        let waited = inbox.unsettled_for();
        let have_left = waited.is_none_or(|waited| ports.have_left(waited));
        if have_left {
            ports.give_up(chunks, &stats.outputs);
        }
        inbox.settle(|taken| {
            let mut tx_sockets = tx_sockets.tx_sockets().iter();
            have_left
                && ports.all.iter().all(Port::is_settled)
                && tx_sockets.all(|tx_socket| tx_socket.is_settled(taken))
        });
        if have_left {
            inbox.hand_back(&mut ports.leaving);
        }
        // A refused kick shows at the next one; it loses no frame.
        let _ = self.fill_last(new);
    }

    fn kick(&mut self) {
        for port in &mut self.ports.all {
            if port.waiting() > 0 {
                port.kick(&mut self.chunks, &self.stats.outputs);
            }
        }
    }

    fn publish_chunks(&self) {
        self.stats.chunks.free.set(self.chunks.free());
        self.stats.chunks.fill.set(self.chunks.fill());
        self.stats.chunks.in_flight.set(self.chunks.in_flight());
        let header_slots = self.chunks.header_slots_in_use();
        self.stats.chunks.header_slots.set(header_slots);
    }

    /// Waits for a frame, for a time that depends on the frames on their way.
    fn sleep(&mut self) {
        if tx_socket::any_waits(self.tx_sockets.tx_sockets()) {
            std::thread::sleep(WAITING);
            return;
        }
        let Ports {
            all,
            inputs,
            leaving,
            poll_set,
        } = &mut self.ports;
        poll_set.clear();
        // SAFETY: the bell is open as long as the inbox, and the set is emptied before the next
        // `poll`.
        let bell = unsafe { BorrowedFd::borrow_raw(self.inbox.bell().fd().as_raw_fd()) };
        poll_set.push(PollFd::new(bell, PollFlags::POLLIN));
        for input in inputs {
            let Some(port) = all.get(input.port) else {
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
                // SAFETY: the socket is open as long as the port is among `all`, and the set is
                // emptied before the next `poll` and when the ports change.
                let fd = unsafe { BorrowedFd::borrow_raw(port.fd()) };
                poll_set.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        let on_their_way = all.iter().chain(leaving.iter());
        let mut on_their_way = on_their_way.filter(|port| port.outstanding() > 0);
        let timeout = match on_their_way.clone().next() {
            None => IDLE_MS,
            Some(_) if on_their_way.any(|port| port.device() == Device::Ready) => BUSY_MS,
            Some(_) => DOWN_MS,
        };
        // An interrupted `poll` does no harm: the caller looks at everything again.
        let _ = poll(poll_set, PollTimeout::from(timeout));
        let rung = poll_set.first().and_then(PollFd::any);
        if rung == Some(true) {
            self.inbox.bell().silence();
        }
    }

    /// Forwards the frames that have arrived, gives those in flight a moment to leave, then counts
    /// the rest.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN;
        while self.poll_once() && Instant::now() < deadline {}
        // The ports that go are closed with the others now.
        self.ports.all.append(&mut self.ports.leaving);
        while Instant::now() < deadline
            && (self.ports.all.iter().any(|port| port.outstanding() > 0)
                || tx_socket::any_waits(self.tx_sockets.tx_sockets()))
        {
            tx_socket::retry_all(self.tx_sockets.tx_sockets_mut(), &self.stats.outputs);
            self.kick();
            for port in &mut self.ports.all {
                port.take_back(&mut self.chunks, &self.stats.outputs);
            }
            std::thread::sleep(WAITING);
        }
        self.leave_unread();
        for port in &mut self.ports.all {
            port.abandon(&mut self.chunks, &self.stats.outputs);
        }
        tx_socket::abandon_all(self.tx_sockets.tx_sockets_mut(), &self.stats.outputs);
        self.publish_chunks();
    }

    /// Counts the frames that are still in the RX rings: their copies do not leave. Gives back
    /// those of this host's own stack.
    fn leave_unread(&mut self) {
        let Self {
            chunks,
            ports,
            flows,
            batch,
            received,
            stats,
            ..
        } = self;
        for input in &ports.inputs {
            let Some(port) = ports.all.get_mut(input.port) else {
                continue;
            };
            loop {
                port.receive(chunks, received);
                if received.is_empty() {
                    break;
                }
                receive::add_all(input.source(), received, batch, chunks, flows, stats);
                if let Some(local) = flows.local() {
                    local.give_back(input.index, batch.frames(), chunks, stats);
                }
                for frame in batch.end().0 {
                    flows.count_unsent(frame.flow, stats);
                    chunks.give_back(frame.place);
                }
            }
        }
    }
}
