//! Notes about the groups of inputs that need a source.

use std::net::IpAddr;

use super::{
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
        let groups = |wanted: &dyn Fn(&Flow) -> bool| of_flows(flows, at, wanted);
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
    }
}

/// The groups of the flows that arrive on an input and are `wanted`; `None` if there are none.
pub(super) fn of_flows(
    flows: &List<FlowId, Flow>,
    input: InterfaceId,
    wanted: &dyn Fn(&Flow) -> bool,
) -> Option<String> {
    let flows = flows.iter().filter(|flow| flow.interface == input);
    let wanted = flows.filter(|flow| wanted(flow));
    let mut groups: Vec<Prefix> = wanted.map(|flow| flow.matches.group).collect();
    groups.sort_unstable();
    groups.dedup();
    listed(&groups)
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
