//! A multicast route of the kernel, as a routing daemon makes it (linux/mroute.h).

use std::ffi::c_int;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use super::errno::check;
use super::socket::{OptionValue, set_option};

const MRT_INIT: c_int = 200;
const MRT_ADD_VIF: c_int = 202;
const MRT_ADD_MFC: c_int = 204;
const VIFF_USE_IFINDEX: u8 = 8;

/// `struct vifctl`
#[derive(Clone, Copy)]
#[repr(C)]
struct Interface {
    number: u16,
    flags: u8,
    threshold: u8,
    rate_limit: u32,
    index: u32,
    remote: u32,
}
// SAFETY: numbers without gaps, as the assertion below says.
unsafe impl OptionValue for Interface {}

/// `struct mfcctl`
#[derive(Clone, Copy)]
#[repr(C)]
struct Route {
    source: u32,
    group: u32,
    input: u16,
    ttls: [u8; 32],
    padding: u16,
    counts: [u32; 3],
    expire: i32,
}
// SAFETY: numbers without gaps, as the assertion below says.
unsafe impl OptionValue for Route {}

const _: () = assert!(size_of::<Interface>() == 16 && size_of::<Route>() == 60);

/// Makes the kernel of this thread's network namespace route `group` from `source`, which arrives
/// on the interface with the index `input`, to the one with the index `output`, until the returned
/// socket is closed.
pub fn multicast_route(
    source: Ipv4Addr,
    group: Ipv4Addr,
    input: u32,
    output: u32,
) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe {
        libc::socket(
            libc::AF_INET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_IGMP,
        )
    })?;
    // SAFETY: the descriptor was opened just now and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let level = libc::IPPROTO_IP;
    set_option(socket.as_fd(), level, MRT_INIT, &1)?;
    for (number, index) in [(0, input), (1, output)] {
        let interface = Interface {
            number,
            flags: VIFF_USE_IFINDEX,
            threshold: 1,
            rate_limit: 0,
            index,
            remote: 0,
        };
        set_option(socket.as_fd(), level, MRT_ADD_VIF, &interface)?;
    }
    let mut ttls = [0; 32];
    ttls[1] = 1;
    let route = Route {
        source: u32::from_ne_bytes(source.octets()),
        group: u32::from_ne_bytes(group.octets()),
        input: 0,
        ttls,
        padding: 0,
        counts: [0; 3],
        expire: 0,
    };
    set_option(socket.as_fd(), level, MRT_ADD_MFC, &route)?;
    Ok(socket)
}
