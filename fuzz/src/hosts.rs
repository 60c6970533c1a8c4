//! Hosts that plans are made for, without a kernel.

use std::collections::BTreeSet;

use relay::{
    config::Document,
    host::{GsoLimits, HostFacts, InterfaceFacts, OffloadFacts, XdpFeatures},
};

/// A host with every interface that `document` names, each up, with addresses of both versions of
/// IP, and with every address that a rule of it receives at.
pub fn of(document: &Document) -> HostFacts {
    let rules = &document.rules;
    let tables = rules.interfaces.iter().map(|options| options.name.as_str());
    let names: BTreeSet<&str> = rules.interfaces_used().chain(tables).collect();
    let mut facts = HostFacts {
        cpus: 4,
        gso_packets: true,
        ..HostFacts::default()
    };
    for (name, index) in names.into_iter().zip(1..) {
        facts
            .interfaces
            .insert(name.to_owned(), interface(name, index));
    }
    for rule in &rules.rules {
        if let Some(address) = rule.input.matches.group.one()
            && rule.input.matches.is_unicast()
        {
            let owners = facts.addresses.entry(address).or_default();
            owners.push(rule.input.interface.clone());
        }
    }
    facts
}

fn interface(name: &str, index: u32) -> InterfaceFacts {
    let last = index as u8;
    InterfaceFacts {
        name: name.into(),
        index,
        mac: Some([2, 0, 0, 0, 0, last]),
        mtu: 1500,
        addresses: vec![[10, 0, last, 1].into()],
        ipv6_addresses: Vec::new(),
        is_up: true,
        is_loopback: false,
        driver: "igb".into(),
        rx_queues: 2,
        tx_queues: 2,
        segments_udp: true,
        offloads: OffloadFacts::default(),
        queueless: false,
        gso: GsoLimits::default(),
        xdp: Some(XdpFeatures::from_bits(
            XdpFeatures::BASIC | XdpFeatures::REDIRECT,
        )),
    }
}
