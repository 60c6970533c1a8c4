//! Notes about one interface or two: what is possible but may surprise.

use super::{
    chunk_size::{LONGER_HEADER, longest_that_grows},
    ids::{FlowId, InterfaceId, List},
    model::{Flow, Output, TxMethod},
    named_interfaces::options_of,
    used_interface::Use,
    wording,
};
use crate::{
    config::{
        Document,
        rules::{Transmit, Vlan},
    },
    host::InterfaceFacts,
};

/// veth attaches a native XDP program only if the other end's MTU is at most this (veth_xdp_set in
/// drivers/net/veth.c, with 4 KiB pages).
const MAX_VETH_PEER_MTU: u32 = 3506;

/// Notes about an interface, on either backend.
pub(super) fn about_interface(used: &Use<'_>, notes: &mut Vec<String>) {
    let name = &used.facts.name;
    if !used.is_output && used.transmit != Transmit::Auto {
        notes.push(format!(
            "The `transmit` of {name} is not used: no copy leaves there."
        ));
    }
    if !used.facts.is_up {
        notes.push(format!(
            "{name} is down; nothing moves there until it is up: `ip link set {name} up`."
        ));
    }
    if used.takes_ipv4 && used.facts.addresses.is_empty() {
        notes.push(format!(
            "{name} has no IPv4 address; its IGMP reports leave from 0.0.0.0, which some switches and \
             routers ignore."
        ));
    }
}

/// Notes about an interface on XDP.
pub(super) fn about_xdp(used: &Use<'_>, notes: &mut Vec<String>) {
    let InterfaceFacts {
        name, mtu, driver, ..
    } = used.facts;
    if used.facts.xdp.is_none() {
        notes.push(format!(
            "The kernel does not tell what XDP can do on {name} (Linux 6.3 and later do); the relay \
             expects copy mode, and attaching the program will show whether native XDP works."
        ));
    }
    if used.is_input && driver == "veth" && *mtu > MAX_VETH_PEER_MTU {
        notes.push(format!(
            "{name} is a veth with MTU {mtu}; the kernel attaches XDP to it only if the other end's \
             MTU is at most {MAX_VETH_PEER_MTU}."
        ));
    }
    if used.is_input && used.facts.tag_may_be_beside() {
        notes.push(format!(
            "{name} is a veth: a VLAN tag that its other end leaves beside the bytes of the frame is \
             not seen on XDP, and the frame is relayed as an untagged one. If tagged frames can come, \
             run `ethtool -K OTHER-END tx-vlan-offload off` at the other end, or the relay with \
             `--backend io-uring`."
        ));
    }
    let unused: Vec<u32> = (0..used.facts.rx_queues)
        .filter(|queue| !used.rx.contains(queue))
        .collect();
    if used.is_input && !unused.is_empty() {
        notes.push(format!(
            "{name} relays from RX {} only, as `queues` says; datagrams that it steers to RX {} are \
             not relayed. `ethtool -X {name}` or `ethtool -N {name}` steers them.",
            wording::list(&used.rx),
            wording::list(&unused)
        ));
    }
}

/// Notes about options that the file sets for an interface and that have no effect on io_uring.
pub(super) fn about_io_uring(document: &Document, used: &Use<'_>, notes: &mut Vec<String>) {
    let name = &used.facts.name;
    let listed = options_of(document, name).is_some_and(|(options, _)| options.queues.is_some());
    if listed && used.is_input {
        notes.push(format!(
            "The `queues` of {name} are not used: it is on io_uring, and a packet socket sees the frames \
             of all queues."
        ));
    } else if listed {
        notes.push(format!(
            "The `queues` of {name} are not used: it is on io_uring, and the kernel chooses the queue \
             that a packet socket's frames leave through."
        ));
    }
    if used.is_output && used.transmit == Transmit::Xsk {
        notes.push(format!(
            "The `transmit` \"xsk\" of {name} is not used: it is on io_uring, which has no AF_XDP sockets."
        ));
    }
}

/// Every output of every flow, with how the input and the output's interface are used.
fn copies<'a>(
    flows: &'a List<FlowId, Flow>,
    uses: &'a List<InterfaceId, Use<'a>>,
) -> impl Iterator<Item = (&'a Flow, &'a Output, &'a Use<'a>, &'a Use<'a>)> {
    flows.iter().flat_map(move |flow| {
        flow.outputs.iter().filter_map(move |output| {
            let (from, to) = (uses.get(flow.interface)?, uses.get(output.interface)?);
            Some((flow, output, from, to))
        })
    })
}

/// Notes about outputs whose MTU is smaller than what arrives at their input may need there.
pub(super) fn about_mtus(
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
    notes: &mut Vec<String>,
) {
    let mut said = std::collections::HashSet::new();
    for (flow, output, from, to) in copies(flows, uses) {
        let (from, to) = (from.facts, to.facts);
        let arrives = flow.matches.group.address();
        let grows = arrives.is_ipv4() && output.group.address().is_ipv6();
        let more = if grows { LONGER_HEADER } else { 0 };
        if to.mtu >= from.mtu.saturating_add(more)
            || !said.insert((flow.interface, output.interface, grows))
        {
            continue;
        }
        let longer = if grows {
            ", and over IPv6 a copy is 20 bytes longer"
        } else {
            ""
        };
        notes.push(format!(
            "{} has MTU {} and {} has MTU {}{longer}; larger datagrams from {} do not leave by {} and \
             are counted there as too_big.",
            from.name, from.mtu, to.name, to.mtu, from.name, to.name
        ));
    }
}

/// Notes about copies that fit the MTU of their output and not the chunks of the UMEM, in which
/// they leave through TX rings: they must be longer than they came.
pub(super) fn about_chunks(
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
    notes: &mut Vec<String>,
) {
    let mut said = std::collections::HashSet::new();
    for (flow, output, from, to) in copies(flows, uses) {
        let arrives = flow.matches.group.address();
        let grows = arrives.is_ipv4() && output.group.address().is_ipv6();
        let tags = match output.header.vlan.of_copy(flow.matches.vlan) {
            Vlan::Untagged => 0,
            Vlan::Tag(_) => 1,
            Vlan::Double(..) => 2,
        };
        let longest = longest_that_grows(tags);
        let by_chunks = longest < from.facts.mtu && longest + LONGER_HEADER < to.facts.mtu;
        if !grows
            || !by_chunks
            || to.tx_method != Some(TxMethod::Xsk)
            || !said.insert((flow.interface, output.interface, tags))
        {
            continue;
        }
        let (from, to) = (&from.facts.name, &to.facts.name);
        notes.push(format!(
            "Over IPv6 a copy is 20 bytes longer, and through TX rings it leaves in a UMEM chunk of 4096 \
             bytes: datagrams from {from} whose IPv4 packet has more than {longest} bytes do not leave \
             by {to}, whatever its MTU, and are counted there as too_big. With `transmit = \
             \"segmented\"`, or on io_uring, they do."
        ));
    }
}
