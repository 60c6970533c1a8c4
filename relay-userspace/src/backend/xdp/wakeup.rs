//! How a socket makes its device work (Documentation/networking/af_xdp.rst, "XDP_USE_NEED_WAKEUP").

use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::backend::sockopt;

/// Has the transmitter look at the TX ring: `sendto` without data.
///
/// # Errors
///
/// What became of it, which in copy mode is also what became of a frame.
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

/// Has the receiver of a zero-copy socket look at the FILL ring, by polling the device from this thread, once.
///
/// The wakeup of `poll` is an interrupt that the driver asks its NIC for, and igb asks for the transmitter's alone
/// where the two do not share one, which is with few queues (`igb_xsk_wakeup`, drivers/net/ethernet/intel/igb/igb_xsk.c; Linux 6.14 has it,
/// 6.18.15 still, 7.3.4 no longer). A queue that found its FILL ring empty then never receives again. Busy polling asks no driver:
/// the kernel calls the device's poll function itself (`__xsk_sendmsg`, net/xdp/xsk.c; of the calls that poll, only sending
/// knows the device before a first frame has come in).
///
/// Where the kernel refuses the option, the wakeup of `poll` has to do.
pub fn receiver(socket: RawFd) {
    let busy_poll =
        |microseconds| sockopt::set(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, microseconds);
    // A call that must not wait polls once, however long it may.
    if busy_poll(1).is_ok() {
        // The transmitter's answer is asked for at the next kick.
        let _ = transmitter(socket);
        // Or every kick would poll. What was allowed to be set may be taken back.
        let _ = busy_poll(0);
    }
}
