//! Notes about the groups of inputs: those that need a source, and those that another program on
//! this host, or its multicast routing, uses as well.

use std::net::Ipv4Addr;

use super::{
    backend::Backend,
    ids::{FlowId, InterfaceId, List},
    model::Flow,
    used_interface::Use,
};
use crate::host::Bystanders;

/// The most groups that a note names.
const NAMED: usize = 4;

/// Adds the notes, at most one of each kind per input.
pub(super) fn add(
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
    bystanders: &Bystanders,
    notes: &mut Vec<String>,
) {
    for (at, used) in uses.with_ids().filter(|(_, used)| used.is_input) {
        let name = &used.facts.name;
        let groups = |wanted: &dyn Fn(Ipv4Addr) -> bool| {
            let flows = flows.iter().filter(|flow| flow.interface == at);
            let mut groups: Vec<Ipv4Addr> = flows
                .map(|flow| flow.group)
                .filter(|&group| wanted(group))
                .collect();
            groups.sort_unstable();
            groups.dedup();
            listed(&groups)
        };
        // RFC 4607, section 1.
        if let Some(groups) = groups(&|group| group.octets()[0] == 232) {
            notes.push(format!(
                "{name}: {groups}: groups in 232.0.0.0/8 are source-specific, and a network may deliver them only to \
                 receivers that name a source, which rules cannot do yet; if nothing arrives, use a group outside of that \
                 range."
            ));
        }
        if used.backend != Backend::Xdp {
            continue;
        }
        let joined = |group| bystanders.sockets(used.facts.index, group) > 0;
        if let Some(groups) = groups(&joined) {
            notes.push(format!(
                "{name}: {groups}: another program of this host has joined as well; while the relay runs on XDP, that \
                 program gets nothing that a rule matches; with `--backend io-uring` it gets all."
            ));
        }
        if let Some(groups) = groups(&|group| bystanders.is_routed(name, group)) {
            notes.push(format!(
                "{name}: {groups}: the kernel has a multicast route; while the relay runs on XDP, the kernel routes nothing \
                 that a rule matches; with `--backend io-uring` it routes all."
            ));
        }
    }
}

/// "239.1.1.1, 239.1.1.2 and 7 more"; `None` if there are none.
fn listed(groups: &[Ipv4Addr]) -> Option<String> {
    let named: Vec<String> = groups.iter().take(NAMED).map(ToString::to_string).collect();
    let more = groups.len().saturating_sub(NAMED);
    let named = named.join(", ");
    match more {
        _ if groups.is_empty() => None,
        0 => Some(named),
        more => Some(format!("{named} and {more} more")),
    }
}
