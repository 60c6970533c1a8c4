//! The ring of one worker: one multishot receive, and the sends in flight.
//!
//! The kernel leaves the work of completions until the worker asks for it
//! (`IORING_SETUP_DEFER_TASKRUN`), so a batch holds the frames that have arrived when the worker is
//! ready for them. Every send is `MSG_DONTWAIT`: the kernel takes it at once or refuses it, and
//! never keeps it until its device has room. So an output that takes nothing costs a refusal, and
//! sends through one socket never overtake each other.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::errno::Errno;

use super::{
    buffers::{Buffers, GROUP, Held},
    receive::{self, Arrival, ReceiveMessage},
    rx_socket::{Fanout, RxSocket},
    send_slots::SendSlots,
};
use crate::{
    datapath::{
        batch::Frame,
        change::Change,
        error::SetupError,
        gso_packets::Message,
        stats::{Dropped, Outputs, WorkerStats},
        tap::Fate,
        tx_socket::{self, TxSocket},
        vnet_header::VnetHeader,
    },
    host::Bell,
};

/// Entries of the submission queue. When it is full, the ring submits it.
const SUBMISSIONS: u32 = 256;
/// Marks the completions of the receive. Sends are marked with their slots.
const RECEIVE: u64 = u64::MAX;
/// Marks the completions of the bell.
const BELL: u64 = u64::MAX - 2;
/// Marks the completion of the receive's cancellation.
const CANCEL: u64 = u64::MAX - 1;

/// `IORING_ENTER_GETEVENTS` (include/uapi/linux/io_uring.h): do the work that completions have
/// left.
const GET_EVENTS: u32 = 1;

/// The ring, and the sockets and send slots that it works on.
pub struct Ring {
    ring: IoUring,
    input: RxSocket,
    /// The `msghdr` of the receive: no name, room for one control message.
    message: Box<ReceiveMessage>,
    tx_sockets: Vec<TxSocket>,
    pub(super) slots: SendSlots,
    /// Arrivals not read yet. Its capacity is the number of buffers.
    pub(super) arrivals: Vec<Arrival>,
    receive: Receive,
    /// Wakes the worker.
    bell: RawFd,
    /// A completion comes when the bell rings.
    listens: bool,
    /// How often the kernel refused a call.
    refusals: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("input", &self.input)
            .field("slots", &self.slots)
            .field("receive", &self.receive)
            .finish_non_exhaustive()
    }
}

/// The state of the receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receive {
    /// Not asked for yet: the ring belongs to no thread.
    Disabled,
    /// To be asked for: for the first time, or because the kernel has ended it.
    Ended,
    /// The kernel receives.
    Armed,
    /// The relay has asked the kernel to end it for good.
    Cancelled,
    /// It has ended for good.
    Over,
}

/// A ring with `completions` entries in its completion queue, and no fewer than in its submission
/// queue. The thread that works with the ring enables it.
///
/// # Errors
///
/// The kernel's refusal.
pub fn ring(completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_r_disabled()
        .setup_cqsize(completions.max(SUBMISSIONS))
        .build(SUBMISSIONS)
}

impl Ring {
    /// A ring, not enabled yet, with its sockets and send slots. The `bell` must be open as long as
    /// the ring.
    pub fn new(
        ring: IoUring,
        input: RxSocket,
        tx_sockets: Vec<TxSocket>,
        buffers: &Buffers,
        bell: &Bell,
    ) -> Self {
        let slots = SendSlots::new(tx_sockets.len());
        Self {
            ring,
            input,
            message: Box::new(ReceiveMessage::new()),
            tx_sockets,
            arrivals: Vec::with_capacity(buffers.total() as usize),
            slots,
            receive: Receive::Disabled,
            bell: bell.fd().as_raw_fd(),
            listens: false,
            refusals: 0,
        }
    }

    /// See [`RxSocket::join`].
    pub fn join(&self, fanout: Option<Fanout>) -> Result<Fanout, SetupError> {
        self.input.join(fanout)
    }

    /// Keeps the memory of the messages for good, in case the kernel still reads it.
    pub fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
        std::mem::forget(std::mem::replace(
            &mut self.message,
            Box::new(ReceiveMessage::new()),
        ));
    }

    /// The RX socket.
    pub fn input(&self) -> RawFd {
        self.input.socket().as_raw_fd()
    }

    /// The `msghdr` of the receive.
    #[inline]
    pub fn message(&self) -> &libc::msghdr {
        self.message.header()
    }

    /// Asks the kernel to receive, unless it does so already. The first call makes the ring the
    /// calling thread's.
    #[inline]
    pub fn arm(&mut self) {
        if self.receive != Receive::Armed || !self.listens {
            self.arm_anew();
        }
    }

    #[cold]
    fn arm_anew(&mut self) {
        if self.receive == Receive::Disabled {
            if let Err(error) = self.ring.submitter().register_enable_rings() {
                self.refused(&error);
                return;
            }
            self.receive = Receive::Ended;
        }
        if !self.listens {
            // Nobody silences the bell: every ring makes a completion.
            let entry = opcode::PollAdd::new(types::Fd(self.bell), libc::POLLIN as u32)
                .multi(true)
                .build()
                .user_data(BELL);
            // SAFETY: no pointers.
            self.listens = unsafe { self.push(&entry) };
        }
        if self.receive == Receive::Ended {
            let socket = types::Fd(self.input());
            let entry = opcode::RecvMsgMulti::new(socket, self.message.pointer(), GROUP)
                .build()
                .user_data(RECEIVE);
            // SAFETY: socket and message live as long as the ring; the buffers as long as the
            // caller of `Buffers::provide` promised.
            if unsafe { self.push(&entry) } {
                self.receive = Receive::Armed;
            }
        }
    }

    /// Whether the kernel has ended the receive.
    #[inline]
    pub fn must_arm(&self) -> bool {
        self.receive == Receive::Ended
    }

    /// Ends the receive for good.
    pub fn cancel(&mut self) {
        if self.receive == Receive::Armed {
            let entry = opcode::AsyncCancel::new(RECEIVE).build().user_data(CANCEL);
            // SAFETY: no pointers.
            if unsafe { self.push(&entry) } {
                self.receive = Receive::Cancelled;
            }
        } else if self.receive == Receive::Ended {
            self.receive = Receive::Over;
        }
    }

    /// Whether the kernel may still read or write memory of the worker.
    pub fn is_busy(&self) -> bool {
        matches!(self.receive, Receive::Armed | Receive::Cancelled) || self.slots.in_flight() > 0
    }

    /// Whether a send is in flight or posted.
    pub fn sends(&self) -> bool {
        self.slots.in_flight() > 0
    }

    /// Replaces the TX sockets, and the send slots where there must be more or fewer. Only while
    /// nothing [is sent](Self::sends).
    pub fn change(&mut self, change: &mut Change, outputs: &Outputs) {
        debug_assert!(!self.sends());
        change.tx_sockets.swap(&mut self.tx_sockets, outputs);
        if let Some(slots) = &mut change.send_slots {
            std::mem::swap(&mut self.slots, slots);
        }
    }

    /// All TX sockets, in the worker's order.
    #[inline]
    pub fn tx_sockets(&self) -> &[TxSocket] {
        &self.tx_sockets
    }

    /// The same, mutable.
    #[inline]
    pub fn tx_sockets_mut(&mut self) -> &mut [TxSocket] {
        &mut self.tx_sockets
    }

    /// The TX socket with this number.
    #[inline]
    pub fn tx_socket(&self, number: usize) -> Option<&TxSocket> {
        self.tx_sockets.get(number)
    }

    /// The same, mutable.
    #[inline]
    pub fn tx_socket_mut(&mut self, number: usize) -> Option<&mut TxSocket> {
        self.tx_sockets.get_mut(number)
    }

    /// Puts the send of a message through a TX socket on the submission queue. False if there is no
    /// slot for it, or no room.
    ///
    /// The slot holds the payloads' buffers until its completion, even after the batch has ended.
    #[inline]
    pub fn send<'a, W, F>(
        &mut self,
        tx_socket: usize,
        message: Message<W, F>,
        buffers: &'a Buffers,
        stats: &WorkerStats,
    ) -> bool
    where
        W: FnOnce(&mut VnetHeader) -> usize,
        F: Iterator<Item = &'a Frame<Held>>,
    {
        let Some(slot) = self.free_slot(tx_socket, buffers, stats) else {
            if stats.outputs.taps().is_on() {
                // Making it just for them would change how others are made.
                let taps = stats.outputs.taps();
                taps.lose(message.output, message.count.into());
            }
            return false;
        };
        let filled = self.slots.fill(slot, message, buffers);
        if !filled.is_some_and(|filled| self.send_slot(slot, filled)) {
            if stats.outputs.taps().is_on() {
                tell(&self.slots, slot, Some(Dropped::RingFull), stats);
            }
            self.slots.end(slot, buffers);
            return false;
        }
        true
    }

    /// To be called where a message was not [sent](Self::send), before the next one is.
    #[cold]
    pub fn not_sent(&mut self) {
        self.slots.forget_last();
    }

    /// A free slot. If there is none, submits what was posted and takes its completions first.
    #[inline]
    fn free_slot(
        &mut self,
        tx_socket: usize,
        buffers: &Buffers,
        stats: &WorkerStats,
    ) -> Option<u32> {
        if let Some(slot) = self.slots.take(tx_socket) {
            return Some(slot);
        }
        self.enter();
        self.collect(buffers, stats);
        self.slots.take(tx_socket)
    }

    /// Puts the send of a filled slot on the submission queue.
    #[inline]
    fn send_slot(&mut self, slot: u32, message: *const libc::msghdr) -> bool {
        let sent = self.slots.look(slot);
        let Some(tx_socket) = sent.and_then(|sent| self.tx_sockets.get(sent.tx_socket)) else {
            return false;
        };
        self.slots.goes(slot, tx_socket.is_direct());
        let entry = opcode::SendMsg::new(types::Fd(tx_socket.socket().as_raw_fd()), message)
            .flags(libc::MSG_DONTWAIT as u32)
            .build()
            .user_data(u64::from(slot));
        // SAFETY: a slot stays where it is, and keeps what its message points to, until its
        // completion has come.
        unsafe { self.push(&entry) }
    }

    /// Puts an entry on the submission queue, which is submitted first if it is full.
    ///
    /// # Safety
    ///
    /// What the entry points to must be valid until its completion has come.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller's promise.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return true;
        }
        self.enter();
        // SAFETY: the caller's promise.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Whether there is work already, so that the worker need not wait for it with a system call.
    #[inline]
    pub fn has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        if submission.taskrun() || !submission.is_empty() {
            return true;
        }
        drop(submission);
        !self.ring.completion().is_empty()
    }

    /// Submits, and does the work that completions have left. Entries that the kernel does not take
    /// stay in the queue.
    #[inline]
    pub fn enter(&mut self) {
        let count = self.ring.submission().len() as u32;
        // SAFETY: no argument; the entries are as the callers of `push` promised.
        let entered = unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(count, 0, GET_EVENTS, None)
        };
        if let Err(error) = entered {
            self.refused(&error);
        }
    }

    /// Submits, and waits for a completion, at most `at_most`. False if the kernel refused to wait.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        let time = types::Timespec::from(at_most);
        let arguments = types::SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => true,
            Err(error) => error.raw_os_error() == Some(libc::ETIME) || !self.refused(&error),
        }
    }

    /// Counts a refusal and returns true, unless the next call mends it: the call was interrupted,
    /// memory is short for a moment, or completions must be taken first.
    #[cold]
    fn refused(&mut self, error: &io::Error) -> bool {
        let mends = matches!(
            error.raw_os_error(),
            Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
        );
        if !mends {
            self.refusals += 1;
        }
        !mends
    }

    /// How often the kernel refused a call.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Takes all completions: receives become arrivals; sends are counted and their slots are free.
    #[inline]
    pub fn collect(&mut self, buffers: &Buffers, stats: &WorkerStats) {
        let Self {
            ring,
            tx_sockets,
            slots,
            arrivals,
            receive,
            listens,
            ..
        } = self;
        if ring.submission().cq_overflow() {
            // The kernel keeps them (`IORING_FEAT_NODROP`) and hands them over at the next `enter`.
            stats.ring.overflows.add(1);
        }
        let tapped = stats.outputs.taps().is_on();
        for entry in ring.completion() {
            match entry.user_data() {
                RECEIVE => {
                    if !cqueue::more(entry.flags()) {
                        *receive = match *receive {
                            Receive::Cancelled => Receive::Over,
                            _ => Receive::Ended,
                        };
                    }
                    receive::received(&entry, arrivals, buffers, stats);
                }
                BELL => *listens = cqueue::more(entry.flags()),
                CANCEL => {}
                slot => {
                    let slot = slot as u32;
                    let Some(sent) = slots.look(slot) else {
                        continue;
                    };
                    let refusal = (entry.result() < 0).then(|| Errno::from_raw(-entry.result()));
                    let mut waits = false;
                    if let (Some(tx_socket), Some(output)) = (
                        tx_sockets.get_mut(sent.tx_socket),
                        stats.outputs.get(sent.output as usize),
                    ) {
                        match refusal {
                            None => output.sent.add(sent.frames),
                            Some(error) if tx_socket.can_wait(error, sent.direct, sent.frames) => {
                                let frames = sent.frames as u16;
                                let parts = slots.parts(slot);
                                tx_socket.wait(sent.output, frames, parts, &stats.outputs);
                                waits = true;
                            }
                            Some(error) => {
                                tx_socket.count_refused(error, sent.direct, output, sent.frames);
                            }
                        }
                    }
                    if tapped && !waits {
                        let fate = refusal.and_then(|error| tx_socket::fate(error, sent.direct));
                        tell(slots, slot, fate, stats);
                    }
                    slots.end(slot, buffers);
                }
            }
        }
    }

    /// When the worker ends, counts the frames still in flight as unsent.
    pub fn abandon(&mut self, stats: &WorkerStats) {
        tx_socket::abandon_all(&mut self.tx_sockets, &stats.outputs);
        for sent in self.slots.on_their_way() {
            if let Some(output) = stats.outputs.get(sent.output as usize) {
                output.drops.add(Dropped::UnsentAtExit, sent.frames);
            }
        }
    }
}

/// Tells the taps what became of the message in a slot.
#[cold]
#[inline(never)]
fn tell(slots: &SendSlots, slot: u32, fate: Fate, stats: &WorkerStats) {
    if let Some(sent) = slots.look(slot) {
        let (taps, parts) = (stats.outputs.taps(), slots.parts(slot));
        taps.message(sent.output, sent.frames, fate, parts);
    }
}
