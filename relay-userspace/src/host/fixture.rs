//! An interface, and a host with two, for the tests that build a plan, so that they set only the
//! facts they are about.

use super::{GsoLimits, HostFacts, InterfaceFacts, OffloadFacts, XdpFeatures};

/// An interface of the driver igb: up, with an address and one queue of each kind, and without XDP
/// features reported by the kernel.
pub fn igb(name: &str, index: u32) -> InterfaceFacts {
    InterfaceFacts {
        name: name.into(),
        index,
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        addresses: vec![[10, 0, 0, 1].into()],
        ipv6_addresses: Vec::new(),
        is_up: true,
        is_loopback: false,
        driver: "igb".into(),
        rx_queues: 1,
        tx_queues: 1,
        segments_udp: true,
        offloads: OffloadFacts::default(),
        queueless: false,
        gso: GsoLimits::default(),
        xdp: None,
    }
}

/// A host with `in0` and `out0`, both with the XDP features `bits`.
pub fn in0_and_out0(bits: u64) -> HostFacts {
    let facts = ["in0", "out0"].into_iter().zip(1..);
    let facts = facts.map(|(name, index)| InterfaceFacts {
        xdp: Some(XdpFeatures::from_bits(bits)),
        ..igb(name, index)
    });
    HostFacts {
        interfaces: facts.map(|facts| (facts.name.clone(), facts)).collect(),
        cpus: 2,
        gso_packets: true,
        ..HostFacts::default()
    }
}
