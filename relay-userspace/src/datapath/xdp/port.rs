//! One (interface, queue): an AF_XDP socket and its four rings.
//!
//! xsk-rs binds the socket, and its RX and FILL ring are here: the FILL ring lends a chunk to the
//! kernel, the RX ring brings it back. TX and completion ring are the [`Transmitter`]'s.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use xsk_rs::{
    FillQueue, RxQueue, Socket, Umem,
    config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig},
    umem::frame::FrameDesc,
};

use super::{
    egress::Egress,
    kick,
    ring_sizes::{BATCH, RX_SIZE, TX_SIZE},
    transmitter::{Device, Transmitter},
    tx_rings::{Descriptor, TxRings},
    umem::{self, Chunk, Chunks},
};
use crate::{
    datapath::{error::SetupError, latency::Sampler, socket_drops, stats::Outputs},
    host::socket_options,
    plan::Mode,
};

/// Bytes that the kernel may keep in socket buffers for one port before it answers `EAGAIN`. In
/// copy mode every frame in flight is one buffer of about 2.3 KB; this allows a whole TX ring of
/// them.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// One AF_XDP socket and its four rings.
#[derive(Debug)]
pub struct Port {
    transmitter: Transmitter<TxRings>,
    rx: RxQueue,
    fill: FillQueue,
    /// Frames that its RX ring has brought since it was bound.
    received: u64,
    /// Chunks in the FILL ring or on their way to the RX ring.
    lent: u32,
    /// How many of them there shall be.
    lends: u32,
    /// What samples how long its frames are in the relay.
    pub(in crate::datapath) sampler: Sampler,
    /// What its chunks are known by.
    tag: u16,
    /// The kernel's index of the interface, and the queue.
    key: (u32, u32),
    mode: Mode,
    /// The RX ring brings a frame that began in an earlier descriptor.
    is_within_a_frame: bool,
    /// Frames ever queued, when [`Self::begin_settling`] was last called.
    queued_then: u32,
    /// Room for descriptors from a ring.
    batch: Box<[FrameDesc]>,
}

impl Port {
    /// Binds a socket to a queue of an interface, given by name and index, whose FILL ring shall
    /// hold `lends` chunks. No other port of the UMEM may have the same `tag`. With `shares` its TX
    /// ring takes frames of two parts; the first socket of a UMEM decides whether any does.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, with interface, queue and mode.
    pub fn bind(
        umem: &Umem,
        (interface, index): (&str, u32),
        queue: u32,
        mode: Mode,
        lends: u32,
        tag: u16,
        shares: bool,
    ) -> Result<Self, SetupError> {
        let failed = |error: io::Error| SetupError::Bind {
            interface: interface.into(),
            queue,
            mode,
            error,
        };
        let size = |size: u32| {
            QueueSize::new(size).map_err(|error| failed(io::Error::other(error.to_string())))
        };
        let mode_flag = match mode {
            Mode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            Mode::Copy => BindFlags::XDP_COPY,
        };
        let parts_flag = match shares {
            true => BindFlags::XDP_USE_SG,
            false => BindFlags::empty(),
        };
        let config = SocketConfig::builder()
            .rx_queue_size(size(RX_SIZE)?)
            .tx_queue_size(size(TX_SIZE)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode_flag | parts_flag | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = interface
            .parse()
            .map_err(|_| failed(io::Error::from_raw_os_error(libc::ENODEV)))?;
        // SAFETY: each (interface, queue) is bound once, by the one worker that owns it in the
        // plan, and the ring pair that comes with it is kept together with the socket in this
        // `Port`.
        let (tx, rx, rings) = unsafe { Socket::new(config, umem, &name, queue) }
            .map_err(|error| failed(os_error(&error)))?;
        let (fill, completion) =
            rings.ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EBUSY)))?;
        let tx_rings = TxRings::new(tx, completion).map_err(failed)?;
        let port = Self {
            transmitter: Transmitter::new(tx_rings, mode).sharing(shares),
            rx,
            fill,
            received: 0,
            lent: 0,
            lends,
            sampler: Sampler::new(index, queue),
            tag,
            key: (index, queue),
            mode,
            is_within_a_frame: false,
            queued_then: 0,
            batch: vec![FrameDesc::default(); BATCH].into(),
        };
        socket_options::set_send_buffer(port.fd(), SEND_BUFFER);
        Ok(port)
    }

    /// The socket, for the XSKMAP and for `poll`.
    pub fn fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    /// The kernel's index of the interface, and the frames that were redirected to this socket and
    /// are accounted for: those that its RX ring has brought, and those that the kernel dropped in
    /// front of it.
    pub fn accounted(&self) -> (u32, u64) {
        let (interface, _) = self.key;
        let dropped = socket_drops::of_xdp(self.fd()).unwrap_or_default().total();
        (interface, self.received + dropped)
    }

    /// Whether `poll` on the socket would transmit the frames that wait. In copy mode it does, and
    /// hides refusals (`xsk_poll`, net/xdp/xsk.c).
    pub fn transmits_when_polled(&self) -> bool {
        self.mode == Mode::Copy && self.waiting() > 0
    }

    /// The state of the device, as the last kick found it.
    pub fn device(&self) -> Device {
        self.transmitter.device()
    }

    /// Descriptors that have not come back.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.transmitter.outstanding()
    }

    /// Descriptors that the kernel has not taken yet.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.transmitter.waiting()
    }

    /// Remembers which frames are in flight now, for [`Self::is_settled`].
    pub fn begin_settling(&mut self) {
        self.queued_then = self.transmitter.queued();
    }

    /// Whether every frame is accounted for that was in flight at [`Self::begin_settling`]. To be
    /// asked in every round until it says so.
    pub fn is_settled(&self) -> bool {
        self.transmitter.has_accounted(self.queued_then)
    }

    /// See [`Transmitter::begin_round`].
    #[inline]
    pub fn begin_round(&mut self, chunks: &mut Chunks, stats: &Outputs) {
        self.transmitter.begin_round(chunks, stats);
    }

    /// See [`Transmitter::kick`].
    pub fn kick(&mut self, chunks: &mut Chunks, stats: &Outputs) {
        self.transmitter.kick(chunks, stats);
    }

    /// The kernel's index of the interface, and the queue.
    pub fn key(&self) -> (u32, u32) {
        self.key
    }

    /// What its chunks are known by.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// From now on the FILL ring shall hold `lends` chunks. Where it holds more, it gets none until
    /// as many were received into.
    pub fn set_lends(&mut self, lends: u32) {
        self.lends = lends;
    }

    /// See [`Transmitter::leave`].
    pub fn leave(&mut self, chunks: &mut Chunks, stats: &Outputs) {
        self.transmitter.leave(chunks, stats);
    }

    /// See [`Transmitter::not_back`].
    pub fn not_back(&self) -> Box<[Descriptor]> {
        self.transmitter.not_back()
    }

    /// See [`Transmitter::abandon`].
    pub fn abandon(&mut self, chunks: &mut Chunks, stats: &Outputs) {
        self.transmitter.abandon(chunks, stats);
    }

    /// See [`Transmitter::take_back`].
    pub fn take_back(&mut self, chunks: &mut Chunks, stats: &Outputs) {
        self.transmitter.take_back(chunks, stats);
    }

    /// Takes up to [`BATCH`] frames off the RX ring into `frames`, which must be empty. The first
    /// frame is put last, so that `pop` returns them in order.
    #[inline]
    pub fn receive(&mut self, chunks: &mut Chunks, frames: &mut Vec<Chunk>) {
        // SAFETY: the descriptors become `Chunk`s right here, each once.
        let count = unsafe { self.rx.consume(&mut self.batch) };
        self.lent = self.lent.saturating_sub(count as u32);
        self.received += count as u64;
        if self.transmitter.shares() {
            self.blank_parts(count);
        }
        for desc in self.batch[..count].iter().rev() {
            // SAFETY: it came out of this UMEM's RX ring just now.
            frames.push(unsafe { chunks.received(desc) });
        }
    }

    /// Marks the received descriptors that are parts of a longer frame, such as one that a sender
    /// made too long for the MTU: no part shall be taken for a frame. They come only where frames
    /// of several parts may be sent, too.
    #[inline(never)]
    fn blank_parts(&mut self, count: usize) {
        for desc in self.batch.iter_mut().take(count) {
            let goes_on = desc.has_more_frames();
            let is_part = goes_on || self.is_within_a_frame;
            self.is_within_a_frame = goes_on;
            desc.set_options(u32::from(is_part) * umem::PART);
        }
    }

    /// Fills the FILL ring up with free chunks, and kicks it if the kernel waits for them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the kick.
    pub fn refill(&mut self, chunks: &mut Chunks) -> io::Result<()> {
        while self.lent < self.lends {
            let mut count = 0;
            while count < self.batch.len() && self.lent + (count as u32) < self.lends {
                let Some(desc) = chunks.fill_one(self.tag) else {
                    break;
                };
                self.batch[count] = desc;
                count += 1;
            }
            if count == 0 {
                break;
            }
            // SAFETY: the chunks left the free list just now, and belong to the ring if it takes
            // them.
            let produced = unsafe { self.fill.produce(&self.batch[..count]) };
            if produced == 0 {
                // All or none. The kernel publishes what it received before what it took off the
                // FILL ring (`xsk_flush`, net/xdp/xsk.c), so for a moment the ring may look fuller
                // than it is.
                for desc in &self.batch[..count] {
                    chunks.unfilled(desc);
                }
                break;
            }
            self.lent += count as u32;
        }
        if self.lends > 0 && self.fill.needs_wakeup() {
            self.wake_receiver()?;
        }
        Ok(())
    }

    /// Kicks the FILL ring once, whether the kernel asks for it or not: a queue that found the ring
    /// empty at the bind may never have run yet, so that the driver has not set the flag.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the kick.
    pub fn kick_receiver(&mut self) -> io::Result<()> {
        if self.lends > 0 {
            self.wake_receiver()?;
        }
        Ok(())
    }

    /// `poll` kicks the rings whose flag is set. Not every driver's receiver reacts: see
    /// [`kick::receiver`].
    fn wake_receiver(&mut self) -> io::Result<()> {
        if self.mode == Mode::ZeroCopy {
            kick::receiver(self.fd());
        }
        self.fill.wakeup(self.rx.fd_mut(), 0)
    }
}

impl Egress for Port {
    #[inline]
    fn shares(&self) -> bool {
        self.transmitter.shares()
    }

    #[inline]
    fn has_room(&self, descriptors: u32) -> bool {
        self.transmitter.has_room(descriptors)
    }

    #[inline]
    fn make_room(&mut self, descriptors: u32, chunks: &mut Chunks, stats: &Outputs) {
        self.transmitter.make_room(descriptors, chunks, stats);
    }

    #[inline]
    fn queue(&mut self, frame: Descriptor, output: u32) {
        self.transmitter.queue(frame, output);
    }

    #[inline]
    fn queue_parts(&mut self, headers: Descriptor, payload: Descriptor, output: u32) {
        self.transmitter.queue_parts(headers, payload, output);
    }

    #[inline(always)]
    fn queue_all_parts(&mut self, frames: impl Iterator<Item = [Descriptor; 2]>, output: u32) {
        self.transmitter.queue_all_parts(frames, output);
    }
}

/// The kernel's error inside an error of xsk-rs.
fn os_error(error: &(dyn std::error::Error + 'static)) -> io::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        )
}
