//! Socket options, packet sockets, and sending one frame.

use std::ffi::{CString, c_int};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::errno::check;

/// `SO_MEMINFO` (asm-generic/socket.h) and the index of its drop counter (linux/sock_diag.h).
const SO_MEMINFO: c_int = 55;
const SK_MEMINFO_DROPS: usize = 8;
/// `PACKET_IGNORE_OUTGOING` (linux/if_packet.h).
const PACKET_IGNORE_OUTGOING: c_int = 23;

/// Bytes that a receiver's socket may hold: enough for every datagram of the largest test, so that
/// a receiver that is scheduled late does not look like a relay that lost something.
pub const RECEIVE_BUFFER: usize = 64 << 20;

/// Bytes of the vnet header (`struct virtio_net_hdr`) that a packet socket with
/// [`with_vnet_headers`] puts, or wants, in front of every frame.
pub const VNET_HEADER: usize = 10;

/// Plain C data that may be handed to `setsockopt` byte for byte.
///
/// # Safety
/// Only for types without padding, pointers or invalid bit patterns.
pub unsafe trait OptionValue: Copy {}
// SAFETY: an integer has no padding and no pointer.
unsafe impl OptionValue for c_int {}
// SAFETY: two addresses and an index, four bytes each.
unsafe impl OptionValue for libc::ip_mreqn {}
// SAFETY: an address of sixteen bytes and an index of four.
unsafe impl OptionValue for libc::ipv6_mreq {}

/// `setsockopt` with a plain value.
pub fn set_option<T: OptionValue>(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: `value` is valid for reads of its own size, and the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// How many messages the kernel dropped because this socket's buffer was full.
pub fn socket_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut values = [0u32; 9];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` is writable for `length` bytes; the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(values[SK_MEMINFO_DROPS])
}

/// The protocol's name of a socket, such as `XDP`, of which `path` is a link in `/proc/PID/fd`.
pub fn socket_protocol(path: &Path) -> io::Result<String> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut name = [0_u8; 32];
    // SAFETY: both strings end with a zero, and `name` is writable for its length.
    let result = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"system.sockprotoname".as_ptr(),
            name.as_mut_ptr().cast(),
            name.len(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = name.iter().copied().take_while(|&byte| byte != 0);
    Ok(bytes.map(char::from).collect())
}

/// The frames that a packet socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receives {
    /// None; it only sends.
    Nothing,
    /// Frames that arrive.
    Arriving,
    /// Frames that arrive and frames that local sockets send.
    Everything,
}

/// Opens a raw packet socket on the interface with `index`, in the calling thread's namespace. It
/// sends complete frames; those that it receives come with auxiliary data.
pub fn packet_socket(index: u32, receives: Receives) -> io::Result<OwnedFd> {
    // Protocol 0 keeps the socket silent until it is bound to the interface.
    // SAFETY: no pointer is passed.
    let fd =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was opened just now and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let one: c_int = 1;
    if receives != Receives::Nothing {
        set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_AUXDATA, &one)?;
    }
    if receives == Receives::Arriving {
        set_option(
            socket.as_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            &one,
        )?;
    }
    let protocol = if receives == Receives::Nothing {
        0
    } else {
        (libc::ETH_P_ALL as u16).to_be()
    };
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as c_int;
    // SAFETY: `address` is a whole `sockaddr_ll` and outlives the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    check(result)?;
    Ok(socket)
}

/// From now on every frame that a packet socket receives or sends has a vnet header in front
/// (`PACKET_VNET_HDR`).
pub fn with_vnet_headers(socket: BorrowedFd<'_>) -> io::Result<()> {
    let one: c_int = 1;
    set_option(socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &one)
}

/// Sends one frame or datagram; all of it or an error.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: `bytes` is valid for reads of its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(sent) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(n) => Err(io::Error::other(format!(
            "sent {n} of {} bytes",
            bytes.len()
        ))),
    }
}
