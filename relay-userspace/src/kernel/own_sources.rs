//! The sources that the relay's copies leave with. A frame that arrives with one of them is a copy
//! that came back, and the kernel programs do not match it.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use relay_common::{abi::OwnKey, wire};

use crate::plan::{Mac, Plan};

/// A source of the relay's copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnSource {
    /// The Ethernet address of an output interface.
    Mac([u8; 6]),
    /// The IPv4 address of an output interface.
    Address(Ipv4Addr),
}

impl OwnSource {
    /// All sources that the copies of `plan` leave with, on either backend.
    #[must_use]
    pub fn of(plan: &Plan) -> BTreeSet<Self> {
        let outputs = plan.interfaces.iter().filter(|facts| facts.is_output);
        let copies = plan.flows.iter().flat_map(|flow| &flow.outputs);
        outputs
            .map(|interface| Self::Mac(interface.mac))
            .chain(copies.map(|output| Self::Address(output.source)))
            .collect()
    }

    /// Its key in the map.
    pub(super) fn key(self) -> OwnKey {
        match self {
            Self::Mac(mac) => OwnKey::mac(wire::mac(mac)),
            Self::Address(address) => OwnKey::address(u32::from_ne_bytes(address.octets())),
        }
    }
}

impl fmt::Display for OwnSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => Mac(*mac).fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}
