//! Kicks: making the kernel look at the rings of a socket (Documentation/networking/af_xdp.rst,
//! "XDP_USE_NEED_WAKEUP").

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::host::socket_options;

/// Makes the kernel look at the TX ring: `sendto` without data.
///
/// # Errors
///
/// The kernel's reason, which in copy mode also says what became of a frame.
pub fn transmitter(socket: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointer is read: the length is 0 and there is no address.
    let result = unsafe {
        libc::sendto(
            socket,
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Makes the receiver of a zero-copy socket look at the FILL ring, by polling the device from this
/// thread, once.
///
/// The kick by `poll` is an interrupt that the driver asks its NIC for, and where receiver and
/// transmitter do not share one, which is with few queues, igb asks for the transmitter's only
/// (`igb_xsk_wakeup`, drivers/net/ethernet/intel/igb/igb_xsk.c; in Linux 6.14 and still in 6.18.15,
/// no longer in 7.3.4). A queue that found its FILL ring empty then never receives again. Busy
/// polling asks no driver: the kernel calls the device's poll function itself (`__xsk_sendmsg`,
/// net/xdp/xsk.c; of the calls that poll, only sending knows the device before a first frame has
/// arrived).
///
/// Where the kernel refuses the option, the kick by `poll` must do.
pub fn receiver(socket: RawFd) {
    let busy_poll = |microseconds| {
        socket_options::set(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, microseconds)
    };
    // A call with `MSG_DONTWAIT` polls once, whatever time it is allowed.
    if busy_poll(1).is_ok() {
        // The answer is the transmitter's; the next kick of the TX ring gets it again.
        let _ = transmitter(socket);
        // Otherwise every kick would poll. An option that could be set can be reset.
        let _ = busy_poll(0);
    }
}
