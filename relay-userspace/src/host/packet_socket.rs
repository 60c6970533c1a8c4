//! Packet sockets (packet(7)): open and bind.
//!
//! A packet socket is opened without a protocol, so it receives nothing before it is bound.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

use super::socket_options;

/// A packet socket that receives nothing until it is bound to a protocol.
///
/// # Errors
///
/// The kernel's refusal.
pub fn open() -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes no pointers.
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
    // SAFETY: the pointer is to a local of the given size.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    Errno::result(bound).map(drop)
}

/// The index of the interface that a packet socket is bound to; `None` if that has gone, for the
/// kernel unbinds a socket for good then.
///
/// # Errors
///
/// The kernel's refusal; `EBADF` or `ENOTSOCK` if `socket` is no socket any more.
pub fn bound_to(socket: RawFd) -> Result<Option<u32>, Errno> {
    // SAFETY: all zeros is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointers are to locals, and `len` is the size of the first.
    let named = unsafe { libc::getsockname(socket, (&raw mut address).cast(), &raw mut len) };
    Errno::result(named)?;
    // -1 once it is unbound (`packet_notifier`, net/packet/af_packet.c).
    Ok(u32::try_from(address.sll_ifindex)
        .ok()
        .filter(|&index| index > 0))
}

/// Frames that were sent do not come back (`PACKET_IGNORE_OUTGOING`).
const IGNORE_OUTGOING: libc::c_int = 23;
/// Room for the control messages of [`receive`], aligned as the kernel wants it.
const CONTROL: usize = 16;

/// Makes a packet socket tell of each frame the tag that the kernel took out of it and when it
/// came, and leave out frames that this host sends.
///
/// # Errors
///
/// The kernel's refusal.
pub fn tell_all(socket: &OwnedFd) -> Result<(), Errno> {
    let fd = socket.as_raw_fd();
    socket_options::set(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    socket_options::set(fd, libc::SOL_PACKET, IGNORE_OUTGOING, 1)?;
    socket_options::set(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
}

/// A frame that a packet socket received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Bytes of it that are in the buffer.
    pub len: usize,
    /// The tag that the kernel took out of it: its EtherType, and the rest.
    pub tag: Option<(u16, u16)>,
    /// When it came, in nanoseconds since 1970; 0 if the kernel does not say.
    pub time: u64,
}

/// Receives a frame into `frame`, without waiting. What does not fit is cut off.
///
/// # Errors
///
/// `EAGAIN` if none waits, or the kernel's refusal.
pub fn receive(socket: &OwnedFd, frame: &mut [u8]) -> Result<Received, Errno> {
    let mut control = [0_u64; CONTROL];
    let mut part = libc::iovec {
        iov_base: frame.as_mut_ptr().cast(),
        iov_len: frame.len(),
    };
    // SAFETY: all zeros is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the pointers are to locals and to `frame`, with their lengths.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = Errno::result(len)? as usize;
    let mut received = Received {
        len: len.min(frame.len()),
        ..Received::default()
    };
    // SAFETY: the kernel has filled the control messages in.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: a control message inside `control`, by the two functions that find them.
        let (level, kind) = unsafe { ((*next).cmsg_level, (*next).cmsg_type) };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(next) };
        if (level, kind) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
            // SAFETY: what the kernel writes for this option, wherever it is aligned.
            let aux: libc::tpacket_auxdata =
                unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
            if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                received.tag = Some((aux.tp_vlan_tpid, aux.tp_vlan_tci));
            }
        } else if (level, kind) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
            // SAFETY: what the kernel writes for this option, wherever it is aligned.
            let time: libc::timespec = unsafe { data.cast::<libc::timespec>().read_unaligned() };
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
            received.time = seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds);
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(received)
}

/// The frames that a packet socket had no room for since the last call.
///
/// # Errors
///
/// The kernel's refusal.
pub fn dropped(socket: &OwnedFd) -> Result<u64, Errno> {
    // struct tpacket_stats: packets, with the drops among them, and drops.
    let fd = socket.as_raw_fd();
    let [_, drops]: [u32; 2] = socket_options::get(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
    Ok(drops.into())
}
