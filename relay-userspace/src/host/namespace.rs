//! Which network namespace this is.

use std::{io, os::fd::AsRawFd as _, os::unix::net::UnixDatagram};

use super::socket_options;

/// include/uapi/asm-generic/socket.h
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The number of the calling thread's network namespace: no other one has it until the machine
/// boots again (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
///
/// The kernel's refusal.
pub fn cookie() -> io::Result<u64> {
    let any = UnixDatagram::unbound()?;
    Ok(socket_options::get(
        any.as_raw_fd(),
        libc::SOL_SOCKET,
        SO_NETNS_COOKIE,
    )?)
}
