//! The two ethtool ioctls that netlink has no equally old replacement for.
//!
//! The socket decides the network namespace, so the answers are about the caller's.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// include/uapi/linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Channels>() == 36);

/// Marks the structures that start with a command and that [`call`] may hand to the kernel.
///
/// # Safety
///
/// The type is the whole structure that the kernel writes for every command it is used with.
unsafe trait Request {}
// SAFETY: the layout is that of `struct ethtool_drvinfo`, as the assertion above checks.
unsafe impl Request for DriverInfo {}
// SAFETY: the layout is that of `struct ethtool_channels`, as the assertion above checks.
unsafe impl Request for Channels {}

nix::ioctl_readwrite_bad!(siocethtool, libc::SIOCETHTOOL, libc::ifreq);

/// The driver's name, `None` where the interface has no such notion.
pub(super) fn driver(name: &str) -> io::Result<Option<String>> {
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    if !call(name, &mut info)? {
        return Ok(None);
    }
    let bytes = info
        .driver
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    Ok((!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned()))
}

/// The RX and TX queues in use, `None` where the driver does not tell.
pub(super) fn channels(name: &str) -> io::Result<Option<(u32, u32)>> {
    let mut channels = Channels {
        command: ETHTOOL_GCHANNELS,
        ..Channels::default()
    };
    if !call(name, &mut channels)? {
        return Ok(None);
    }
    Ok(Some((
        channels.rx + channels.combined,
        channels.tx + channels.combined,
    )))
}

/// False when the driver does not implement the command.
fn call<T: Request>(name: &str, request: &mut T) -> io::Result<bool> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    // The last byte stays 0: the kernel reads a C string.
    for (to, from) in ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let data = std::ptr::from_mut(request).cast();
    let mut ifreq = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data },
    };
    // SAFETY: `ifru_data` points to a `Request`, which is as large as what the kernel writes for
    // its command, and which outlives the call.
    match unsafe { siocethtool(socket.as_fd().as_raw_fd(), &raw mut ifreq) } {
        Ok(_) => Ok(true),
        Err(Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
