//! TX sockets: copies leave in GSO packets, which is fast where AF_XDP would copy each frame.
//!
//! A packet socket with `PACKET_VNET_HDR` takes a GSO packet: one header and the payloads of many
//! datagrams. The NIC, or the kernel right before the driver, cuts it into frames, numbers them and
//! computes their checksums (Documentation/networking/segmentation-offloads.rst, `SKB_GSO_UDP_L4`).
//! So the kernel's transmit path is paid once per run and not once per frame. The kernel gathers
//! header and payloads, wherever they lie.
//!
//! A [`TxSocket`] has the sockets of one interface, and the state of its device. The backends send
//! messages to it, by `sendmmsg` or io_uring. A message that a full TX ring refuses waits in the TX
//! socket, on both backends, and goes out ahead of everything newer.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    backlog::{self, Backlog, Waiting},
    error::SetupError,
    output_link::Link,
    stats::{Dropped, OutputStats, Outputs},
    tap::Fate,
};
use crate::{
    host::{GsoLimits, packet_socket, socket_options},
    plan::Interface,
};

/// Bytes that the kernel may keep in socket buffers for one interface before it answers `EAGAIN`:
/// 128 of the largest GSO packets.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// How long a device that had no room is left alone: a refusal costs as much as a message that
/// leaves.
const RETRY_EVERY: Duration = Duration::from_micros(100);

/// How long a message that a device without a queue refused waits for the news that the kernel must
/// cut it now: on a busy machine the watcher may be late.
const NEWS_COME: Duration = Duration::from_secs(1);

/// What copies leave one interface through: two packet sockets, which receive nothing, and the
/// state of the device.
///
/// One socket goes straight to the device (`PACKET_QDISC_BYPASS`), and the kernel reports every
/// refusal. It refuses a packet that the kernel would have to cut apart (`__dev_direct_xmit`,
/// net/core/dev.c). So where the kernel cuts, messages go to the other socket, which goes through
/// the queueing discipline; only interfaces that have none are used like that. Then the kernel's
/// answer is about the last part only, but the device's own counter of drops is exact, one per
/// frame ([`crate::host::device_drops`]). Without a carrier the other socket loses everything
/// without an error (`noop_qdisc`), so messages go to the direct one, which refuses them. The
/// [`Link`] says which of this holds.
///
/// A message stays with the socket that it is given to, so later news about the device change
/// nothing about it.
#[derive(Debug)]
pub struct TxSocket {
    straight: OwnedFd,
    queued: OwnedFd,
    direct: bool,
    link: Arc<Link>,
    backlog: Backlog,
    /// When the oldest waiting message was last refused.
    refused: Option<Instant>,
}

impl TxSocket {
    /// Opens the sockets on an interface, whose device `link` tells about.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, with the interface.
    pub fn open(interface: &Interface, link: Arc<Link>) -> Result<Self, SetupError> {
        Ok(Self {
            straight: open(interface, true)?,
            queued: open(interface, false)?,
            direct: true,
            link,
            backlog: Backlog::default(),
            refused: None,
        })
    }

    /// One of its sockets, for [`is_bound`].
    pub fn fd(&self) -> RawFd {
        self.straight.as_raw_fd()
    }

    /// The socket that messages go to now. Sends on it must not wait (`MSG_DONTWAIT`).
    #[inline]
    pub fn socket(&self) -> BorrowedFd<'_> {
        if self.direct {
            self.straight.as_fd()
        } else {
            self.queued.as_fd()
        }
    }

    /// Whether [`Self::socket`] goes straight to the device.
    #[inline]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The limits that messages must stay within: where the kernel cuts in any case, those of the
    /// device do not matter.
    #[inline]
    pub fn limits_now(&self) -> GsoLimits {
        if self.cuts() {
            GsoLimits::default()
        } else {
            self.link.gso_limits()
        }
    }

    /// Whether the kernel cuts GSO packets apart in front of the device.
    #[inline]
    fn cuts(&self) -> bool {
        self.link.state().is_cut()
    }

    /// Chooses the socket that suits the device's state now, and sends the messages that wait.
    /// Called before every batch.
    #[inline]
    pub fn begin(&mut self, outputs: &Outputs) {
        let state = self.link.state();
        self.direct = !(state.is_cut() && state.carries);
        if self.waits() {
            self.retry(outputs);
        }
    }

    /// How many messages one call may carry. A `sendmmsg` that has sent some does not tell why the
    /// next one failed; only sending that one again would. Where the kernel cuts, parts of it have
    /// left, and the device has counted the others.
    #[inline]
    pub fn at_once(&self) -> usize {
        if self.cuts() { 1 } else { usize::MAX }
    }

    /// Whether messages wait for the device. Then every newer one must [wait](Self::wait) behind
    /// them.
    #[inline]
    pub fn waits(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether no message waits since `then` or longer.
    pub fn is_settled(&self, then: Instant) -> bool {
        !self.backlog.has_older(then)
    }

    /// Whether a message of `frames` frames, refused with `error`, can wait: nothing of it has
    /// left, and the device may take it in a moment, or through the other socket. `direct` is
    /// whether it went straight to the device.
    #[cold]
    pub fn can_wait(&self, error: Errno, direct: bool, frames: u64) -> bool {
        if error != Errno::ENOBUFS || !direct {
            return false;
        }
        let state = self.link.state();
        if state.is_cut() && state.carries {
            // The message was made before that was known, and the device has counted the refusal.
            self.link.was_told();
        }
        let may_be_taken = if state.queueless {
            // Such a device has dropped the message. But the kernel may have to cut now, and the
            // refusal may come before the news.
            frames > 1 || state.is_cut()
        } else {
            frames == 1 || state.takes_gso
        };
        state.carries && may_be_taken
    }

    /// Puts a message of `frames` frames of `output` behind all others to wait, or counts it as
    /// dropped if there is no room.
    #[cold]
    pub fn wait<'a>(
        &mut self,
        output: u32,
        frames: u16,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        outputs: &Outputs,
    ) {
        if self.backlog.put(output, frames, parts.clone()) {
            return;
        }
        if let Some(output) = outputs.get(output as usize) {
            output.drops.add(Dropped::RingFull, frames.into());
        }
        if outputs.taps().is_on() {
            let fate = Some(Dropped::RingFull);
            outputs.taps().message(output, frames.into(), fate, parts);
        }
    }

    /// Sends the messages that wait, oldest first, as far as the device takes them, and gives up
    /// those that have waited too long.
    #[cold]
    fn retry(&mut self, outputs: &Outputs) {
        if self.refused.is_some_and(|at| at.elapsed() < RETRY_EVERY) {
            return;
        }
        self.refused = None;
        while let Some((oldest, bytes)) = self.backlog.oldest() {
            let (direct, frames) = (self.direct, u64::from(oldest.frames));
            let refusal = match send_one(self.socket(), bytes) {
                Ok(()) => None,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => {
                    self.refused = Some(Instant::now());
                    break;
                }
                Err(error) if self.can_wait(error, direct, frames) => {
                    self.refused = Some(Instant::now());
                    break;
                }
                Err(error) => Some(error),
            };
            match (outputs.get(oldest.output as usize), refusal) {
                (Some(output), None) => output.sent.add(frames),
                (Some(output), Some(error)) => self.count_refused(error, direct, output, frames),
                (None, _) => {}
            }
            if outputs.taps().is_on() {
                let fate = refusal.and_then(|error| fate(error, direct));
                let parts = std::iter::once(bytes);
                outputs.taps().message(oldest.output, frames, fate, parts);
            }
            self.backlog.forget_oldest();
        }
        let (patience, why) = if self.link.state().queueless {
            (NEWS_COME, Dropped::DeviceRefused)
        } else {
            (backlog::PATIENCE, Dropped::RingFull)
        };
        while let Some((oldest, _)) = self.backlog.oldest()
            && oldest.since.elapsed() > patience
        {
            self.give_up(oldest, why, outputs);
        }
    }

    /// Counts the messages that still wait as unsent, when the worker ends or the socket is closed.
    fn abandon(&mut self, outputs: &Outputs) {
        while let Some((oldest, _)) = self.backlog.oldest() {
            self.give_up(oldest, Dropped::UnsentAtExit, outputs);
        }
    }

    fn give_up(&mut self, oldest: Waiting, why: Dropped, outputs: &Outputs) {
        if let Some(output) = outputs.get(oldest.output as usize) {
            output.drops.add(why, oldest.frames.into());
        }
        if outputs.taps().is_on()
            && let Some((_, bytes)) = self.backlog.oldest()
        {
            let (frames, parts) = (oldest.frames.into(), std::iter::once(bytes));
            outputs
                .taps()
                .message(oldest.output, frames, Some(why), parts);
        }
        self.backlog.forget_oldest();
    }

    /// Counts the frames of one message that the kernel refused; `direct` is whether it went
    /// straight to the device.
    #[cold]
    pub fn count_refused(&self, error: Errno, direct: bool, output: &OutputStats, frames: u64) {
        if error == Errno::ENOBUFS && direct && self.link.state().is_cut() {
            self.link.was_told();
        }
        match fate(error, direct) {
            None => output.sent.add(frames),
            Some(reason) => output.drops.add(reason, frames),
        }
    }
}

/// What becomes of the frames of a message that the kernel answered with this error; `direct` is
/// whether it went straight to the device.
#[inline]
pub fn fate(error: Errno, direct: bool) -> Fate {
    match error {
        // The device's own counter has the frames that did not leave.
        Errno::ENOBUFS if !direct => None,
        Errno::EAGAIN => Some(Dropped::RingFull),
        Errno::EMSGSIZE => Some(Dropped::TooBig),
        _ => Some(Dropped::DeviceRefused),
    }
}

/// Sends the messages that wait in `tx_sockets`. Called once per round.
#[inline]
pub fn retry_all(tx_sockets: &mut [TxSocket], outputs: &Outputs) {
    for tx_socket in tx_sockets {
        if tx_socket.waits() {
            tx_socket.begin(outputs);
        }
    }
}

/// Whether a message waits in `tx_sockets`.
#[inline]
pub fn any_waits(tx_sockets: &[TxSocket]) -> bool {
    tx_sockets.iter().any(TxSocket::waits)
}

/// Counts the messages that still wait in `tx_sockets` as unsent, when they are to be closed.
pub fn abandon_all(tx_sockets: &mut [TxSocket], outputs: &Outputs) {
    for tx_socket in tx_sockets {
        tx_socket.abandon(outputs);
    }
}

/// Whether the packet socket `fd` is bound to the interface with this index. It no longer is when
/// the interface has been deleted or moved to another namespace, even if one with the same index
/// is back.
pub fn is_bound(fd: RawFd, index: u32) -> bool {
    packet_socket::bound_to(fd).is_ok_and(|bound| bound == Some(index))
}

/// Opens a packet socket on an interface for GSO packets, straight to the device or not.
fn open(interface: &Interface, straight: bool) -> Result<OwnedFd, SetupError> {
    let failed = |what: &'static str| {
        let interface = interface.name.clone();
        move |error: Errno| SetupError::Socket {
            interface,
            what,
            error: error.into(),
        }
    };
    let socket = packet_socket::open().map_err(failed("open a packet socket"))?;
    let fd = socket.as_raw_fd();
    socket_options::set(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
        .map_err(failed("set PACKET_VNET_HDR"))?;
    if straight {
        socket_options::set(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
            .map_err(failed("set PACKET_QDISC_BYPASS"))?;
    }
    socket_options::set_send_buffer(fd, SEND_BUFFER);
    packet_socket::bind(&socket, interface.index, 0).map_err(failed("bind a packet socket"))?;
    Ok(socket)
}

/// Sends one message that is in one piece, without waiting.
fn send_one(socket: BorrowedFd<'_>, message: &[u8]) -> Result<(), Errno> {
    // SAFETY: the bytes are valid for reads of their length.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            libc::MSG_DONTWAIT,
        )
    };
    Errno::result(sent).map(drop)
}
