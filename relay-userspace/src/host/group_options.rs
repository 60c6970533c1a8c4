//! Socket options by which a UDP socket joins and leaves groups, of IPv4 and IPv6 alike (RFC 3678,
//! section 5). They name the interface by its index, which the options of socket2 do not for a
//! group with a source.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::RawFd,
};

use nix::errno::Errno;
use socket2::{SockAddr, SockAddrStorage};

use super::socket_options::set_value;

/// `struct group_req` (include/uapi/linux/in.h).
#[repr(C)]
struct GroupRequest {
    interface: u32,
    group: SockAddrStorage,
}

/// `struct group_source_req`.
#[repr(C)]
struct GroupSourceRequest {
    interface: u32,
    group: SockAddrStorage,
    source: SockAddrStorage,
}

/// What a socket does about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The kernel tells the network that this host wants the group.
    Join,
    /// It does so no more, unless another socket has joined as well.
    Leave,
}

/// Joins or leaves `group` on the interface with this index: of one `source`, or of any.
///
/// # Errors
///
/// The system call's error.
pub fn change(
    socket: RawFd,
    what: What,
    interface: u32,
    group: IpAddr,
    source: Option<IpAddr>,
) -> Result<(), Errno> {
    let level = match group {
        IpAddr::V4(_) => libc::IPPROTO_IP,
        IpAddr::V6(_) => libc::IPPROTO_IPV6,
    };
    let group = address(group);
    match source {
        None => {
            let option = match what {
                What::Join => libc::MCAST_JOIN_GROUP,
                What::Leave => libc::MCAST_LEAVE_GROUP,
            };
            set_value(socket, level, option, &GroupRequest { interface, group })
        }
        Some(source) => {
            let option = match what {
                What::Join => libc::MCAST_JOIN_SOURCE_GROUP,
                What::Leave => libc::MCAST_LEAVE_SOURCE_GROUP,
            };
            let request = GroupSourceRequest {
                interface,
                group,
                source: address(source),
            };
            set_value(socket, level, option, &request)
        }
    }
}

fn address(address: IpAddr) -> SockAddrStorage {
    SockAddr::from(SocketAddr::new(address, 0)).as_storage()
}
