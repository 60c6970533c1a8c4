//! Notes about programs and routes of this host that want what an input receives: XDP takes it from
//! them, unless the rule has `local`.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    backend::Backend,
    group_notes::of_flows,
    ids::{FlowId, InterfaceId, List},
    model::Flow,
    used_interface::Use,
};
use crate::{config::rules::PortMatch, host::HostFacts};

/// Adds the notes, at most one of each kind per input.
pub(super) fn add(
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
    host_facts: &HostFacts,
    notes: &mut Vec<String>,
) {
    let bystanders = &host_facts.bystanders;
    for (at, used) in uses.with_ids().filter(|(_, used)| used.is_input) {
        let name = &used.facts.name;
        let local = of_flows(flows, at, &|flow| flow.local);
        if used.backend == Backend::IoUring {
            if let Some(groups) = local {
                notes.push(format!(
                    "{name}: {groups}: `local` changes nothing on io_uring, where programs and routes of this host \
                     get every frame anyway."
                ));
            }
            continue;
        }
        if let Some(groups) = local {
            notes.push(format!(
                "{name}: {groups}: each frame goes to this host's own stack as well, through a TAP device that the \
                 relay makes; for the worker that is as much work as ten more outputs."
            ));
        }
        let joined: BTreeSet<IpAddr> = bystanders.joined(used.facts.index).collect();
        if let Some(groups) = of_flows(flows, at, &|flow| takes_any(flow, &joined)) {
            notes.push(format!(
                "{name}: {groups}: another program of this host has joined as well; while the relay runs on XDP, that \
                 program gets nothing that a rule matches; with `local = true` in the rule's input, or with \
                 `--backend io-uring`, it gets all."
            ));
        }
        let listens = |flow: &Flow| {
            let (matches, address) = (&flow.matches, flow.matches.group.address());
            let is_named = matches.is_unicast() && matches.ports != PortMatch::Any && !flow.local;
            is_named
                && bystanders
                    .ports(address)
                    .any(|port| matches.ports.contains(port))
        };
        if let Some(addresses) = of_flows(flows, at, &listens) {
            notes.push(format!(
                "{name}: {addresses}: a program of this host listens on a port of the rule; while the relay runs on XDP, \
                 that program gets nothing that a rule matches; with `local = true` in the rule's input, or with \
                 `--backend io-uring`, it gets all."
            ));
        }
        let routed: BTreeSet<IpAddr> = bystanders.routed(name).collect();
        if let Some(groups) = of_flows(flows, at, &|flow| takes_any(flow, &routed)) {
            notes.push(format!(
                "{name}: {groups}: the kernel has a multicast route; while the relay runs on XDP, the kernel routes nothing \
                 that a rule matches; with `local = true` in the rule's input, or with `--backend io-uring`, it \
                 routes all."
            ));
        }
    }
}

/// Whether a rule keeps datagrams to one of `groups` from the rest of the host.
fn takes_any(flow: &Flow, groups: &BTreeSet<IpAddr>) -> bool {
    // IPv4 addresses come before all IPv6 addresses, so the next one may be of the other version.
    let next = groups.range(flow.matches.group.address()..).next();
    let takes = next.is_some_and(|&group| flow.matches.group.contains(group));
    takes && !flow.local
}
