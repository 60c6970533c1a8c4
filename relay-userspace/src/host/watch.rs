//! Requests about single interfaces, and notifications about all: for use while frames move.
//!
//! By index where an index is known, because a name may come to mean another interface. Never by
//! the ioctls that take a name: if there is no such interface, the kernel tries to load a module of
//! that name (`dev_load`, net/core/dev_ioctl.c). It never dumps all interfaces: a host may have
//! thousands.

pub(super) mod ethtool_messages;
mod news;
mod route_news;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
};

use nix::{errno::Errno, sys::socket::SockProtocol};

use self::ethtool_messages::{ETHTOOL, active_features, family, features, features_request};
pub use self::{
    news::{Heard, News, Queues},
    route_news::{HeardOfRoutes, RouteGroups, RouteNews},
};
use super::{
    GsoLimits, Ipv6Address,
    netlink_socket::{Socket, attributes, push, text, u32_at},
    offloads::unwanted_of,
    socket_options,
};

/// Attributes of a link (include/uapi/linux/if_link.h).
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
/// Positions in `struct rtnl_link_stats64`, which consists of 64-bit numbers.
const TX_DROPPED: usize = 7;
const RX_MISSED: usize = 15;

/// The state of one interface now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Now {
    /// Its name.
    pub name: String,
    /// The hardware address, if it has 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub is_up: bool,
    /// It is up and has a carrier, and the kernel has acted upon that (`IFF_RUNNING`).
    pub carries: bool,
    /// The queueing discipline's name.
    pub qdisc: String,
    /// Frames that the device got from the kernel and did not send.
    pub tx_dropped: u64,
    /// Frames that the device had no buffer for.
    pub rx_missed: u64,
    /// Its limits for one GSO packet.
    pub gso: GsoLimits,
    /// The id of the XDP program in native mode.
    pub program: Option<u32>,
}

/// Sends requests about single interfaces.
#[derive(Debug)]
pub struct Questions {
    route: Socket,
    /// A socket for the family `ethtool` of generic netlink, and the family's number; `None` if the
    /// kernel is built without it.
    ethtool: Option<(Socket, u16)>,
}

impl Questions {
    /// Opens the sockets, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open() -> io::Result<Self> {
        let route = Socket::open(SockProtocol::NetlinkRoute, 0)?;
        // Without this option the kernel lists the addresses of all interfaces.
        let fd = route.fd().as_raw_fd();
        let _ = socket_options::set(fd, libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1);
        let mut generic = Socket::open(SockProtocol::NetlinkGeneric, 0)?;
        let ethtool = family(&mut generic, ETHTOOL)?;
        Ok(Self {
            route,
            ethtool: ethtool.map(|family| (generic, family.number)),
        })
    }

    /// The state of an interface now; `None` if no interface has this index.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn link(&mut self, index: u32) -> io::Result<Option<Now>> {
        Ok(self.get_link(index, &[])?.map(|(_, now)| now))
    }

    /// The index and the state of the interface that is called `name` now; `None` if there is none.
    /// An alternative name does not count.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn link_named(&mut self, name: &str) -> io::Result<Option<(u32, Now)>> {
        let mut attribute = Vec::new();
        push(
            &mut attribute,
            libc::IFLA_IFNAME,
            format!("{name}\0").as_bytes(),
        );
        let found = self.get_link(0, &attribute)?;
        Ok(found.filter(|(_, now)| now.name == name))
    }

    fn get_link(&mut self, index: u32, attributes: &[u8]) -> io::Result<Option<(u32, Now)>> {
        // struct ifinfomsg: family, type, index, flags, change.
        let mut payload = vec![0; 16];
        payload.splice(4..8, index.to_ne_bytes());
        payload.extend(attributes);
        let mut found = None;
        let asked = self.route.ask(libc::RTM_GETLINK, &payload, |kind, answer| {
            if kind == libc::RTM_NEWLINK {
                found = u32_at(answer, 4).zip(link(answer));
            }
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    }

    /// The IPv4 addresses of an interface.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Ipv4Addr>> {
        self.list_addresses(libc::AF_INET, index, local_address)
    }

    /// The IPv6 addresses that an interface may send from.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn ipv6_addresses(&mut self, index: u32) -> io::Result<Vec<Ipv6Address>> {
        self.list_addresses(libc::AF_INET6, index, local_ipv6_address)
    }

    fn list_addresses<T>(
        &mut self,
        family: libc::c_int,
        index: u32,
        read: fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        /// The most attempts to read a list that changes while it is read.
        const TRIES: usize = 8;
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut payload = vec![family as u8, 0, 0, 0];
        payload.extend(index.to_ne_bytes());
        let mut addresses = Vec::new();
        for _ in 0..TRIES {
            addresses.clear();
            let complete = self.route.list(libc::RTM_GETADDR, &payload, |_, answer| {
                if u32_at(answer, 4) == Some(index) {
                    addresses.extend(read(answer));
                }
            })?;
            if complete {
                return Ok(addresses);
            }
        }
        Err(Errno::EINTR.into())
    }

    /// Whether an interface takes UDP GSO packets whole (`tx-udp-segmentation`); `None` if the
    /// kernel does not report it.
    pub fn takes_gso(&mut self, index: u32) -> Option<bool> {
        let (socket, family) = self.ethtool.as_mut()?;
        let payload = features_request(index);
        let mut takes = None;
        let asked = socket.ask(*family, &payload, |_, answer| {
            takes = features(answer).map(|(_, takes)| takes);
        });
        asked.ok().and(takes)
    }

    /// Whether an interface takes VLAN tags out of received frames; `None` if the kernel does not
    /// report it.
    pub fn strips_tags(&mut self, index: u32) -> Option<bool> {
        let (socket, family) = self.ethtool.as_mut()?;
        let mut strips = None;
        let asked = socket.ask(*family, &features_request(index), |_, answer| {
            let unwanted = active_features(answer).map(|(_, active)| unwanted_of(active));
            strips = unwanted.map(|unwanted| unwanted.iter().any(|offload| offload.strips()));
        });
        asked.ok().and(strips)
    }
}

fn link(message: &[u8]) -> Option<Now> {
    let flags = u32_at(message, 8)?;
    let has = |flag: libc::c_int| flags & flag.cast_unsigned() != 0;
    let mut now = Now {
        is_up: has(libc::IFF_UP),
        carries: has(libc::IFF_RUNNING),
        ..Now::default()
    };
    let (mut max_size, mut max_ipv4_size) = (None, None);
    for (kind, value) in attributes(message.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => now.name = text(value),
            libc::IFLA_ADDRESS => now.mac = value.try_into().ok(),
            libc::IFLA_MTU => now.mtu = u32_at(value, 0)?,
            libc::IFLA_QDISC => now.qdisc = text(value),
            libc::IFLA_STATS64 => {
                now.tx_dropped = number(value, TX_DROPPED);
                now.rx_missed = number(value, RX_MISSED);
            }
            IFLA_GSO_MAX_SEGS => now.gso.segments = u32_at(value, 0)?,
            IFLA_GSO_MAX_SIZE => max_size = u32_at(value, 0),
            IFLA_GSO_IPV4_MAX_SIZE => max_ipv4_size = u32_at(value, 0),
            IFLA_XDP => now.program = program(value),
            _ => {}
        }
    }
    let sizes = max_ipv4_size.into_iter().chain(max_size);
    now.gso.bytes = sizes.fold(now.gso.bytes, u32::min);
    Some(now)
}

/// One of the 64-bit numbers of `all`; 0 if an old kernel does not have it.
fn number(all: &[u8], position: usize) -> u64 {
    let bytes = all.chunks_exact(8).nth(position);
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}

fn program(xdp: &[u8]) -> Option<u32> {
    let of = |wanted: u16| attributes(xdp).find(|(kind, _)| *kind == wanted);
    let id = of(IFLA_XDP_DRV_PROG_ID).or_else(|| of(IFLA_XDP_PROG_ID));
    id.and_then(|(_, id)| u32_at(id, 0))
}

fn local_address(message: &[u8]) -> Option<Ipv4Addr> {
    let mut all = attributes(message.get(8..)?);
    // IFA_LOCAL is ours; IFA_ADDRESS is the other end's on a point-to-point interface.
    let (_, local) = all.find(|(kind, _)| *kind == libc::IFA_LOCAL)?;
    <[u8; 4]>::try_from(local).ok().map(Ipv4Addr::from)
}

fn local_ipv6_address(message: &[u8]) -> Option<Ipv6Address> {
    let flags = *message.get(2)?;
    Ipv6Address::usable(any_ipv6_address(message)?, flags)
}

fn any_ipv6_address(message: &[u8]) -> Option<Ipv6Addr> {
    let of = |wanted: u16| {
        let mut all = attributes(message.get(8..)?);
        all.find(|(kind, _)| *kind == wanted)
    };
    // IFA_LOCAL is there only if the other end's address is known, and IFA_ADDRESS has that.
    let (_, local) = of(libc::IFA_LOCAL).or_else(|| of(libc::IFA_ADDRESS))?;
    <[u8; 16]>::try_from(local).ok().map(Ipv6Addr::from)
}

/// The address that a notification of one is about.
fn address_of(message: &[u8]) -> Option<IpAddr> {
    match i32::from(*message.first()?) {
        libc::AF_INET => local_address(message).map(IpAddr::V4),
        libc::AF_INET6 => any_ipv6_address(message).map(IpAddr::V6),
        _ => None,
    }
}
