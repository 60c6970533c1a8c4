//! The ring of one worker: one receive that goes on and on, and the sends on their way.
//!
//! Work that completions leave to do waits until the worker asks for it (`IORING_SETUP_DEFER_TASKRUN`), so a batch is
//! what has arrived when the worker is ready for it. Every send is asked not to wait (`MSG_DONTWAIT`): the kernel takes
//! it at once or refuses it, it never lies there until its device has room. So an output that takes nothing costs a
//! refusal, and sends of one socket never pass each other.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use nix::errno::Errno;

use super::{
    buffers::{Buffers, GROUP},
    flights::Flights,
    input::{Fanout, Input},
    receive::{Arrival, CONTROL_LEN},
};
use crate::{
    backend::{
        SetupError,
        outlet::{self, Outlet},
    },
    stats::{Dropped, RingStats, WorkerStats},
};

/// Entries of the submission queue. When it is full, it is submitted.
const SUBMISSIONS: u32 = 256;
/// Marks the completions of the receive. Sends are marked by their slots.
const RECEIVE: u64 = u64::MAX;
/// Marks the completion of the end of the receive.
const CANCEL: u64 = u64::MAX - 1;

/// `IORING_ENTER_GETEVENTS` (include/uapi/linux/io_uring.h): do the work that completions left to do.
const GET_EVENTS: u32 = 1;

/// The ring, and what it works on.
pub struct Io {
    ring: IoUring,
    input: Input,
    /// What the receive asks for: no name, one control message.
    message: Box<Message>,
    pub(super) outlets: Vec<Outlet>,
    pub(super) flights: Flights,
    /// What was received and not read yet. Its capacity is the number of buffers.
    pub(super) arrivals: Vec<Arrival>,
    receive: Receive,
    /// How often the kernel refused to be called.
    refusals: u64,
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io")
            .field("input", &self.input)
            .field("flights", &self.flights)
            .field("receive", &self.receive)
            .finish_non_exhaustive()
    }
}

/// What the receive is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receive {
    /// Nothing yet: the ring belongs to no thread.
    Disabled,
    /// It was never asked for, or the kernel has ended it.
    Ended,
    /// It goes on.
    Armed,
    /// It is to end for good.
    Cancelled,
    /// It has ended for good.
    Over,
}

/// A `msghdr` without pointers.
#[derive(Debug)]
struct Message(libc::msghdr);

// SAFETY: its pointers are null.
unsafe impl Send for Message {}

impl Message {
    fn new() -> Self {
        // SAFETY: all zeros is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_controllen = CONTROL_LEN;
        Self(message)
    }
}

/// A ring that is enabled by the thread that works with it, with so many completions, and at least one a submission.
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

impl Io {
    /// Brings together what was set up.
    pub fn new(ring: IoUring, input: Input, outlets: Vec<Outlet>, buffers: &Buffers) -> Self {
        let flights = Flights::new(outlets.len());
        Self {
            ring,
            input,
            message: Box::new(Message::new()),
            outlets,
            arrivals: Vec::with_capacity(buffers.total() as usize),
            flights,
            receive: Receive::Disabled,
            refusals: 0,
        }
    }

    /// See [`Input::join`].
    pub fn join(&self, group: Option<Fanout>) -> Result<Fanout, SetupError> {
        self.input.join(group)
    }

    /// Keeps the memory of the messages for good, for the case that the kernel reads it still.
    pub fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.flights));
        std::mem::forget(std::mem::replace(
            &mut self.message,
            Box::new(Message::new()),
        ));
    }

    /// The socket that receives.
    pub fn input(&self) -> RawFd {
        self.input.socket().as_raw_fd()
    }

    /// What the receive was asked with.
    #[inline]
    pub fn message(&self) -> &libc::msghdr {
        &self.message.0
    }

    /// Asks for what arrives, where that has ended. The first time, the ring becomes the calling thread's.
    #[inline]
    pub fn arm(&mut self) {
        if self.receive != Receive::Armed {
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
        if self.receive == Receive::Ended {
            let socket = types::Fd(self.input());
            let entry = opcode::RecvMsgMulti::new(socket, &raw const self.message.0, GROUP)
                .build()
                .user_data(RECEIVE);
            // SAFETY: socket and message live as long as the ring; the buffers as long as `Buffers::provide` was
            // promised.
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
        matches!(self.receive, Receive::Armed | Receive::Cancelled) || self.flights.in_flight() > 0
    }

    /// Puts a send of a filled slot on the submission queue.
    #[inline]
    pub fn send(&mut self, slot: u32, message: *const libc::msghdr) -> bool {
        let flight = self.flights.look(slot);
        let Some(outlet) = flight.and_then(|flight| self.outlets.get(flight.outlet)) else {
            return false;
        };
        self.flights.goes(slot, outlet.is_direct());
        let entry = opcode::SendMsg::new(types::Fd(outlet.socket().as_raw_fd()), message)
            .flags(libc::MSG_DONTWAIT as u32)
            .build()
            .user_data(u64::from(slot));
        // SAFETY: a slot stays where it is, and keeps what its message points to, until its completion has come.
        unsafe { self.push(&entry) }
    }

    /// Puts an entry on the submission queue, which is submitted first where it is full.
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

    /// Whether there is something to do without a system call to wait for it.
    #[inline]
    pub fn has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        if submission.taskrun() || !submission.is_empty() {
            return true;
        }
        drop(submission);
        !self.ring.completion().is_empty()
    }

    /// Submits, and does what completions left to do. What the kernel does not take stays in the queue.
    #[inline]
    pub fn enter(&mut self) {
        let count = self.ring.submission().len() as u32;
        // SAFETY: no argument; entries are as `push` was promised.
        let entered = unsafe {
            self.ring
                .submitter()
                .enter::<libc::sigset_t>(count, 0, GET_EVENTS, None)
        };
        if let Err(error) = entered {
            self.refused(&error);
        }
    }

    /// Submits, and waits until a completion comes, at most so long. False if the kernel refused to wait.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        let time = types::Timespec::from(at_most);
        let arguments = types::SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => true,
            Err(error) => error.raw_os_error() == Some(libc::ETIME) || !self.refused(&error),
        }
    }

    /// Counts a refusal, unless it is of the kind that the next call mends: interrupted, short of memory for a moment, or
    /// completions to be taken first.
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

    /// How often the kernel refused to be called.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Takes all completions: what was received into the arrivals; what was sent is counted and its slot is free.
    #[inline]
    pub fn collect(&mut self, buffers: &Buffers, stats: &WorkerStats) {
        let Self {
            ring,
            outlets,
            flights,
            arrivals,
            receive,
            ..
        } = self;
        if ring.submission().cq_overflow() {
            // The kernel keeps them (`IORING_FEAT_NODROP`) and hands them over at the next `enter`.
            stats.ring.overflows.add(1);
        }
        for entry in ring.completion() {
            match entry.user_data() {
                RECEIVE => {
                    if !cqueue::more(entry.flags()) {
                        *receive = match *receive {
                            Receive::Cancelled => Receive::Over,
                            _ => Receive::Ended,
                        };
                    }
                    received(&entry, arrivals, buffers, stats);
                }
                CANCEL => {}
                slot => {
                    let slot = slot as u32;
                    let Some(flight) = flights.look(slot) else {
                        continue;
                    };
                    let refusal = (entry.result() < 0).then(|| Errno::from_raw(-entry.result()));
                    if let (Some(outlet), Some(output)) = (
                        outlets.get_mut(flight.outlet),
                        stats.outputs.get(flight.output as usize),
                    ) {
                        match refusal {
                            None => output.sent.add(flight.frames),
                            Some(error) if outlet.can_wait(error, flight.direct, flight.frames) => {
                                let frames = flight.frames as u16;
                                let parts = flights.parts(slot);
                                outlet.wait(flight.output, frames, parts, &stats.outputs);
                            }
                            Some(error) => {
                                outlet.count_refused(error, flight.direct, output, flight.frames);
                            }
                        }
                    }
                    flights.end(slot, buffers);
                }
            }
        }
    }

    /// Counts what is still on its way as unsent, when the worker ends.
    pub fn abandon(&mut self, stats: &WorkerStats) {
        outlet::abandon_all(&mut self.outlets, &stats.outputs);
        for flight in self.flights.on_their_way() {
            if let Some(output) = stats.outputs.get(flight.output as usize) {
                output.drops.add(Dropped::UnsentAtExit, flight.frames);
            }
        }
    }
}

/// One completion of the receive.
#[inline]
fn received(
    entry: &cqueue::Entry,
    arrivals: &mut Vec<Arrival>,
    buffers: &Buffers,
    stats: &WorkerStats,
) {
    let number = cqueue::buffer_select(entry.flags());
    let held = number.and_then(|number| buffers.received(number));
    match (u32::try_from(entry.result()), held) {
        (Ok(len), Some(held)) => arrivals.push(Arrival { held, len }),
        (Ok(_), None) => {}
        (Err(_), held) => {
            if let Some(held) = held {
                buffers.release(held);
            }
            failed(entry.result(), stats);
        }
    }
}

/// The receive has ended with an error.
#[cold]
fn failed(result: i32, stats: &WorkerStats) {
    let RingStats {
        out_of_buffers,
        interrupted,
        ..
    } = &stats.ring;
    match Errno::from_raw(-result) {
        // Nothing is lost: frames wait in the socket's buffer.
        Errno::ENOBUFS => out_of_buffers.add(1),
        // The one error that a frame ends with: the kernel cannot describe it (virtio_net_hdr_from_skb,
        // include/linux/virtio_net.h).
        Errno::EINVAL => {
            stats.received.add(1);
            stats.drops.add(Dropped::Malformed, 1);
        }
        Errno::ECANCELED => {}
        _ => interrupted.add(1),
    }
}
