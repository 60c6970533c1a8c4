//! Packet sockets (packet(7)): open and bind.
//!
//! A packet socket is opened without a protocol, so it receives nothing before it is bound.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

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
