//! Where the kernel's routing leads, one look-up at a time.
//!
//! `RTM_GETROUTE` without a dump is the look-up that a socket of this host would make, with policy
//! rules, next hop objects and multipath: nothing of that is repeated here. It changes nothing in
//! the kernel.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::sys::socket::SockProtocol;

use super::netlink_socket::{Socket, attributes, push, u16_at, u32_at};

/// Attributes of a route that libc does not have (include/uapi/linux/rtnetlink.h).
const RTA_VIA: u16 = 18;
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;
/// The size of a `struct rtmsg`, and where its type is.
const HEADER: usize = 12;
const TYPE: usize = 7;

/// What a datagram has that the kernel's routing looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteQuery {
    /// Where it goes.
    pub destination: IpAddr,
    /// The UDP port that it goes to; `None` where there are several.
    pub port: Option<u16>,
    /// The index of the interface that it shall leave through, if that is given.
    pub interface: Option<u32>,
    /// The mark that policy rules see.
    pub mark: Option<u32>,
    /// Its source address, if that is given. Where it is not this host's, the look-up goes without.
    pub source: Option<IpAddr>,
}

/// The way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// The index of the interface.
    pub interface: u32,
    /// The router on the link; `None` where the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address: the query's, if it is this host's, or else the one that the kernel would
    /// choose.
    pub source: Option<IpAddr>,
}

/// Why there is no way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// No route, or one of type `unreachable` in a policy rule.
    Missing,
    /// A route of type `unreachable`.
    Unreachable,
    /// A route of type `prohibit`.
    Prohibited,
    /// A route of type `blackhole`.
    Blackhole,
    /// The destination is an address of this host.
    Local,
    /// The destination is a broadcast address of a link.
    Broadcast,
    /// Another error.
    Refused(String),
}

/// "there is no route"
impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no route"),
            Self::Unreachable => f.write_str("the route is of type `unreachable`"),
            Self::Prohibited => f.write_str("the route is of type `prohibit`"),
            Self::Blackhole => f.write_str("the route is of type `blackhole`"),
            Self::Local => f.write_str("this is an address of this host"),
            Self::Broadcast => f.write_str("this is a broadcast address"),
            Self::Refused(error) => {
                write!(f, "the kernel refuses the look-up (RTM_GETROUTE): {error}")
            }
        }
    }
}

/// Asks the kernel for routes.
#[derive(Debug)]
pub struct Routing(Socket);

impl Routing {
    /// Opens a socket, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Socket::open(SockProtocol::NetlinkRoute, 0)?))
    }

    /// The way that the kernel would send such a datagram now.
    ///
    /// # Errors
    ///
    /// Why it would send it nowhere.
    pub fn look_up(&mut self, query: &RouteQuery) -> Result<Route, NoRoute> {
        // Of an address that is not its own the kernel says EINVAL over IPv4.
        let source = query.source.filter(|&source| self.is_local(source));
        let route = self.ask(&RouteQuery { source, ..*query })?;
        // The answer has only what the kernel had to choose.
        let source = source.or(route.source);
        Ok(Route { source, ..route })
    }

    /// Whether this host has an address.
    fn is_local(&mut self, address: IpAddr) -> bool {
        let to_it = RouteQuery {
            destination: address,
            port: None,
            interface: None,
            mark: None,
            source: None,
        };
        self.ask(&to_it) == Err(NoRoute::Local)
    }

    fn ask(&mut self, query: &RouteQuery) -> Result<Route, NoRoute> {
        let mut answer = Err(NoRoute::Missing);
        let asked = self
            .0
            .ask(libc::RTM_GETROUTE, &request(query), |kind, payload| {
                if kind == libc::RTM_NEWROUTE {
                    answer = route(payload);
                }
            });
        match asked {
            Ok(()) => answer,
            Err(error) => Err(match error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::ENODEV | libc::ENONET) => NoRoute::Missing,
                Some(libc::EHOSTUNREACH) => NoRoute::Unreachable,
                Some(libc::EACCES) => NoRoute::Prohibited,
                Some(libc::EINVAL) => NoRoute::Blackhole,
                _ => NoRoute::Refused(error.to_string()),
            }),
        }
    }
}

fn request(query: &RouteQuery) -> Vec<u8> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (family, bits) = match query.destination {
        IpAddr::V4(_) => (libc::AF_INET, 32),
        IpAddr::V6(_) => (libc::AF_INET6, 128),
    };
    let source_bits = query.source.map_or(0, |_| bits);
    let mut payload = vec![0; HEADER];
    payload.splice(..3, [family as u8, bits, source_bits]);
    push(&mut payload, libc::RTA_DST, &bytes(query.destination));
    if let Some(source) = query.source {
        push(&mut payload, libc::RTA_SRC, &bytes(source));
    }
    if let Some(interface) = query.interface {
        push(&mut payload, libc::RTA_OIF, &interface.to_ne_bytes());
    }
    if let Some(mark) = query.mark {
        push(&mut payload, libc::RTA_MARK, &mark.to_ne_bytes());
    }
    push(&mut payload, RTA_IP_PROTO, &[libc::IPPROTO_UDP as u8]);
    if let Some(port) = query.port {
        push(&mut payload, RTA_DPORT, &port.to_be_bytes());
    }
    payload
}

fn route(message: &[u8]) -> Result<Route, NoRoute> {
    match message.get(TYPE).copied() {
        Some(libc::RTN_LOCAL | libc::RTN_ANYCAST) => return Err(NoRoute::Local),
        Some(libc::RTN_BROADCAST | libc::RTN_MULTICAST) => return Err(NoRoute::Broadcast),
        _ => {}
    }
    let (mut interface, mut gateway, mut source) = (None, None, None);
    for (kind, value) in attributes(message.get(HEADER..).unwrap_or_default()) {
        match kind {
            libc::RTA_OIF => interface = u32_at(value, 0),
            libc::RTA_GATEWAY => gateway = address(value),
            // struct rtvia: the address family, and an address of it.
            RTA_VIA if u16_at(value, 0).is_some() => {
                gateway = address(value.get(2..).unwrap_or_default());
            }
            libc::RTA_PREFSRC => source = address(value),
            _ => {}
        }
    }
    Ok(Route {
        interface: interface.ok_or(NoRoute::Missing)?,
        gateway: gateway.filter(|gateway| !gateway.is_unspecified()),
        source,
    })
}

/// An address of the version that its length says.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let ipv6 = || <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    ipv4.or_else(|_| ipv6()).ok()
}
