//! What the kernel programs match a flow by: one key per source that its rule names.

use std::net::IpAddr;

use relay_common::wire;

use super::model::{Flow, Plan};
use crate::{
    config::rules::{Match, PortMatch, Prefix, Vlan},
    matching::MatchKey,
};

/// What is matched on one interface. A rule with several sources has a key for each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The kernel's index of the interface.
    pub interface: u32,
    /// The VLAN.
    pub vlan: wire::Vlan,
    /// The groups.
    pub group: Prefix,
    /// The ports.
    pub ports: PortMatch,
    /// The source, of the same IP version as the groups; `None` for any.
    pub source: Option<IpAddr>,
}

impl FlowKey {
    /// The keys of `matches` on an interface, given by the kernel's index.
    pub fn of(interface: u32, matches: &Match) -> impl Iterator<Item = Self> + '_ {
        let sources = matches.sources.iter().copied().map(Some);
        let any = matches.sources.is_empty().then_some(None);
        sources.chain(any).map(move |source| Self {
            interface,
            vlan: on_the_wire(matches.vlan),
            group: matches.group,
            ports: matches.ports,
            source,
        })
    }

    /// The key in tables where its interface has this slot.
    #[must_use]
    pub const fn at(&self, slot: u8) -> MatchKey {
        let Self {
            interface: _,
            vlan,
            group,
            ports,
            source,
        } = *self;
        MatchKey {
            slot,
            vlan,
            group,
            ports,
            source,
        }
    }

    /// Whether there are datagrams that both take.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let sources = [self.source, other.source];
        (self.interface, self.vlan) == (other.interface, other.vlan)
            && self.group.overlaps(&other.group)
            && self.ports.overlaps(other.ports)
            && (sources.contains(&None) || self.source == other.source)
    }
}

impl Plan {
    /// The keys of `flow`.
    pub fn keys<'a>(&self, flow: &'a Flow) -> impl Iterator<Item = FlowKey> + use<'a> {
        let interface = self.interfaces.get(flow.interface);
        let index = interface.map(|interface| interface.index);
        let keys = index.map(|index| FlowKey::of(index, &flow.matches));
        keys.into_iter().flatten()
    }

    /// How many keys its flows have.
    #[must_use]
    pub fn key_count(&self) -> usize {
        let flows = self.flows.iter();
        flows.map(|flow| flow.matches.sources.len().max(1)).sum()
    }
}

/// A VLAN as the decoder has it.
const fn on_the_wire(vlan: Vlan) -> wire::Vlan {
    match vlan {
        Vlan::Untagged => wire::Vlan::UNTAGGED,
        Vlan::Tag(id) => wire::Vlan::tag(id),
        Vlan::Double(outer, inner) => wire::Vlan::double(outer, inner),
    }
}
