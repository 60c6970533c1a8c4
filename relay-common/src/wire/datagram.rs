//! What the decoder makes of a frame that may be forwarded.

use core::net::{IpAddr, Ipv4Addr};

use super::{ipv4, ipv6, udp, vlan::Vlan};

/// The UDP datagram in a frame: fields in host order, and where its parts start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Source and destination.
    pub addresses: Addresses,
    /// Destination port.
    pub port: u16,
    /// The VLAN that the frame's tags name.
    pub vlan: Vlan,
    /// Time to live (IPv4), or hop limit (IPv6).
    pub ttl: u8,
    /// Offset of the IP header in bytes from the start of the frame.
    pub network: u16,
    /// Length of the UDP payload in bytes.
    pub payload_len: u16,
}

/// The IP addresses of a datagram, as they lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Source.
        source: ipv4::Address,
        /// Destination: a group, or the address of a host.
        group: ipv4::Address,
    },
    /// IPv6.
    V6 {
        /// Source.
        source: ipv6::Address,
        /// Destination: a group, or the address of a host.
        group: ipv6::Address,
    },
}

impl Addresses {
    /// Those of a datagram from `source` to `group`; `None` if they are of different versions of
    /// IP.
    #[must_use]
    pub const fn between(source: IpAddr, group: IpAddr) -> Option<Self> {
        match (source, group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => Some(Self::V4 {
                source: u32::from_ne_bytes(source.octets()),
                group: u32::from_ne_bytes(group.octets()),
            }),
            (IpAddr::V6(source), IpAddr::V6(group)) => Some(Self::V6 {
                source: ipv6::to_memory(source),
                group: ipv6::to_memory(group),
            }),
            _ => None,
        }
    }

    /// The source.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        match *self {
            Self::V4 { source, .. } => IpAddr::V4(v4(source)),
            Self::V6 { source, .. } => IpAddr::V6(ipv6::from_memory(source)),
        }
    }

    /// The destination: a group, or the address of a host.
    #[must_use]
    pub const fn group(&self) -> IpAddr {
        match *self {
            Self::V4 { group, .. } => IpAddr::V4(v4(group)),
            Self::V6 { group, .. } => IpAddr::V6(ipv6::from_memory(group)),
        }
    }

    /// Whether the destination is a group, and not an address of a host.
    #[inline(always)]
    #[must_use]
    pub const fn is_to_group(&self) -> bool {
        match *self {
            Self::V4 { group, .. } => ipv4::is_group(group),
            Self::V6 { group, .. } => ipv6::is_group(group),
        }
    }

    /// Whether no host can have sent from this source to this destination, which is a group where
    /// `is_to_group` says so.
    #[inline(always)]
    #[must_use]
    pub const fn is_martian(&self, is_to_group: bool) -> bool {
        match *self {
            Self::V4 { source, .. } => ipv4::is_martian(source),
            Self::V6 { source, group } => {
                ipv6::is_martian(source) || is_to_group && ipv6::stays_on_its_host(group)
            }
        }
    }
}

const fn v4(address: ipv4::Address) -> Ipv4Addr {
    let [a, b, c, d] = address.to_ne_bytes();
    Ipv4Addr::new(a, b, c, d)
}

impl Datagram {
    /// Offset of the UDP header in bytes from the start of the frame.
    #[inline]
    #[must_use]
    pub const fn transport(&self) -> usize {
        self.network as usize
            + match self.addresses {
                Addresses::V4 { .. } => ipv4::HEADER_LEN,
                Addresses::V6 { .. } => ipv6::HEADER_LEN,
            }
    }

    /// Offset of the payload in bytes from the start of the frame.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> usize {
        self.transport() + udp::HEADER_LEN
    }

    /// End of the datagram in bytes from the start of the frame. What follows is Ethernet padding.
    #[inline]
    #[must_use]
    pub const fn end(&self) -> usize {
        self.payload() + self.payload_len as usize
    }

    /// The destination: a group, or the address of a host.
    #[must_use]
    pub const fn group(&self) -> IpAddr {
        self.addresses.group()
    }

    /// The source.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.addresses.source()
    }
}
