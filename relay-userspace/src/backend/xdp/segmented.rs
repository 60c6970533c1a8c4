//! Segmented transmit: the fast way out where AF_XDP would copy each frame.
//!
//! A packet socket with `PACKET_VNET_HDR` takes a super-frame: one header and the payloads of many datagrams.
//! The NIC, or the kernel right before the driver, cuts it into frames, numbers them and computes their
//! checksums (Documentation/networking/segmentation-offloads.rst, `SKB_GSO_UDP_L4`). So the way through
//! the kernel is paid once a run and not once a frame. `sendmmsg` gathers header and payloads, the payloads
//! straight from the chunks that they were received in: user space copies none, and the chunks are free when
//! the call returns.
//!
//! A [`Sender`] is the socket of one interface; the [`Queue`] collects messages for one sender at a time.

use std::{
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use relay_common::wire::{ETHERNET_LEN, IPV4_HEADERS_LEN, IPV4_LEN, field::udp};

use super::{SetupError, batch::MAX_JOINED, sockopt};
use crate::{
    device_drops::Cut,
    nic,
    plan::Interface,
    stats::{Dropped, OutputStats},
};

/// Messages of one `sendmmsg`: enough to spread the cost of the call, few enough to stay in the
/// first-level cache.
const MESSAGES: usize = 32;
/// The most parts of one message: the headers and a payload each.
const PARTS: usize = 1 + MAX_JOINED;
/// Bytes that the kernel may keep in socket buffers for one interface before it answers `EAGAIN`: 128 of the
/// largest super-frames.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// How often refusals make a sender ask about its device at most: a dead one refuses everything, and the answer
/// costs some microseconds that are the other outputs'.
const ASK_EVERY: Duration = Duration::from_millis(1);

const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;

/// What a message begins with: `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), in the byte order of
/// the machine, and the headers of the frame.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Head {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    /// Ethernet, IPv4 and UDP.
    headers: Headers,
}

/// The headers of a frame.
pub type Headers = [u8; IPV4_HEADERS_LEN];

const _: () = assert!(size_of::<Head>() == 10 + IPV4_HEADERS_LEN);

impl Head {
    const EMPTY: Self = Self {
        flags: 0,
        gso_type: VIRTIO_NET_HDR_GSO_NONE,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
        headers: [0; IPV4_HEADERS_LEN],
    };

    /// Of a frame that leaves as it is.
    #[inline]
    pub fn single(&mut self) -> &mut Headers {
        *self = Self::EMPTY;
        &mut self.headers
    }

    /// Of a super-frame that is cut into datagrams of `payload_len` bytes, the last may be shorter.
    #[inline]
    pub fn joined(&mut self, payload_len: u16) -> &mut Headers {
        self.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        self.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        self.hdr_len = IPV4_HEADERS_LEN as u16;
        self.gso_size = payload_len;
        self.csum_start = (ETHERNET_LEN + IPV4_LEN) as u16;
        self.csum_offset = udp::CHECKSUM as u16;
        &mut self.headers
    }
}

/// Messages for one sender, not sent yet.
pub struct Queue {
    heads: Box<[Head]>,
    parts: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
    /// Of each message: the output it counts for, and how many frames it is.
    counts: Box<[(u32, u16)]>,
    len: usize,
    parts_used: usize,
}

// SAFETY: the pointers in `parts` and `messages` lead into the boxes of the same `Queue`, or to payloads that
// only `Queue::push`'s caller vouches for, and are followed by `Queue::send` only. No thread shares them.
unsafe impl Send for Queue {}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("len", &self.len).finish()
    }
}

impl Queue {
    /// An empty one.
    pub fn new() -> Self {
        let part = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: all zeros is a valid `mmsghdr`: no name, no parts, no control data.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            heads: vec![Head::EMPTY; MESSAGES].into(),
            parts: vec![part; MESSAGES * PARTS].into(),
            messages: vec![message; MESSAGES].into(),
            counts: vec![(0, 0); MESSAGES].into(),
            len: 0,
            parts_used: 0,
        }
    }

    /// Whether [`Queue::send`] must come before the next message.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len == MESSAGES
    }

    /// Adds a message of `count` frames of `output`: `write` fills in the head, `payloads` follow it, at most
    /// [`MAX_JOINED`]. Only when the queue is not full.
    ///
    /// # Safety
    ///
    /// The payloads must stay where they are, and unwritten, until [`Queue::send`] has returned.
    #[inline]
    pub unsafe fn push<'a>(
        &mut self,
        output: u32,
        count: u16,
        write: impl FnOnce(&mut Head),
        payloads: impl Iterator<Item = &'a [u8]>,
    ) {
        let (Some(head), Some(message), Some(counts), Some(parts)) = (
            self.heads.get_mut(self.len),
            self.messages.get_mut(self.len),
            self.counts.get_mut(self.len),
            self.parts.get_mut(self.parts_used..self.parts_used + PARTS),
        ) else {
            return;
        };
        write(head);
        let mut used = 0;
        let head = libc::iovec {
            iov_base: std::ptr::from_mut(head).cast(),
            iov_len: size_of::<Head>(),
        };
        let payloads = payloads.map(|payload| libc::iovec {
            iov_base: payload.as_ptr().cast_mut().cast(),
            iov_len: payload.len(),
        });
        for (slot, part) in parts.iter_mut().zip(std::iter::once(head).chain(payloads)) {
            *slot = part;
            used += 1;
        }
        message.msg_hdr.msg_iov = parts.as_mut_ptr();
        message.msg_hdr.msg_iovlen = used;
        *counts = (output, count);
        self.parts_used += used;
        self.len += 1;
    }

    /// Sends all messages by `sender`, and counts each frame as sent or under the reason why not.
    pub fn send(&mut self, sender: &mut Sender, stats: &[OutputStats]) {
        sender.follow_device();
        let mut done = 0;
        while done < self.len {
            let Some(rest) = self.messages.get_mut(done..self.len) else {
                break;
            };
            match send_messages(sender, rest) {
                Ok(sent) => {
                    self.count(done, sent, stats, |output, frames| output.sent.add(frames));
                    done += sent;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) if sender.finds_itself_cut() => {}
                Err(error) => {
                    // A device that is down or gone refuses them all.
                    let refused = match error {
                        Errno::ENETDOWN | Errno::ENXIO => self.len - done,
                        _ => 1,
                    };
                    self.count(done, refused, stats, |output, frames| {
                        sender.count_refused(error, output, frames);
                    });
                    done += refused;
                }
            }
        }
        self.len = 0;
        self.parts_used = 0;
    }

    /// Counts the frames of `messages` messages from number `first` on.
    #[inline]
    fn count(
        &self,
        first: usize,
        messages: usize,
        stats: &[OutputStats],
        add: impl Fn(&OutputStats, u64),
    ) {
        for &(output, frames) in self.counts.iter().skip(first).take(messages) {
            if let Some(output) = stats.get(output as usize) {
                add(output, u64::from(frames));
            }
        }
    }
}

/// One `sendmmsg`: how many of the messages the kernel took, at least one.
#[inline]
fn send_messages(sender: &Sender, messages: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
    // SAFETY: every message points to parts in a `Queue`, and these to a head in it and to payloads that
    // `Queue::push`'s caller keeps.
    let sent = unsafe {
        libc::sendmmsg(
            sender.socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    match Errno::result(sent)? {
        // The kernel never says so; taken for a refusal, it cannot become an endless loop.
        0 => Err(Errno::EIO),
        sent => Ok(sent as usize),
    }
}

/// The packet socket that copies leave one interface by. It receives nothing.
///
/// It has two ways. While the device takes super-frames whole, they go straight to it, and every refusal is
/// told. The direct way refuses what the kernel would have to cut apart (`__dev_direct_xmit`, net/core/dev.c).
/// So where the kernel cuts, they go by way of the queueing discipline; only interfaces that have none are used
/// like that. Then the kernel's answer is about the last part only, but the device's own counter of drops is exact,
/// one a frame ([`crate::device_drops`]). Without a carrier this way swallows everything without a word
/// (`noop_qdisc`), and the direct one is taken, which refuses it.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    name: String,
    queueless: bool,
    direct: bool,
    /// When a refusal last made it ask about the device.
    asked: Option<Instant>,
    device: Arc<Cut>,
}

impl Sender {
    /// Opens a socket on an interface.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, with the interface.
    pub fn open(interface: &Interface) -> Result<Self, SetupError> {
        let failed = |what: &'static str| {
            let interface = interface.name.clone();
            move |error: Errno| SetupError::Sender {
                interface,
                what,
                error: error.into(),
            }
        };
        // SAFETY: no pointers. Protocol 0 receives nothing.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let fd = Errno::result(fd).map_err(failed("open a packet socket"))?;
        // SAFETY: the descriptor was opened just now and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        sockopt::set(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
            .map_err(failed("set PACKET_VNET_HDR"))?;
        sockopt::set(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
            .map_err(failed("set PACKET_QDISC_BYPASS"))?;
        sockopt::set_send_buffer(fd, SEND_BUFFER);
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::sa_family_t,
            sll_protocol: 0,
            sll_ifindex: interface.index as libc::c_int,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the pointer is to a local of the size given.
        let bound = unsafe {
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        Errno::result(bound).map_err(failed("bind a packet socket"))?;
        Ok(Self {
            socket,
            name: interface.name.clone(),
            queueless: interface.queueless,
            direct: true,
            asked: None,
            device: Arc::new(Cut::new(interface)),
        })
    }

    /// What it believes of its device, to be kept true by whoever watches the interface.
    pub fn device(&self) -> Arc<Cut> {
        Arc::clone(&self.device)
    }

    /// Takes the way that suits what is known of the device now.
    #[inline]
    fn follow_device(&mut self) {
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

    /// After a refusal on the direct way: whether the kernel must cut now what the device took whole before.
    /// Nothing of the refused message has left then, and it can be sent again the other way.
    #[cold]
    fn finds_itself_cut(&mut self) -> bool {
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

    /// Counts frames that were refused in one message.
    #[cold]
    fn count_refused(&self, error: Errno, output: &OutputStats, frames: u64) {
        if error == Errno::ENOBUFS && self.direct && self.device.is_cut() {
            self.device.was_told();
        }
        match error {
            // The device's own counter has those that did not leave.
            Errno::ENOBUFS if !self.direct => output.sent.add(frames),
            Errno::EAGAIN => output.drops.add(Dropped::RingFull, frames),
            Errno::EMSGSIZE => output.drops.add(Dropped::TooBig, frames),
            _ => output.drops.add(Dropped::DeviceRefused, frames),
        }
    }
}
