//! Devices: checksum offload, and tap devices.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::errno::check;

/// `ETHTOOL_STXCSUM` (linux/ethtool.h).
const TX_CHECKSUM: u32 = 0x17;

/// Turns checksum offload of `interface` on or off, in the calling thread's namespace. With it off
/// the kernel completes every checksum in front of the device.
pub fn set_checksum_offload(interface: &str, on: bool) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value {
        command: TX_CHECKSUM,
        data: u32::from(on),
    };
    let mut request = request_for(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: no pointer is passed.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was opened just now and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `request` and the `value` it points to are live for the call, as SIOCETHTOOL wants.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    Ok(())
}

/// include/uapi/linux/if_tun.h
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const IFF_TAP_NO_PI_VNET_HDR: libc::c_short = 0x0002 | 0x1000 | 0x4000;
/// `TUN_F_CSUM`, `TUN_F_USO4` and `TUN_F_USO6`, which come together.
const TUN_TAKES_GSO_PACKETS: libc::c_ulong = 0x01 | 0x20 | 0x40;

/// Makes a tap device in the calling thread's namespace, which lives as long as the file. Each
/// frame that is read has a vnet header (`struct virtio_net_hdr`) in front; reading never waits.
/// With `offload` the device takes UDP GSO packets whole.
pub fn open_tap(interface: &str, offload: bool) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = request_for(interface)?;
    request.ifr_ifru.ifru_flags = IFF_TAP_NO_PI_VNET_HDR;
    // SAFETY: `request` is live for the call, which reads and writes it.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    if offload {
        // SAFETY: the argument is a number.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, TUN_TAKES_GSO_PACKETS) })?;
    }
    Ok(file)
}

/// A request about `interface`.
fn request_for(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::other(format!(
            "interface name `{interface}` is too long"
        )));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}
