//! The socket options that xsk-rs does not offer (include/uapi/linux/if_xdp.h), and those of packet sockets.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::net::UnixDatagram,
    },
};

use nix::errno::Errno;

use crate::{plan::Mode, report::KernelDrops};

const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// The mode that the kernel chose.
///
/// # Errors
///
/// The system call's.
pub fn mode(socket: RawFd) -> io::Result<Mode> {
    let options: u32 = get(socket, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(if options & XDP_OPTIONS_ZEROCOPY != 0 {
        Mode::ZeroCopy
    } else {
        Mode::Copy
    })
}

/// What the kernel dropped in front of the socket since it was bound, each frame under one reason.
///
/// In copy mode the kernel counts a frame that found the FILL ring empty twice, as dropped and as an empty ring
/// (`__xsk_rcv` and `__xp_alloc`, net/xdp). In zero copy an empty ring is a driver's attempt to refill, and no
/// frame. So an empty ring is a reason for as many frames as were dropped, and no more.
///
/// # Errors
///
/// The system call's.
pub fn drops(socket: RawFd) -> io::Result<KernelDrops> {
    // struct xdp_statistics of Linux 5.9; three of its counters are not of frames received.
    let [dropped, _, _, rx_ring_full, fill_ring_empty, _]: [u64; 6] =
        get(socket, libc::SOL_XDP, libc::XDP_STATISTICS)?;
    let rx_fill_ring_empty = fill_ring_empty.min(dropped);
    Ok(KernelDrops {
        rx_ring_full,
        rx_fill_ring_empty,
        rx_dropped: dropped - rx_fill_ring_empty,
        rx_socket_full: 0,
    })
}

/// What a packet socket dropped since this was last asked: the kernel begins anew at every answer. A super-frame
/// counts once.
///
/// # Errors
///
/// The system call's.
pub fn packet_drops(socket: RawFd) -> io::Result<u64> {
    // struct tpacket_stats: packets, drops among them included, and drops.
    let [_, drops]: [u32; 2] = get(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
    Ok(drops.into())
}

/// Lets the kernel keep `bytes` in socket buffers for this socket. Without the privilege to exceed the
/// system's limit, up to that limit; nothing is lost by that, back-pressure sets in earlier.
pub fn set_send_buffer(socket: RawFd, bytes: libc::c_int) {
    set_first(socket, [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF], bytes);
}

/// Lets the kernel queue `bytes` of received frames for this socket, as far as the privileges go.
pub fn set_receive_buffer(socket: RawFd, bytes: libc::c_int) {
    set_first(socket, [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF], bytes);
}

/// The first of `options` that the kernel accepts.
fn set_first(socket: RawFd, options: [libc::c_int; 2], bytes: libc::c_int) {
    for option in options {
        if set(socket, libc::SOL_SOCKET, option, bytes).is_ok() {
            return;
        }
    }
}

/// Whether this thread may have sockets poll their device (`SO_BUSY_POLL`), with the capabilities that it has. What is to be
/// had by nobody needs no capability either.
pub fn may_busy_poll() -> bool {
    let any = UnixDatagram::unbound();
    any.is_ok_and(|any| {
        let set = set(any.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BUSY_POLL, 1);
        set != Err(Errno::EPERM)
    })
}

/// Sets an option that is an `int`.
///
/// # Errors
///
/// The system call's.
pub fn set(
    socket: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    // SAFETY: the pointer is to a local of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket,
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Plain numbers that an option can be read into, whatever the kernel writes.
pub trait Plain: Copy + Default {}
impl Plain for u32 {}
impl Plain for [u32; 2] {}
impl Plain for [u64; 6] {}

/// Reads an option.
///
/// # Errors
///
/// The system call's.
pub fn get<T: Plain>(socket: RawFd, level: libc::c_int, option: libc::c_int) -> Result<T, Errno> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the sizes given, and `T` is valid for every bit pattern.
    let result =
        unsafe { libc::getsockopt(socket, level, option, (&raw mut value).cast(), &raw mut len) };
    Errno::result(result)?;
    Ok(value)
}
