//! Reads and sets socket options, and the sizes of socket buffers.
//!
//! nix and socket2 do not offer the options of AF_XDP and packet sockets.

use std::os::{
    fd::{AsRawFd as _, RawFd},
    unix::net::UnixDatagram,
};

use nix::errno::Errno;

/// Lets the kernel keep `bytes` in send buffers for this socket; without the privilege to exceed
/// the system's limit, up to that limit. A smaller buffer loses nothing: back-pressure sets in
/// earlier.
pub fn set_send_buffer(socket: RawFd, bytes: libc::c_int) {
    set_first(socket, [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF], bytes);
}

/// Lets the kernel queue `bytes` of received frames for this socket; without the privilege to
/// exceed the system's limit, up to that limit.
pub fn set_receive_buffer(socket: RawFd, bytes: libc::c_int) {
    set_first(socket, [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF], bytes);
}

/// Sets the first of `options` that the kernel accepts.
fn set_first(socket: RawFd, options: [libc::c_int; 2], bytes: libc::c_int) {
    for option in options {
        if set(socket, libc::SOL_SOCKET, option, bytes).is_ok() {
            return;
        }
    }
}

/// Whether this thread's capabilities let sockets poll their device (`SO_BUSY_POLL`). Also true if
/// the kernel does not support it, because then no capability is missing.
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
/// The system call's error.
pub fn set(
    socket: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    set_value(socket, level, option, &value)
}

/// Sets an option whose value is a `T`, which has no pointers.
///
/// # Errors
///
/// The system call's error.
pub(super) fn set_value<T>(
    socket: RawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> Result<(), Errno> {
    // SAFETY: the pointer is to a value of the given size, which the kernel only reads. Bytes
    // between its fields need not be initialised: the kernel copies them and looks at fields only.
    let result = unsafe {
        libc::setsockopt(
            socket,
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// The supplementary groups of the process at the other end of a Unix socket, as they were when it
/// connected (`SO_PEERGROUPS`).
///
/// # Errors
///
/// The system call's error.
pub fn peer_groups(socket: RawFd) -> Result<Vec<libc::gid_t>, Errno> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let room = size_of_val(groups.as_slice()) as libc::socklen_t;
        let mut len = room;
        // SAFETY: the pointers are to `len` bytes of a vector of numbers, and to a local.
        let result = unsafe {
            libc::getsockopt(
                socket,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<libc::gid_t>();
        match Errno::result(result) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The kernel has written how much room it wants.
            Err(Errno::ERANGE) if len > room => groups.resize(count, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Plain numbers that an option can be read into: valid for every bit pattern.
pub trait Plain: Copy + Default {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for [u32; 2] {}
impl Plain for [u64; 6] {}
impl Plain for [u64; 16] {}

/// Reads an option.
///
/// # Errors
///
/// The system call's error.
pub fn get<T: Plain>(socket: RawFd, level: libc::c_int, option: libc::c_int) -> Result<T, Errno> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the given sizes, and `T` is valid for every bit
    // pattern.
    let result =
        unsafe { libc::getsockopt(socket, level, option, (&raw mut value).cast(), &raw mut len) };
    Errno::result(result)?;
    Ok(value)
}
