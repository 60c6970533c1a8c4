//! The sources that the relay's copies leave with, as far as they are this host's own. A frame that
//! arrives with one of them is a copy that came back, and the kernel programs do not match it.
//!
//! Copies may leave with the source of their datagram, or with an explicit one that another host
//! has. Datagrams of that host must be taken, so such a copy is known by its Ethernet source alone.

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
    /// An IPv4 address of this host.
    Address(Ipv4Addr),
    /// An IPv6 address of this host.
    Address6(Ipv6Addr),
}

impl OwnSource {
    /// All sources that the copies of `plan` leave with, on either backend.
    #[must_use]
    pub fn of(plan: &Plan) -> BTreeSet<Self> {
        let outputs = plan.interfaces.iter().filter(|facts| facts.is_output);
        let addresses = plan.own_sources.iter();
        outputs
            .map(|interface| Self::Mac(interface.mac))
            .chain(addresses.map(|source| match *source {
                IpAddr::V4(source) => Self::Address(source),
                IpAddr::V6(source) => Self::Address6(source),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        host::fixture::in0_and_out0,
        plan::{self, Constraints},
    };

    #[test]
    fn a_source_that_another_host_has_is_not_the_relays_own() {
        let of = |keys: &str| {
            let text = format!(
                "[[rules]]\nname = \"r\"\ninput = {{ interface = \"in0\", group = \"239.1.1.1\", \
                 port = 1 }}\noutputs = [{{ interface = \"out0\", group = \"239.2.2.2\"{keys} }}]\n"
            );
            let document = config::parse("relay.toml", &text).unwrap();
            let host_facts = in0_and_out0(0);
            let plan = plan::build(&document, &host_facts, &Constraints::default()).unwrap();
            let own = OwnSource::of(&plan).into_iter();
            own.filter(|own| !matches!(own, OwnSource::Mac(_)))
                .collect::<Vec<_>>()
        };
        let address = |last| OwnSource::Address([10, 0, 0, last].into());
        assert_eq!(of(""), [address(1)]);
        assert_eq!(of(", source = \"10.0.0.1\""), [address(1)]);
        assert_eq!(of(", source = \"10.0.0.7\""), []);
        assert_eq!(of(", source = \"keep\""), []);
    }
}
