//! Segmented transmit: the fast way out where AF_XDP would copy each frame.
//!
//! A packet socket with `PACKET_VNET_HDR` takes a super-frame: one header and the payloads of many datagrams.
//! The NIC, or the kernel right before the driver, cuts it into frames, numbers them and computes their
//! checksums (Documentation/networking/segmentation-offloads.rst, `SKB_GSO_UDP_L4`). So the way through
//! the kernel is paid once a run and not once a frame. The kernel gathers header and payloads, the payloads
//! straight from where they were received: user space copies none.
//!
//! An [`Outlet`] is the socket of one interface, and what is known of its device. How messages get there is the
//! backends' matter: `sendmmsg` or io_uring.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use super::{SetupError, sockopt};
use crate::{
    device_drops::Cut,
    nic,
    plan::{self, Interface, Plan},
    stats::{Dropped, OutputStats},
};

/// Bytes that the kernel may keep in socket buffers for one interface before it answers `EAGAIN`: 128 of the
/// largest super-frames.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// How often refusals make a sender ask about its device at most: a dead one refuses everything, and the answer
/// costs some microseconds that are the other outputs'.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// The packet socket that copies leave one interface by. It receives nothing.
///
/// It has two ways. While the device takes super-frames whole, they go straight to it, and every refusal is
/// told. The direct way refuses what the kernel would have to cut apart (`__dev_direct_xmit`, net/core/dev.c).
/// So where the kernel cuts, they go by way of the queueing discipline; only interfaces that have none are used
/// like that. Then the kernel's answer is about the last part only, but the device's own counter of drops is exact,
/// one a frame ([`crate::device_drops`]). Without a carrier this way swallows everything without a word
/// (`noop_qdisc`), and the direct one is taken, which refuses it.
#[derive(Debug)]
pub struct Outlet {
    socket: OwnedFd,
    name: String,
    queueless: bool,
    direct: bool,
    /// When a refusal last made it ask about the device.
    asked: Option<Instant>,
    device: Arc<Cut>,
}

impl Outlet {
    /// Opens a socket on an interface.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, with the interface.
    pub fn open(interface: &Interface) -> Result<Self, SetupError> {
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
        sockopt::set(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
            .map_err(failed("set PACKET_QDISC_BYPASS"))?;
        sockopt::set_send_buffer(fd, SEND_BUFFER);
        bind(&socket, interface.index, 0).map_err(failed("bind a packet socket"))?;
        Ok(Self {
            socket,
            name: interface.name.clone(),
            queueless: interface.queueless,
            direct: true,
            asked: None,
            device: Arc::new(Cut::new(interface)),
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

    /// The socket. Whoever sends by it does so without waiting (`MSG_DONTWAIT`).
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What it believes of its device, to be kept true by whoever watches the interface.
    pub fn device(&self) -> Arc<Cut> {
        Arc::clone(&self.device)
    }

    /// Takes the way that suits what is known of the device now. Before every batch.
    #[inline]
    pub fn follow_device(&mut self) {
        let cut = self.queueless && self.device.is_cut();
        let direct = !(cut && nic::has_carrier(self.socket.as_fd(), &self.name));
        if direct != self.direct {
            self.go(direct);
        }
    }

    #[cold]
    fn go(&mut self, direct: bool) {
        // A refusal changes nothing: super-frames go on being refused, and counted.
        let _ = sockopt::set(
            self.socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            direct.into(),
        );
        self.direct = direct;
    }

    /// After `ENOBUFS`, which is a refusal on the direct way: whether the kernel must cut now what the device took whole before.
    /// Nothing of the refused message has left then, and it can be sent again the other way.
    #[cold]
    pub fn finds_itself_cut(&mut self) -> bool {
        if !self.queueless || self.device.is_cut() {
            return false;
        }
        let now = Instant::now();
        if self.asked.is_some_and(|asked| now - asked < ASK_EVERY) {
            return false;
        }
        self.asked = Some(now);
        if nic::segments_udp(&self.name) {
            return false;
        }
        self.device.set(true);
        self.go(false);
        true
    }

    /// Whether messages go straight to the device now.
    #[inline]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Counts the frames of one message that the kernel refused; `direct` is which way it went.
    #[cold]
    pub fn count_refused(&self, error: Errno, direct: bool, output: &OutputStats, frames: u64) {
        if error == Errno::ENOBUFS && direct && self.device.is_cut() {
            self.device.was_told();
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
