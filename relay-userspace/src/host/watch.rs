//! Requests about single interfaces by index, and notifications about all: for use while frames
//! move.
//!
//! By index, because a name may come to mean another interface, or none: then the kernel tries to
//! load a module of that name (`dev_load`, net/core/dev_ioctl.c). It never dumps all interfaces: a
//! host may have thousands.

use std::{
    collections::BTreeSet,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{SockProtocol, setsockopt, sockopt::RcvBuf},
};

use super::{
    GsoLimits,
    netlink_socket::{Socket, attributes, push, text, u16_at, u32_at},
    socket_options,
};

/// RTNLGRP_LINK, RTNLGRP_TC and RTNLGRP_IPV4_IFADDR (include/uapi/linux/rtnetlink.h), as a mask.
const GROUPS: u32 = 1 << 0 | 1 << 3 | 1 << 4;
/// Bytes of notifications that may wait. The kernel drops those beyond, and then the relay requests
/// everything anew.
const WAITING: usize = 256 << 10;

/// Attributes of a link (include/uapi/linux/if_link.h).
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
/// The family `ethtool` of generic netlink (include/uapi/linux/ethtool_netlink.h).
const ETHTOOL: &str = "ethtool";
const FEATURES_GET: u8 = 11;
/// The answer to [`FEATURES_GET`], and the notification of a change.
const FEATURES_ANSWER: u8 = 11;
const FEATURES_NEWS: u8 = 13;
const FEATURES_HEADER: u16 = 1;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_DEV_INDEX: u16 = 1;
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
        // struct ifinfomsg: family, type, index, flags, change.
        let mut payload = vec![0; 16];
        payload.splice(4..8, index.to_ne_bytes());
        let mut now = None;
        let asked = self.route.ask(libc::RTM_GETLINK, &payload, |kind, answer| {
            if kind == libc::RTM_NEWLINK {
                now = link(answer);
            }
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(now),
        }
    }

    /// The IPv4 addresses of an interface.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<Ipv4Addr>> {
        /// The most attempts to read a list that changes while it is read.
        const TRIES: usize = 8;
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut payload = vec![libc::AF_INET as u8, 0, 0, 0];
        payload.extend(index.to_ne_bytes());
        let mut addresses = Vec::new();
        for _ in 0..TRIES {
            addresses.clear();
            let complete = self.route.list(libc::RTM_GETADDR, &payload, |_, answer| {
                if u32_at(answer, 4) == Some(index) {
                    addresses.extend(local_address(answer));
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
        let mut header = Vec::new();
        push(&mut header, HEADER_DEV_INDEX, &index.to_ne_bytes());
        let mut payload = vec![FEATURES_GET, 1, 0, 0];
        push(
            &mut payload,
            FEATURES_HEADER | libc::NLA_F_NESTED as u16,
            &header,
        );
        let mut takes = None;
        let asked = socket.ask(*family, &payload, |_, answer| {
            takes = features(answer).map(|(_, takes)| takes);
        });
        asked.ok().and(takes)
    }
}

/// The index of an interface and whether it takes UDP GSO packets whole, from an answer or a
/// notification of the family `ethtool`.
fn features(message: &[u8]) -> Option<(u32, bool)> {
    let all = message.get(4..)?;
    let of = |wanted: u16| attributes(all).find(|(kind, _)| *kind == wanted);
    let (_, header) = of(FEATURES_HEADER)?;
    let (_, index) = attributes(header).find(|(kind, _)| *kind == HEADER_DEV_INDEX)?;
    let (_, active) = of(FEATURES_ACTIVE)?;
    let known = matches!(message.first(), Some(&(FEATURES_ANSWER | FEATURES_NEWS)));
    known.then_some((u32_at(index, 0)?, has_bit(active, "tx-udp-segmentation")))
}

/// A family of generic netlink.
struct Family {
    number: u16,
    /// Its multicast group `monitor`, which has the notifications.
    monitor: Option<u32>,
}

/// Looks up a family; `None` if the kernel does not have it.
fn family(socket: &mut Socket, name: &str) -> io::Result<Option<Family>> {
    // include/uapi/linux/genetlink.h
    const ID_CTRL: u16 = 16;
    const GET_FAMILY: u8 = 3;
    const FAMILY_ID: u16 = 1;
    const FAMILY_NAME: u16 = 2;
    const GROUPS: u16 = 7;
    const GROUP_NAME: u16 = 1;
    const GROUP_ID: u16 = 2;
    let mut payload = vec![GET_FAMILY, 1, 0, 0];
    push(&mut payload, FAMILY_NAME, format!("{name}\0").as_bytes());
    let mut found = None;
    let asked = socket.ask(ID_CTRL, &payload, |_, answer| {
        let all = answer.get(4..).unwrap_or_default();
        let of = |wanted: u16| attributes(all).find(|(kind, _)| *kind == wanted);
        let groups = of(GROUPS).map_or(&[][..], |(_, groups)| groups);
        let is_it = |group: &[u8]| {
            attributes(group).any(|(kind, name)| kind == GROUP_NAME && text(name) == "monitor")
        };
        let monitor = attributes(groups).find(|(_, group)| is_it(group));
        let monitor = monitor.and_then(|(_, group)| {
            let (_, id) = attributes(group).find(|(kind, _)| *kind == GROUP_ID)?;
            u32_at(id, 0)
        });
        let number = of(FAMILY_ID).and_then(|(_, id)| u16_at(id, 0));
        found = number.map(|number| Family { number, monitor });
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

/// Whether an ethtool bit set has the bit `wanted` set.
fn has_bit(set: &[u8], wanted: &str) -> bool {
    const NOMASK: u16 = 1;
    const BITS: u16 = 3;
    const NAME: u16 = 2;
    const VALUE: u16 = 3;
    let is_list = attributes(set).any(|(kind, _)| kind == NOMASK);
    let bits = attributes(set).filter(|(kind, _)| *kind == BITS);
    let mut bits = bits.flat_map(|(_, bits)| attributes(bits));
    bits.any(|(_, bit)| {
        let is_it = attributes(bit).any(|(kind, name)| kind == NAME && text(name) == wanted);
        is_it && (is_list || attributes(bit).any(|(kind, _)| kind == VALUE))
    })
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
    now.gso.bytes = max_ipv4_size.or(max_size).unwrap_or(now.gso.bytes);
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

/// Receives notifications of changes.
#[derive(Debug)]
pub struct News {
    route: Socket,
    /// For features: the route socket only reports that they changed, and a request for them takes
    /// a lock that a process that changes them may hold for long.
    ethtool: Option<Socket>,
}

/// The content of the notifications read at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// The indices of interfaces that changed or have gone.
    pub touched: BTreeSet<u32>,
    /// The states of links that were reported, in order. They may have changed again.
    pub links: Vec<(u32, Now)>,
    /// By index, the reports whether an interface takes UDP GSO packets whole, in order.
    pub takes_gso: Vec<(u32, bool)>,
    /// The kernel dropped notifications: everything may have changed.
    pub lost: bool,
}

impl News {
    /// Subscribes to changes of the links, addresses, queueing disciplines and features in the
    /// calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn subscribe() -> io::Result<Self> {
        let route = Socket::open(SockProtocol::NetlinkRoute, GROUPS)?;
        // With a smaller buffer the kernel is likelier to drop notifications, which `lost` reports.
        let _ = setsockopt(&route.fd(), RcvBuf, &WAITING);
        let mut generic = Socket::open(SockProtocol::NetlinkGeneric, 0)?;
        let monitor = family(&mut generic, ETHTOOL)?.and_then(|family| family.monitor);
        let fd = generic.fd().as_raw_fd();
        let joined = monitor.is_some_and(|group| {
            let group = group.cast_signed();
            socket_options::set(fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group).is_ok()
        });
        Ok(Self {
            route,
            ethtool: joined.then_some(generic),
        })
    }

    /// The descriptors, which are readable when notifications wait.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ethtool = self.ethtool.iter().map(Socket::fd);
        std::iter::once(self.route.fd()).chain(ethtool)
    }

    /// Reads all waiting notifications.
    pub fn read(&mut self) -> Heard {
        let mut heard = Heard::default();
        if let Some(ethtool) = &mut self.ethtool {
            // Losses here are harmless: every change is notified on the route socket as well, and a
            // request for the features finds it.
            let _ = ethtool.hear(|_, payload| {
                if let Some((index, takes)) = features(payload) {
                    heard.touched.insert(index);
                    heard.takes_gso.push((index, takes));
                }
            });
        }
        let read = self.route.hear(|kind, payload| {
            // ifinfomsg, ifaddrmsg and tcmsg have the index at the same place.
            let Some(index) = u32_at(payload, 4) else {
                return;
            };
            heard.touched.insert(index);
            if kind == libc::RTM_NEWLINK {
                heard.links.extend(link(payload).map(|now| (index, now)));
            }
        });
        heard.lost = read.is_err();
        heard
    }
}
