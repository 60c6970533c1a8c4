//! The source addresses of copies: which of them are this host's own, and notes about the others.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use super::{
    ids::{FlowId, List},
    model::{Flow, Output},
    wording::{abridged, rules_named},
};
use crate::host::HostFacts;

/// The addresses of this host that copies of `flows` leave with.
///
/// An explicit source that another host has is none of them: the relay must not take that host's
/// datagrams for copies of its own.
pub(super) fn own(flows: &List<FlowId, Flow>, host_facts: &HostFacts) -> BTreeSet<IpAddr> {
    let mut own: HashSet<IpAddr> = host_facts.addresses.keys().copied().collect();
    for facts in host_facts.interfaces.values() {
        own.extend(facts.addresses.iter().copied().map(IpAddr::V4));
        let ipv6 = facts.ipv6_addresses.iter();
        own.extend(ipv6.map(|one| IpAddr::V6(one.address)));
    }
    let outputs = flows.iter().flat_map(|flow| &flow.outputs);
    let sources = outputs.filter_map(|output| output.source);
    sources.filter(|source| own.contains(source)).collect()
}

/// How such copies go round.
const LOOPS: &str =
    "Where a router leads them back to an input, only `ttl = \"decrement\"` ends that for certain.";

/// Adds notes about copies whose source is not an address of this host.
pub(super) fn notes(flows: &List<FlowId, Flow>, own: &BTreeSet<IpAddr>, notes: &mut Vec<String>) {
    let others = |output: &Output| output.source.filter(|source| !own.contains(source));
    let with = |wanted: &dyn Fn(&Output) -> bool| {
        let flows = flows.iter();
        rules_named(flows.filter(|flow| flow.outputs.iter().any(wanted)))
    };
    if let Some(rules) = with(&|output| others(output).is_some()) {
        let outputs = flows.iter().flat_map(|flow| &flow.outputs);
        let addresses: BTreeSet<IpAddr> = outputs.filter_map(others).collect();
        let (no, has) = match addresses.len() {
            1 => ("a source", "has"),
            _ => ("sources", "have"),
        };
        notes.push(format!(
            "Copies of {rules} leave with {no} that no interface of this host {has}: {}. Routers and hosts that check \
             the way back to a source (reverse path filtering) drop them, unless that way leads here. {LOOPS}",
            abridged(addresses.iter().map(ToString::to_string))
        ));
    }
    if let Some(rules) = with(&|output| output.source.is_none()) {
        notes.push(format!(
            "Copies of {rules} keep the source of their datagrams (`source = \"keep\"`). Routers and hosts that check \
             the way back to a source (reverse path filtering) drop them, unless that way leads here. {LOOPS}"
        ));
    }
}
