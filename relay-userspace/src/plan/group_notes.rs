//! Notes about the groups of inputs: those that need a source, and those that another program on
//! this host, or its multicast routing, uses as well.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::{
    backend::Backend,
    ids::{FlowId, InterfaceId, List},
    model::Flow,
    used_interface::Use,
};
use crate::{config::rules::Prefix, host::HostFacts};

/// The most groups that a note names.
const NAMED: usize = 4;

/// Adds the notes, at most one of each kind per input.
pub(super) fn add(
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
    host_facts: &HostFacts,
    notes: &mut Vec<String>,
) {
    for (at, used) in uses.with_ids().filter(|(_, used)| used.is_input) {
        let name = &used.facts.name;
        let groups = |wanted: &dyn Fn(&Flow) -> bool| {
            let flows = flows.iter().filter(|flow| flow.interface == at);
            let wanted = flows.filter(|flow| wanted(flow));
            let mut groups: Vec<Prefix> = wanted.map(|flow| flow.matches.group).collect();
            groups.sort_unstable();
            groups.dedup();
            listed(&groups)
        };
        let lacks_source = |flow: &Flow| {
            flow.join && flow.matches.sources.is_empty() && is_source_specific(flow.matches.group)
        };
        if let Some(groups) = groups(&lacks_source) {
            notes.push(format!(
                "{name}: {groups}: groups in 232.0.0.0/8 and ff3x::/32 are source-specific, and a network may deliver them \
                 only to receivers that name a source; if nothing arrives, give the rule a `source`."
            ));
        }
        let index = used.facts.index;
        let igmp = host_facts.versions.igmp(index);
        let igmp = igmp.filter(|&version| version < 3);
        let igmp = igmp.map(|version| format!("IGMPv{version}"));
        let mld = host_facts.versions.is_mld_1(index);
        let mld = mld.then(|| "MLDv1".to_owned());
        for (spoken, is_ipv4) in [(igmp, true), (mld, false)] {
            let names_source = |flow: &Flow| {
                let matches = &flow.matches;
                flow.join
                    && !matches.sources.is_empty()
                    && matches.group.address().is_ipv4() == is_ipv4
            };
            if let (Some(spoken), Some(groups)) = (spoken, groups(&names_source)) {
                notes.push(format!(
                    "{name}: {groups}: the interface speaks {spoken} now, which cannot name sources: the network delivers all \
                     sources of these groups, and the relay takes those of the rule."
                ));
            }
        }
        if used.backend != Backend::Xdp {
            continue;
        }
        let bystanders = &host_facts.bystanders;
        let joined: BTreeSet<Ipv4Addr> = bystanders.joined(index).collect();
        if let Some(groups) = groups(&|flow| takes_any(flow, &joined)) {
            notes.push(format!(
                "{name}: {groups}: another program of this host has joined as well; while the relay runs on XDP, that \
                 program gets nothing that a rule matches; with `--backend io-uring` it gets all."
            ));
        }
        let routed: BTreeSet<Ipv4Addr> = bystanders.routed(name).collect();
        if let Some(groups) = groups(&|flow| takes_any(flow, &routed)) {
            notes.push(format!(
                "{name}: {groups}: the kernel has a multicast route; while the relay runs on XDP, the kernel routes nothing \
                 that a rule matches; with `--backend io-uring` it routes all."
            ));
        }
    }
}

/// Whether a rule keeps datagrams to one of `groups` from the rest of the host.
fn takes_any(flow: &Flow, groups: &BTreeSet<Ipv4Addr>) -> bool {
    let IpAddr::V4(first) = flow.matches.group.address() else {
        return false;
    };
    let next = groups.range(first..).next();
    let takes = next.is_some_and(|&group| flow.matches.group.contains(group.into()));
    takes && !flow.local
}

/// RFC 4607, section 1.
fn is_source_specific(group: Prefix) -> bool {
    match group.address() {
        IpAddr::V4(address) => group.length() >= 8 && address.octets()[0] == 232,
        IpAddr::V6(address) => {
            group.length() >= 32
                && matches!(address.segments(), [first, 0, ..] if first & 0xfff0 == 0xff30)
        }
    }
}

/// "239.1.1.1, 239.1.1.2 and 7 more"; `None` if there are none.
fn listed(groups: &[Prefix]) -> Option<String> {
    let named: Vec<String> = groups.iter().take(NAMED).map(ToString::to_string).collect();
    let more = groups.len().saturating_sub(NAMED);
    let named = named.join(", ");
    match more {
        _ if groups.is_empty() => None,
        0 => Some(named),
        more => Some(format!("{named} and {more} more")),
    }
}
