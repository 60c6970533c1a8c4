//! Segmented transmit: the fast way out where AF_XDP would copy each frame.
//!
//! A packet socket with `PACKET_VNET_HDR` takes a super-frame: one header and the payloads of many datagrams.
//! The NIC, or the kernel right before the driver, cuts it into frames, numbers them and computes their
//! checksums (Documentation/networking/segmentation-offloads.rst, `SKB_GSO_UDP_L4`). So the way through
//! the kernel is paid once a run and not once a frame. The kernel gathers header and payloads, the payloads
//! straight from where they were received: user space copies none.
//!
//! An [`Outlet`] has the sockets of one interface, and what is known of its device. How messages
//! get there is the backends' matter: `sendmmsg` or io_uring. What a full TX ring refuses waits in
//! the outlet, whatever the backend, and goes out ahead of everything newer.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{
    SetupError,
    backlog::{self, Backlog, Waiting},
    sockopt,
};
use crate::{
    link::Link,
    nic::GsoLimits,
    plan::{self, Interface, Plan},
    stats::{Dropped, OutputStats},
};

/// Bytes that the kernel may keep in socket buffers for one interface before it answers `EAGAIN`: 128 of the
/// largest super-frames.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// How long a device that had no room is left alone: a refusal costs as much as a message that
/// leaves.
const RETRY_EVERY: Duration = Duration::from_micros(100);

/// How long what a device without a queue refused waits for news that the kernel must cut it now: on a busy machine the
/// watcher may be late.
const NEWS_COME: Duration = Duration::from_secs(1);

/// What copies leave one interface by: two packet sockets, which receive nothing, and what is known
/// of the device.
///
/// One socket goes straight to the device (`PACKET_QDISC_BYPASS`), and every refusal is told. It
/// refuses what the kernel would have to cut apart (`__dev_direct_xmit`, net/core/dev.c). So where
/// the kernel cuts, the other one is taken, which goes by way of the queueing discipline; only
/// interfaces that have none are used like that. Then the kernel's answer is about the last part
/// only, but the device's own counter of drops is exact, one a frame ([`crate::device_drops`]).
/// Without a carrier this way swallows everything without a word (`noop_qdisc`), and the direct one
/// is taken, which refuses it. Which of all this holds, the [`Link`] says.
///
/// A message's way is the socket that it is given to, so what is learned of the device later
/// changes nothing about it.
#[derive(Debug)]
pub struct Outlet {
    straight: OwnedFd,
    queued: OwnedFd,
    direct: bool,
    link: Arc<Link>,
    backlog: Backlog,
    /// When what waits was last refused.
    refused: Option<Instant>,
}

impl Outlet {
    /// Opens the sockets on an interface.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, with the interface.
    pub fn open(interface: &Interface) -> Result<Self, SetupError> {
        Ok(Self {
            straight: open(interface, true)?,
            queued: open(interface, false)?,
            direct: true,
            link: Arc::new(Link::new(interface)),
            backlog: Backlog::default(),
            refused: None,
        })
    }

    /// Opens one on every interface that `worker` sends by through packet sockets, in its order.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn open_all(plan: &Plan, worker: &plan::Worker) -> Result<Vec<Self>, SetupError> {
        let interfaces = worker.senders.iter();
        let interfaces = interfaces.filter_map(|&at| plan.interfaces.get(at));
        interfaces.map(Self::open).collect()
    }

    /// The socket that messages go to now. It is sent by without waiting (`MSG_DONTWAIT`).
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

    /// What it knows of its device, to be kept true by whoever watches the interface.
    pub fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }

    /// Within what messages must stay: where the kernel cuts in any case, the device's limits are
    /// no matter.
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

    /// Takes the way that suits what is known of the device now, and sends what waits for it.
    /// Before every batch.
    #[inline]
    pub fn begin(&mut self, outputs: &[OutputStats]) {
        let state = self.link.state();
        self.direct = !(state.is_cut() && state.carries);
        if self.waits() {
            self.retry(outputs);
        }
    }

    /// How many messages one call may carry. A `sendmmsg` that has sent some does not tell why the
    /// next one failed, and only sending that again would. Where the kernel cuts, parts of it have
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

    /// Whether a message of so many frames, refused with `error`, can wait: nothing of it has left,
    /// and the device may take it in a moment, or the other way. `direct` is which way it went.
    #[cold]
    pub fn can_wait(&mut self, error: Errno, direct: bool, frames: u64) -> bool {
        if error != Errno::ENOBUFS || !direct {
            return false;
        }
        let state = self.link.state();
        if state.is_cut() && state.carries {
            // It was made before that was known, and the device has counted the refusal.
            self.link.was_told();
        }
        let may_be_taken = if state.queueless {
            // Such a device has dropped it. But it may be that the kernel must cut now, and that the refusal is there before
            // the news.
            frames > 1 || state.is_cut()
        } else {
            frames == 1 || state.takes_gso
        };
        state.carries && may_be_taken
    }

    /// Has a message of `frames` frames of `output` wait behind all others, or counts it where
    /// there is no room.
    #[cold]
    pub fn wait<'a>(
        &mut self,
        output: u32,
        frames: u16,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        outputs: &[OutputStats],
    ) {
        if !self.backlog.put(output, frames, parts)
            && let Some(output) = outputs.get(output as usize)
        {
            output.drops.add(Dropped::RingFull, frames.into());
        }
    }

    /// Sends what waits, oldest first, as far as the device takes it, and gives up what has waited
    /// too long.
    #[cold]
    fn retry(&mut self, outputs: &[OutputStats]) {
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
                    if self.direct != direct {
                        continue;
                    }
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

    /// Counts what still waits as unsent, when the worker ends.
    fn abandon(&mut self, outputs: &[OutputStats]) {
        while let Some((oldest, _)) = self.backlog.oldest() {
            self.give_up(oldest, Dropped::UnsentAtExit, outputs);
        }
    }

    fn give_up(&mut self, oldest: Waiting, why: Dropped, outputs: &[OutputStats]) {
        if let Some(output) = outputs.get(oldest.output as usize) {
            output.drops.add(why, oldest.frames.into());
        }
        self.backlog.forget_oldest();
    }

    /// Counts the frames of one message that the kernel refused; `direct` is which way it went.
    #[cold]
    pub fn count_refused(&self, error: Errno, direct: bool, output: &OutputStats, frames: u64) {
        if error == Errno::ENOBUFS && direct && self.link.state().is_cut() {
            self.link.was_told();
        }
        match error {
            // The device's own counter has those that did not leave.
            Errno::ENOBUFS if !direct => output.sent.add(frames),
            Errno::EAGAIN => output.drops.add(Dropped::RingFull, frames),
            Errno::EMSGSIZE => output.drops.add(Dropped::TooBig, frames),
            _ => output.drops.add(Dropped::DeviceRefused, frames),
        }
    }
}

/// Sends what waits in `outlets`. Once a round.
#[inline]
pub fn retry_all(outlets: &mut [Outlet], outputs: &[OutputStats]) {
    for outlet in outlets {
        if outlet.waits() {
            outlet.begin(outputs);
        }
    }
}

/// Whether anything waits in `outlets`.
#[inline]
pub fn any_waits(outlets: &[Outlet]) -> bool {
    outlets.iter().any(Outlet::waits)
}

/// Counts what still waits in `outlets` as unsent, when the worker ends.
pub fn abandon_all(outlets: &mut [Outlet], outputs: &[OutputStats]) {
    for outlet in outlets {
        outlet.abandon(outputs);
    }
}

/// A packet socket on an interface that takes GSO packets, straight to the device or not.
fn open(interface: &Interface, straight: bool) -> Result<OwnedFd, SetupError> {
    let failed = |what: &'static str| {
        let interface = interface.name.clone();
        move |error: Errno| SetupError::Socket {
            interface,
            what,
            error: error.into(),
        }
    };
    let socket = packet_socket().map_err(failed("open a packet socket"))?;
    let fd = socket.as_raw_fd();
    sockopt::set(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
        .map_err(failed("set PACKET_VNET_HDR"))?;
    if straight {
        sockopt::set(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
            .map_err(failed("set PACKET_QDISC_BYPASS"))?;
    }
    sockopt::set_send_buffer(fd, SEND_BUFFER);
    bind(&socket, interface.index, 0).map_err(failed("bind a packet socket"))?;
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

/// A packet socket that receives nothing until it is bound to a protocol.
///
/// # Errors
///
/// The kernel's refusal.
pub fn packet_socket() -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the descriptor was opened just now and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a packet socket to an interface and a protocol; with protocol 0 it receives nothing.
///
/// # Errors
///
/// The kernel's refusal.
pub fn bind(socket: &OwnedFd, index: u32, protocol: u16) -> Result<(), Errno> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to a local of the size given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    Errno::result(bound).map(drop)
}
