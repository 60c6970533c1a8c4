//! Whether the kernel bound an AF_XDP socket in zero copy or in copy mode
//! (include/uapi/linux/if_xdp.h).

use std::{io, os::fd::RawFd};

use crate::{host::socket_options, plan::Mode};

const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// The mode that the kernel chose.
///
/// # Errors
///
/// When the kernel refuses the socket option.
pub fn mode(socket: RawFd) -> io::Result<Mode> {
    let options: u32 = socket_options::get(socket, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(if options & XDP_OPTIONS_ZEROCOPY != 0 {
        Mode::ZeroCopy
    } else {
        Mode::Copy
    })
}
