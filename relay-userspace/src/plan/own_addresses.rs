//! Inputs that are an address of this host: rules that wait for theirs, and notes.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    backend::Backend,
    group_notes::of_flows,
    ids::{FlowId, InterfaceId, List},
    model::Flow,
    sinks,
    used_interface::Use,
    wording,
};
use crate::{
    config::{Document, rules::PortMatch},
    host::HostFacts,
};

/// The addresses of the inputs of `document` that no interface of this host has, each with the
/// reason why its rules are pending.
pub(super) fn missing(document: &Document, host_facts: &HostFacts) -> HashMap<IpAddr, Arc<str>> {
    let matches = document.rules.rules.iter().map(|rule| &rule.input.matches);
    let unicast = matches.filter(|matches| matches.is_unicast());
    let addresses = unicast.map(|matches| matches.group.address());
    let missing = addresses.filter(|address| !host_facts.addresses.contains_key(address));
    let reason = |address| {
        format!("waiting for the address {address}: no interface of this host has it").into()
    };
    missing.map(|address| (address, reason(address))).collect()
}

/// Adds the notes, at most one of each kind per input.
pub(super) fn notes(
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
    host_facts: &HostFacts,
    notes: &mut Vec<String>,
) {
    for (at, used) in uses.with_ids().filter(|(_, used)| used.is_input) {
        let name = &used.facts.name;
        let listed = |wanted: &dyn Fn(&Flow) -> bool| {
            of_flows(flows, at, &|flow| flow.matches.is_unicast() && wanted(flow))
        };
        let owners = |flow: &Flow| host_facts.addresses.get(&flow.matches.group.address());
        if let Some(addresses) = listed(&|flow| owners(flow).is_none()) {
            notes.push(format!(
                "{name}: {addresses}: no interface of this host has the address; the rule waits until one has it."
            ));
        }
        // The address of a VLAN is on a device of that VLAN, above the input.
        let is_elsewhere = |flow: &Flow| {
            let owners = owners(flow).filter(|_| flow.matches.vlan.is_untagged());
            owners.is_some_and(|owners| !owners.contains(name))
        };
        if let Some(addresses) = listed(&is_elsewhere) {
            let flows = flows.iter().filter(|flow| flow.interface == at);
            let elsewhere = flows.filter(|flow| flow.matches.is_unicast() && is_elsewhere(flow));
            let owners: BTreeSet<&String> = elsewhere.filter_map(owners).flatten().collect();
            let owners = owners.into_iter().cloned();
            notes.push(format!(
                "{name}: {addresses}: the address is one of {}, and not of {name}; the relay takes the datagrams to it \
                 that arrive on {name}.",
                wording::abridged(owners.collect::<Vec<_>>().into_iter())
            ));
        }
        let takes_all = |flow: &Flow| flow.matches.ports == PortMatch::Any && !flow.local;
        if used.backend == Backend::Xdp
            && let Some(addresses) = listed(&takes_all)
        {
            notes.push(format!(
                "{name}: {addresses}: with `port = \"any\"` the relay takes every UDP datagram to the address, answers \
                 that programs of this host wait for (DNS, NTP) included; name the ports, or add `local = true`."
            ));
        }
        let has_no_sinks = |flow: &Flow| !flow.local && !sinks::are_few(flow.matches.ports);
        if used.backend == Backend::IoUring
            && let Some(addresses) = listed(&has_no_sinks)
        {
            notes.push(format!(
                "{name}: {addresses}: on io_uring this host's own stack gets each frame as well, and answers with ICMP (port \
                 unreachable) where no program listens; for at most {} ports the relay prevents that.",
                sinks::MOST_PORTS
            ));
        }
    }
}
