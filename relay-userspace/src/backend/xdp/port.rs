//! One (interface, queue): four rings, what is outstanding, and when to kick.
//!
//! A copy counts as sent when the kernel has taken its descriptor off the TX ring, and not before. The
//! port therefore remembers, in the order of the ring, which output each descriptor belongs to, and
//! reads after every kick how far the kernel came ([`Port::kick`]). In copy mode the kernel works within the kick, and says
//! what became of the frames; in zero copy the device takes them when it likes, and is kicked only where it asks for it.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use nix::errno::Errno;
use xsk_rs::{
    CompQueue, FillQueue, RxQueue, Socket, TxQueue,
    config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig},
    umem::frame::FrameDesc,
};

use super::{
    umem::{Chunk, Chunks, FILL_SIZE},
    wakeup,
};
use crate::{
    backend::{SetupError, sockopt},
    plan::Mode,
    stats::{Dropped, OutputStats},
};

/// Entries of a TX ring, and the limit on what one port may have on its way.
pub const TX_SIZE: u32 = 2048;
/// Entries of an RX ring: as many as the FILL ring can lend, so that the FILL ring empties first and
/// overload is dropped where it is cheapest.
const RX_SIZE: u32 = FILL_SIZE;
/// Frames taken from an RX ring at a time, at most. Where a hundred flows take turns, a batch of this many still
/// brings ten frames of each to join: 2.6 Mpps left by 16 outputs, where batches of 64 gave 0.6.
pub const BATCH: usize = 1024;

/// Bytes that the kernel may keep in socket buffers for one port before it answers `EAGAIN`. In copy mode
/// every frame on its way is one buffer of about 2.3 KB; this allows a whole TX ring of them.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// What a kick found out about the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// It takes frames.
    Ready,
    /// It is down; frames wait in the TX ring.
    Down,
    /// It is gone (`ENXIO`): deleted, or moved to another namespace. The socket is of no use any more. Or, in zero copy,
    /// its driver has taken the queue away for a moment.
    Gone,
}

/// One AF_XDP socket and its four rings.
#[derive(Debug)]
pub struct Port {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Which output each descriptor in the TX ring belongs to: a ring indexed like the TX ring.
    outputs: Box<[u32]>,
    /// Descriptors for the next submission, in order. Its capacity is `TX_SIZE`, so it never grows.
    staged: Vec<FrameDesc>,
    /// Descriptors ever put on the TX ring, staged ones included.
    queued: u32,
    /// Of those, how many the kernel took off the ring.
    taken: u32,
    /// Of those, how many came back by the completion ring.
    completed: u32,
    /// Chunks in the FILL ring or on their way to the RX ring.
    lent: u32,
    /// How many of them it shall be.
    lends: u32,
    mode: Mode,
    /// A kick made no room in this round; another one would be a system call for nothing.
    full: bool,
    device: Device,
    /// Room for descriptors out of a ring.
    batch: Box<[FrameDesc]>,
}

impl Port {
    /// Binds to a queue, whose FILL ring shall hold `lends` chunks.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, with interface, queue and mode.
    pub fn bind(
        chunks: &Chunks,
        interface: &str,
        queue: u32,
        mode: Mode,
        lends: u32,
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
        let config = SocketConfig::builder()
            .rx_queue_size(size(RX_SIZE)?)
            .tx_queue_size(size(TX_SIZE)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode_flag | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = interface
            .parse()
            .map_err(|_| failed(io::Error::from_raw_os_error(libc::ENODEV)))?;
        // SAFETY: each (interface, queue) is bound once, by the one worker that owns it in the plan, and
        // the ring pair that comes with it is kept together with the socket in this `Port`.
        let (tx, rx, rings) = unsafe { Socket::new(config, chunks.umem(), &name, queue) }
            .map_err(|error| failed(os_error(&error)))?;
        let (fill, completion) =
            rings.ok_or_else(|| failed(io::Error::from_raw_os_error(libc::EBUSY)))?;
        let port = Self {
            tx,
            rx,
            fill,
            completion,
            outputs: vec![0; TX_SIZE as usize].into(),
            staged: Vec::with_capacity(TX_SIZE as usize),
            queued: 0,
            taken: 0,
            completed: 0,
            lent: 0,
            lends,
            mode,
            full: false,
            device: Device::Ready,
            batch: vec![FrameDesc::default(); BATCH].into(),
        };
        sockopt::set_send_buffer(port.fd(), SEND_BUFFER);
        Ok(port)
    }

    /// The socket, for the XSKMAP and for `poll`.
    pub fn fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    /// What the last kick found out.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Descriptors that have not come back.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.queued.wrapping_sub(self.completed)
    }

    /// Descriptors that the kernel has not taken yet.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.queued.wrapping_sub(self.taken)
    }

    /// Whether one more frame may be queued. The limit counts what has not come back, so that neither
    /// the TX ring nor the completion ring can overflow.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.outstanding() < TX_SIZE
    }

    /// Kicks for room where there is none: one batch may bring more frames than the ring holds. Once in vain is
    /// enough until the next [`Port::begin_round`].
    #[inline]
    pub fn make_room(&mut self, chunks: &mut Chunks, stats: &[OutputStats]) {
        if !self.has_room() && !self.full {
            self.kick(stats);
            self.reap(chunks);
            self.full = !self.has_room();
        }
    }

    /// Begins a round: what was full may have room again.
    #[inline]
    pub fn begin_round(&mut self, chunks: &mut Chunks) {
        self.full = false;
        self.reap(chunks);
    }

    /// Queues a frame for `output`, to be submitted by the next [`Port::kick`]. Only after [`Port::has_room`].
    #[inline]
    pub fn queue(&mut self, chunk: &Chunk, output: u32) {
        // The index stays right when the numbers wrap, because TX_SIZE is a power of two.
        if let Some(slot) = self.outputs.get_mut((self.queued % TX_SIZE) as usize) {
            *slot = output;
        }
        self.staged.push(chunk.desc());
        self.queued = self.queued.wrapping_add(1);
    }

    /// Submits what is queued, makes the kernel work on the TX ring, and counts what it took.
    ///
    /// In copy mode it repeats while the kernel makes progress, which takes 32 frames a call and stops at
    /// a refused one. A device in zero copy goes on by itself.
    pub fn kick(&mut self, stats: &[OutputStats]) {
        if !self.staged.is_empty() {
            // SAFETY: the descriptors are of chunks of this socket's UMEM that left the worker's hands by
            // `Chunks::transmitted`, so nobody writes to them until they complete.
            let produced = unsafe { self.tx.produce(&self.staged) };
            debug_assert_eq!(produced, self.staged.len(), "has_room() promised the room");
            self.staged.clear();
        }
        while self.waiting() > 0 {
            let before = self.taken;
            // In copy mode the flag is always set.
            let result = if self.tx.needs_wakeup() {
                wakeup::transmitter(self.tx.fd().as_raw_fd())
            } else {
                Ok(())
            };
            let copies = self.mode == Mode::Copy;
            self.settle(stats, copies && result == Err(Errno::EBUSY));
            match result {
                Err(Errno::EBUSY | Errno::EINTR) if copies => continue,
                Ok(()) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EBUSY | Errno::EINTR) => {
                    self.device = Device::Ready;
                }
                Err(Errno::ENXIO | Errno::ENODEV | Errno::EBADF) => self.device = Device::Gone,
                // In zero copy it is the driver's word: ENETDOWN, or what it says while it resets.
                Err(_) => self.device = Device::Down,
            }
            if self.taken == before || !copies {
                break;
            }
        }
    }

    /// Counts the frames that the kernel has taken since the last time as sent, the last one as refused
    /// where it said so.
    ///
    /// The kernel publishes how far it came only when it sent something (`__xsk_generic_xmit`,
    /// net/xdp/xsk.c), so a refusal right at the start shows as no progress and is one frame on.
    fn settle(&mut self, stats: &[OutputStats], refused: bool) {
        let on_ring = TX_SIZE.saturating_sub(self.tx.nb_free_exact());
        let published = self.queued.wrapping_sub(on_ring);
        let known = published.wrapping_sub(self.taken);
        // More than is waiting means that the published number is behind a refusal counted before.
        let known = if known > self.waiting() { 0 } else { known };
        let new = if refused {
            known.max(1).min(self.waiting())
        } else {
            known
        };
        for step in 0..new {
            if let Some(output) = self.output_of(self.taken.wrapping_add(step), stats) {
                if refused && step + 1 == new {
                    output.drops.add(Dropped::DeviceRefused, 1);
                } else {
                    output.sent.add(1);
                }
            }
        }
        self.taken = self.taken.wrapping_add(new);
    }

    /// The counters of the output that a descriptor on the TX ring belongs to.
    #[inline]
    fn output_of<'a>(&self, descriptor: u32, stats: &'a [OutputStats]) -> Option<&'a OutputStats> {
        let at = *self.outputs.get((descriptor % TX_SIZE) as usize)?;
        stats.get(at as usize)
    }

    /// Counts what the kernel never took, at the end.
    pub fn abandon(&mut self, stats: &[OutputStats]) {
        for step in 0..self.waiting() {
            if let Some(output) = self.output_of(self.taken.wrapping_add(step), stats) {
                output.drops.add(Dropped::UnsentAtExit, 1);
            }
        }
        self.taken = self.queued;
    }

    /// Reads the completion ring: chunks whose last descriptor came back are free again.
    pub fn reap(&mut self, chunks: &mut Chunks) {
        while self.outstanding() > 0 {
            // SAFETY: the descriptors are only used to find the chunks' numbers.
            let count = unsafe { self.completion.consume(&mut self.batch) };
            for desc in &self.batch[..count] {
                chunks.completed(desc);
            }
            self.completed = self.completed.wrapping_add(count as u32);
            if count < self.batch.len() {
                break;
            }
        }
    }

    /// Takes up to [`BATCH`] frames off the RX ring into `frames`, which must be empty: the first one last, to be
    /// popped in order.
    #[inline]
    pub fn receive(&mut self, chunks: &mut Chunks, frames: &mut Vec<Chunk>) {
        // SAFETY: the descriptors become `Chunk`s right here, each once.
        let count = unsafe { self.rx.consume(&mut self.batch) };
        self.lent = self.lent.saturating_sub(count as u32);
        for &desc in self.batch[..count].iter().rev() {
            // SAFETY: it came out of this UMEM's RX ring just now.
            frames.push(unsafe { chunks.received(desc) });
        }
    }

    /// Fills the FILL ring up with free chunks, and wakes the kernel where it waits for them.
    ///
    /// # Errors
    ///
    /// The wakeup's.
    pub fn refill(&mut self, chunks: &mut Chunks) -> io::Result<()> {
        while self.lent < self.lends {
            let mut count = 0;
            while count < self.batch.len() && self.lent + (count as u32) < self.lends {
                let Some(chunk) = chunks.take() else { break };
                self.batch[count] = chunk.desc();
                chunks.filled(chunk);
                count += 1;
            }
            if count == 0 {
                break;
            }
            // SAFETY: the chunks left the free list just now, and belong to the ring if it takes them.
            let produced = unsafe { self.fill.produce(&self.batch[..count]) };
            if produced == 0 {
                // All or nothing. The kernel publishes what it received before what it took off the FILL ring
                // (`xsk_flush`, net/xdp/xsk.c), so for a moment the ring may be fuller than it must be.
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

    /// Makes the device look at its queue once, whether the FILL ring asks for it or not: a queue that found the ring
    /// empty at the bind may never have run yet, so that nobody has set the flag.
    ///
    /// # Errors
    ///
    /// The kick's.
    pub fn kick_receiver(&mut self) -> io::Result<()> {
        if self.lends > 0 {
            self.wake_receiver()?;
        }
        Ok(())
    }

    /// `poll` wakes what is flagged. Not every driver's receiver hears it: see [`wakeup::receiver`].
    fn wake_receiver(&mut self) -> io::Result<()> {
        if self.mode == Mode::ZeroCopy {
            wakeup::receiver(self.fd());
        }
        self.fill.wakeup(self.rx.fd_mut(), 0)
    }
}

/// The kernel's error inside one of xsk-rs.
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
