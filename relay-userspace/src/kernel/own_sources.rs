//! The sources that the relay's copies leave with. A frame that arrives with one of them is a copy
//! that came back, and the kernel programs do not match it.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use relay_common::{
    abi::OwnKey,
    wire::{self, ipv6},
};

use crate::plan::{Mac, Plan};

/// A source of the relay's copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnSource {
    /// The Ethernet address of an output interface.
    Mac([u8; 6]),
    /// The IPv4 address of an output interface.
    Address(Ipv4Addr),
    /// The IPv6 address of an output interface.
    Address6(Ipv6Addr),
}

impl OwnSource {
    /// All sources that the copies of `plan` leave with, on either backend.
    #[must_use]
    pub fn of(plan: &Plan) -> BTreeSet<Self> {
        let outputs = plan.interfaces.iter().filter(|facts| facts.is_output);
        let copies = plan.flows.iter().flat_map(|flow| &flow.outputs);
        outputs
            .map(|interface| Self::Mac(interface.mac))
            .chain(copies.filter_map(|output| {
                Some(match output.source? {
                    IpAddr::V4(source) => Self::Address(source),
                    IpAddr::V6(source) => Self::Address6(source),
                })
            }))
            .collect()
    }

    /// Its key in the map that it belongs into.
    pub(super) fn key(self) -> MapKey {
        match self {
            Self::Mac(mac) => MapKey::Own(OwnKey::mac(wire::mac(mac))),
            Self::Address(address) => {
                MapKey::Own(OwnKey::address(u32::from_ne_bytes(address.octets())))
            }
            Self::Address6(address) => MapKey::Own6(ipv6::to_memory(address)),
        }
    }
}

/// A key of one of the maps of own sources.
#[derive(Debug, Clone, Copy)]
pub(super) enum MapKey {
    /// Of [`abi::OWN`](relay_common::abi::OWN).
    Own(OwnKey),
    /// Of [`abi::OWN6`](relay_common::abi::OWN6).
    Own6(ipv6::Address),
}

impl fmt::Display for OwnSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => Mac(*mac).fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Address6(address) => address.fmt(f),
        }
    }
}
