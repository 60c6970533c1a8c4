//! Checks the rules against the interfaces of this host, and resolves names to ids.
//!
//! [`super::queues`] decides which worker owns which queue. Everything that is impossible is a
//! mistake with a place in the file; everything that is possible but may surprise is a note.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use relay_common::abi::MAX_INTERFACES;

use super::{
    arrange,
    backend::Backend,
    backend_choice,
    connected_interfaces::{self, Connected},
    constraints::Constraints,
    finding::{self, Finding},
    group_notes,
    ids::{FlowId, InterfaceId, List},
    interface_checks, local_notes, loops, mac, missing_interfaces,
    model::{Flow, Interface, LinkDestination, Mode, Output, Plan},
    named_interfaces::{self, Named, options_of},
    notes, offloads, own_addresses, queues,
    received_checksums::Checksums,
    routes::Routed,
    shapes, source_address, sources, tx_methods,
    used_interface::Use,
};
use crate::{
    config::{
        self, Document, Mistakes, RulePlaces,
        rules::{Rule, Source},
    },
    host::HostFacts,
};

/// Resolves the enabled rules of `document` against the interfaces in `host_facts`. Reads and
/// changes nothing else.
///
/// # Errors
///
/// Every mistake that keeps the rules from running, with its place in the file.
pub fn build(
    document: &Document,
    host_facts: &HostFacts,
    constraints: &Constraints,
) -> Result<Plan, Mistakes> {
    let document = document.enabled();
    shapes::check(&document)?;
    let routed = Routed::new(&document, host_facts);
    let checked = check(&routed.document, host_facts, constraints);
    if !checked.findings.is_empty() {
        return Err(finding::mistakes(checked.findings));
    }
    let mut plan = finish(&routed.document, host_facts, checked, &routed);
    arrange::without_routes(&mut plan, &document, &routed);
    Ok(plan)
}

/// A document whose interfaces are checked.
pub(super) struct Checked<'d> {
    pub(super) findings: Vec<Finding>,
    pub(super) named: List<InterfaceId, Named<'d>>,
    pub(super) ids: HashMap<&'d str, InterfaceId>,
    connected: Vec<Connected>,
    /// Complete only if no interface is missing.
    uses: List<InterfaceId, Use<'d>>,
}

/// Checks every interface of `document`, whose rules are all enabled.
pub(super) fn check<'d>(
    document: &'d Document,
    host_facts: &'d HostFacts,
    constraints: &Constraints,
) -> Checked<'d> {
    let mut findings = Vec::new();
    let named = named_interfaces::names(document);
    if let Some(beyond) = named.get(InterfaceId::new(MAX_INTERFACES as usize)) {
        findings.push(Finding::of_all(beyond.first.mistake(
            format!(
                "the rules name {} interfaces, and one relay serves at most {MAX_INTERFACES}",
                named.len()
            ),
            "move rules to a second file, and run a second relay with it".into(),
        )));
    }
    let ids: HashMap<&str, InterfaceId> = named
        .with_ids()
        .map(|(id, named)| (named.name, id))
        .collect();
    let connected =
        connected_interfaces::connected(named.len(), &connected_interfaces::links(document, &ids));
    let chosen = backend_choice::choose(&connected, &named, host_facts, constraints, &mut findings);
    let mut uses = Vec::with_capacity(named.len());
    let mut missing_names = Vec::new();
    for (named, chosen) in named.iter().zip(chosen) {
        let options = options_of(document, named.name);
        if let Some((options, places)) = options {
            interface_checks::cpus(options, places, host_facts.cpus, &mut findings);
        }
        match host_facts.interfaces.get(named.name) {
            Some(facts) => {
                interface_checks::suitable(named, facts, &mut findings);
                interface_checks::gso_packets(options, facts, host_facts, &mut findings);
                let used = interface_checks::used(
                    named,
                    facts,
                    chosen,
                    constraints,
                    options,
                    &mut findings,
                );
                uses.push(used);
            }
            None => missing_names.push(named),
        }
    }
    missing_interfaces::add(document, &missing_names, host_facts, &mut findings);
    Checked {
        findings,
        ids,
        connected,
        uses: uses.into(),
        named,
    }
}

/// The plan for a document whose interfaces can all be used as it uses them.
pub(super) fn finish(
    document: &Document,
    host_facts: &HostFacts,
    checked: Checked<'_>,
    routed: &Routed<'_>,
) -> Plan {
    let Checked {
        ids,
        connected,
        mut uses,
        named,
        ..
    } = checked;
    let mut said = Vec::new();
    for (used, named) in uses.iter().zip(&named) {
        notes::about_interface(used, &mut said);
        let switched = &used.offloads;
        offloads::notes(named, used.facts, used.backend, switched, &mut said);
        match used.backend {
            Backend::Xdp => notes::about_xdp(used, &mut said),
            Backend::IoUring => notes::about_io_uring(document, used, &mut said),
        }
    }

    let flows: List<FlowId, Flow> = document
        .with_places()
        .filter_map(|(rule, places)| flow(rule, places, routed, &ids, &uses))
        .collect();
    notes::about_mtus(&flows, &uses, &mut said);
    group_notes::add(&flows, &uses, host_facts, &mut said);
    local_notes::add(&flows, &uses, host_facts, &mut said);
    own_addresses::notes(&flows, &uses, host_facts, &mut said);
    let modes = tx_methods::choose(&connected, &mut uses, host_facts.gso_packets, &mut said);
    notes::about_chunks(&flows, &uses, &mut said);
    let workers = queues::workers(document, &connected, &flows, &uses, &mut said);
    let sent_from = ipv6_sources(&flows);
    let interfaces = uses
        .into_iter()
        .zip(modes)
        .zip(0..)
        .filter_map(|((used, mode), at)| {
            let sources = sent_from.get(&InterfaceId::new(at)).cloned();
            interface(used, mode, sources.unwrap_or_default(), host_facts)
        })
        .collect();
    loops::notes(&flows, &mut said);
    let own_sources = sources::own(&flows, host_facts);
    sources::notes(&flows, &own_sources, &mut said);
    Plan {
        interfaces,
        flows,
        own_sources,
        workers,
        notes: said,
    }
}

fn flow(
    rule: &Rule,
    places: &RulePlaces,
    routed: &Routed<'_>,
    ids: &HashMap<&str, InterfaceId>,
    uses: &List<InterfaceId, Use<'_>>,
) -> Option<Flow> {
    let output = |(position, output): (usize, &config::rules::Output)| {
        let interface = *ids.get(output.interface.as_deref()?)?;
        let source = match output.source {
            Source::Interface => {
                let facts = uses.get(interface)?.facts;
                Some(source_address::choose(facts, output.group.address())?)
            }
            Source::Keep => None,
            Source::Address(source) => Some(source),
        };
        let place = places.outputs.get(position)?.output;
        let way = routed.way(&rule.name, place);
        Some(Output {
            position,
            interface,
            is_routed: way.is_some_and(|way| way.is_routed),
            group: output.group,
            port: output.port,
            source,
            header: output.header,
            to: match way {
                Some(way) => LinkDestination::NextHop(way.next_hop),
                None => LinkDestination::Group(mac::of_group(output.group.address())),
            },
        })
    };
    Some(Flow {
        rule: rule.name.clone(),
        interface: *ids.get(rule.input.interface.as_str())?,
        matches: rule.input.matches.clone(),
        join: rule.input.join,
        local: rule.input.local,
        limit: rule.limit,
        monitor: rule.health.monitor,
        pending: Vec::new(),
        outputs: rule.outputs.iter().enumerate().filter_map(output).collect(),
    })
}

/// The IPv6 addresses that copies of `flows` leave with, by output interface.
fn ipv6_sources(flows: &List<FlowId, Flow>) -> HashMap<InterfaceId, Vec<Ipv6Addr>> {
    let mut sources: HashMap<InterfaceId, Vec<Ipv6Addr>> = HashMap::new();
    for output in flows.iter().flat_map(|flow| &flow.outputs) {
        if let Some(IpAddr::V6(source)) = output.source {
            let known = sources.entry(output.interface).or_default();
            if !known.contains(&source) {
                known.push(source);
            }
        }
    }
    sources
}

fn interface(
    used: Use<'_>,
    mode: Mode,
    mut ipv6_sources: Vec<Ipv6Addr>,
    host_facts: &HostFacts,
) -> Option<Interface> {
    let (facts, gso_packets) = (used.facts, host_facts.gso_packets);
    let igmp = host_facts.versions.igmp(facts.index);
    let has_sockets = used.has_sockets();
    let has = |source: &Ipv6Addr| {
        facts
            .ipv6_addresses
            .iter()
            .any(|one| one.address == *source)
    };
    ipv6_sources.retain(has);
    Some(Interface {
        name: facts.name.clone(),
        index: facts.index,
        mac: facts.mac?,
        mtu: facts.mtu,
        address: facts.addresses.first().copied(),
        ipv6_sources,
        driver: facts.driver.clone(),
        backend: used.backend,
        reason: used.reason,
        is_input: used.is_input,
        is_output: used.is_output,
        rx_queues: used.rx,
        igmp: igmp.filter(|_| used.is_input),
        strips_tags: {
            let unwanted = facts.offloads.unwanted.iter();
            let mut left = unwanted.filter(|one| !used.offloads.contains(one));
            left.any(|one| one.strips())
        },
        offloads: used.offloads,
        checksums: (used.is_input).then(|| Checksums::of(used.backend, &facts.driver)),
        tx_queues: facts.tx_queues,
        zero_copy: used.against_zero_copy.is_none(),
        expected_mode: has_sockets.then_some(mode),
        shares_payloads: used.shares_payloads,
        transmit: used.transmit,
        tx_method: used.tx_method,
        gso_packets: gso_packets && tx_methods::takes_gso_packets(facts),
        segments_udp: facts.segments_udp,
        queueless: facts.queueless,
        gso: facts.gso,
    })
}
