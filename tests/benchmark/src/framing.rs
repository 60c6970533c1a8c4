//! What the frames of a scenario look like: untagged IPv4, tagged IPv4, or IPv6.
//!
//! All numbers of a job are those of IPv4. In a scenario over IPv6 each group stands for the one
//! with its 32 bits at the end ([`group6`]), at the relay, the generator and the sinks alike.

use std::net::{Ipv4Addr, Ipv6Addr};

use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, UDP_LEN, ipv6, vlan::TAG_LEN};
use serde::{Deserialize, Serialize};

/// The VLAN that tagged frames arrive in. Their copies leave untagged.
pub const VLAN: u16 = 100;
/// The first half of all IPv6 groups: not permanent, of global scope (RFC 4291, section 2.7).
const GROUP6: u16 = 0xff1e;
/// The source of IPv6 frames, of the range for documentation.
pub const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

/// The headers of the frames that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// Ethernet, IPv4, UDP.
    #[default]
    Ipv4,
    /// The same with a tag for [`VLAN`] in the frame's bytes.
    Tagged,
    /// Ethernet, IPv6, UDP.
    Ipv6,
}

impl Framing {
    /// The program that makes these frames.
    pub fn program(self) -> &'static str {
        match self {
            Self::Ipv4 => "generate",
            Self::Tagged => "generate_tagged",
            Self::Ipv6 => "generate_ipv6",
        }
    }

    /// Where the IP header starts.
    pub fn ip_at(self) -> usize {
        match self {
            Self::Ipv4 | Self::Ipv6 => ETHERNET_LEN,
            Self::Tagged => ETHERNET_LEN + TAG_LEN,
        }
    }

    /// Where the UDP header starts.
    pub fn udp_at(self) -> usize {
        let ip_len = match self {
            Self::Ipv4 | Self::Tagged => IPV4_LEN,
            Self::Ipv6 => ipv6::HEADER_LEN,
        };
        self.ip_at() + ip_len
    }

    /// Length of all headers.
    pub fn headers_len(self) -> usize {
        self.udp_at() + UDP_LEN
    }
}

/// The IPv6 group that `group` stands for.
pub fn group6(group: Ipv4Addr) -> Ipv6Addr {
    let [.., high, low] = group.to_ipv6_mapped().segments();
    Ipv6Addr::new(GROUP6, 0, 0, 0, 0, 0, high, low)
}
