//! An interface for the tests that build a plan, so that they set only the facts they are about.

use super::{GsoLimits, InterfaceFacts};

/// An interface of the driver igb: up, with an address and one queue of each kind, and without XDP
/// features reported by the kernel.
pub fn igb(name: &str, index: u32) -> InterfaceFacts {
    InterfaceFacts {
        name: name.into(),
        index,
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        addresses: vec![[10, 0, 0, 1].into()],
        is_up: true,
        is_loopback: false,
        driver: "igb".into(),
        rx_queues: 1,
        tx_queues: 1,
        segments_udp: true,
        strips_tags: false,
        queueless: false,
        gso: GsoLimits::default(),
        xdp: None,
    }
}
