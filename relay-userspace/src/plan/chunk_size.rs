//! How large the chunks of a worker's UMEM are.

use relay_common::wire::{IPV4_LEN, IPV6_LEN};

use super::{
    model::{Mode, Plan, WorkerPlan},
    tx_methods::max_zero_copy_mtu,
};
use crate::config::rules::Prefix;

/// What the kernel leaves free in front of a frame (`XDP_PACKET_HEADROOM`,
/// include/uapi/linux/bpf.h).
const XDP_HEADROOM: u32 = 256;
/// Bytes of the largest chunk.
pub(super) const LARGEST: u32 = 4096;
/// What an IP header grows by over IPv6.
pub(super) const LONGER_HEADER: u32 = (IPV6_LEN - IPV4_LEN) as u32;

/// The longest IPv4 packet whose copy over IPv6, with so many tags, fits the largest chunk.
pub(super) const fn longest_that_grows(tags: u32) -> u32 {
    LARGEST - overhead(tags) - LONGER_HEADER
}

/// XDP headroom, and an Ethernet header with two tags in front of the IP packet of a received
/// frame.
pub(super) const FRAME_OVERHEAD: u32 = overhead(2);

/// What is in front of an IP packet with so many tags.
const fn overhead(tags: u32) -> u32 {
    XDP_HEADROOM + 14 + tags * 4
}

impl WorkerPlan {
    /// Bytes per chunk, if its AF_XDP sockets are in `mode`: 2048 or 4096. A frame leaves as long
    /// as it arrived, but for what its headers grow by, so only ports that receive count; but in
    /// zero copy every device checks that a chunk holds a frame of its MTU.
    #[must_use]
    pub fn chunk_size(&self, plan: &Plan, mode: Mode) -> u32 {
        let ports = self.ports.iter();
        let ports = ports.filter(|port| port.receives || mode == Mode::ZeroCopy);
        let interfaces = ports.filter_map(|port| plan.interfaces.get(port.interface));
        let mtu = interfaces.map(|interface| interface.mtu).max().unwrap_or(0);
        let small = match mode {
            Mode::ZeroCopy => mtu <= max_zero_copy_mtu(2048),
            Mode::Copy => mtu + FRAME_OVERHEAD <= 2048,
        };
        let grown = mtu + FRAME_OVERHEAD + self.growth(plan) <= 2048;
        if small && grown { 2048 } else { LARGEST }
    }

    /// How much longer an IP header is that copies leave with than the one they came with, in
    /// bytes.
    fn growth(&self, plan: &Plan) -> u32 {
        let mut flows = self.flows.iter().filter_map(|&at| plan.flows.get(at));
        let grows = flows.any(|flow| {
            let mut outputs = flow.outputs.iter();
            let is_ipv4 = |prefix: &Prefix| prefix.address().is_ipv4();
            is_ipv4(&flow.matches.group) && outputs.any(|output| !is_ipv4(&output.group))
        });
        if grows { LONGER_HEADER } else { 0 }
    }

    /// Bytes that a frame may have in any of its chunks, whichever mode they are in.
    #[must_use]
    pub fn frame_room(&self, plan: &Plan) -> u32 {
        let sizes = [Mode::ZeroCopy, Mode::Copy].map(|mode| self.chunk_size(plan, mode));
        sizes
            .into_iter()
            .min()
            .unwrap_or(0)
            .saturating_sub(XDP_HEADROOM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::rules::Transmit,
        host::GsoLimits,
        plan::{Backend, Interface, InterfaceId, Port},
    };

    /// An interface with this MTU; its other fields do not matter.
    fn interface(mtu: u32) -> Interface {
        Interface {
            name: "i".into(),
            index: 1,
            mac: [2, 0, 0, 0, 0, 1],
            mtu,
            address: None,
            ipv6_sources: Vec::new(),
            driver: "igb".into(),
            backend: Backend::Xdp,
            reason: String::new(),
            is_input: true,
            is_output: true,
            rx_queues: vec![0],
            tx_queues: 1,
            igmp: None,
            checksums: None,
            offloads: Default::default(),
            strips_tags: false,
            zero_copy: true,
            expected_mode: None,
            shares_payloads: false,
            transmit: Transmit::Auto,
            tx_method: None,
            gso_packets: true,
            segments_udp: true,
            queueless: false,
            gso: GsoLimits::default(),
        }
    }

    fn port(interface: usize, receives: bool) -> Port {
        Port {
            interface: InterfaceId::new(interface),
            queue: 0,
            receives,
            transmits: !receives,
        }
    }

    fn worker() -> WorkerPlan {
        WorkerPlan {
            backend: Backend::Xdp,
            cpu: None,
            ports: vec![port(0, true), port(1, false)],
            input: None,
            tx_sockets: Vec::new(),
            flows: Vec::new(),
        }
    }

    #[test]
    fn chunks_are_small_where_all_that_they_must_take_fits() {
        let size = |input, output, mode| {
            let plan = Plan {
                interfaces: vec![interface(input), interface(output)].into(),
                ..Plan::default()
            };
            worker().chunk_size(&plan, mode)
        };
        assert_eq!(size(1770, 9000, Mode::Copy), 2048);
        assert_eq!(size(1771, 1500, Mode::Copy), 4096);
        assert_eq!(size(1002, 1002, Mode::ZeroCopy), 2048);
        assert_eq!(size(1003, 1000, Mode::ZeroCopy), 4096);
        let why = "the output's device checks as well";
        assert_eq!(size(1000, 1003, Mode::ZeroCopy), 4096, "{why}");
    }
}
