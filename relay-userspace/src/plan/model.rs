//! The plan itself: interfaces, flows, and the workers that own their queues.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Serialize, Serializer};

use super::{
    backend::Backend,
    ids::{FlowId, InterfaceId, List},
    mac,
    received_checksums::Checksums,
};
use crate::{
    config::rules::{Header, Limit, Match, Monitor, OutputVlan, PortMatch, Prefix, Transmit},
    host::{GsoLimits, Offload, Switched},
};

/// What will run: interfaces, flows, and the workers that own their queues.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Every interface that a rule names. Other fields refer to it by id.
    pub interfaces: List<InterfaceId, Interface>,
    /// One per rule that runs, in the file's order. Workers refer to it by id.
    pub flows: List<FlowId, Flow>,
    /// The addresses of this host that copies leave with.
    #[serde(skip)]
    pub own_sources: BTreeSet<IpAddr>,
    /// The threads that will run.
    pub workers: Vec<WorkerPlan>,
    /// What the user should know about this plan, one text per note.
    pub notes: Vec<String>,
}

/// One interface as the relay will use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The name.
    pub name: String,
    /// The kernel's interface index.
    pub index: u32,
    /// The hardware address, the Ethernet source of copies that leave here.
    #[serde(serialize_with = "mac::serialize")]
    pub mac: [u8; 6],
    /// The largest IP packet in bytes.
    pub mtu: u32,
    /// The IPv4 address that copies to IPv4 groups leave with; `None` if it has none.
    pub address: Option<Ipv4Addr>,
    /// The IPv6 addresses that copies leave with.
    pub ipv6_sources: Vec<Ipv6Addr>,
    /// The driver's name, `unknown` where the kernel does not report it.
    pub driver: String,
    /// What moves the frames of its workers.
    pub backend: Backend,
    /// On io_uring, why it is not XDP. On XDP, why its sockets have their mode, or, where zero copy
    /// is not possible, why it has no sockets. Empty where there is no reason to give.
    pub reason: String,
    /// A rule receives here.
    pub is_input: bool,
    /// A rule transmits here.
    pub is_output: bool,
    /// The RX queues whose frames are relayed, ascending; empty on an interface that is only an
    /// output, and on io_uring, whose packet sockets see the frames of all queues.
    pub rx_queues: Vec<u32>,
    /// The version of IGMP that it speaks now; `None` unless an input with IPv4.
    pub igmp: Option<u8>,
    /// What is known of the UDP checksums of frames that arrive here; `None` unless an input.
    pub checksums: Option<Checksums>,
    /// The offloads that the relay switches for as long as it runs: those that are otherwise now,
    /// and those that it has switched already. In JSON two lists, `offloads_off` and `offloads_on`.
    #[serde(flatten, serialize_with = "offload_lists")]
    pub offloads: Switched,
    /// It takes VLAN tags out of received frames while the relay runs.
    #[serde(skip)]
    pub strips_tags: bool,
    /// How many TX queues are in use.
    #[serde(skip)]
    pub tx_queues: u32,
    /// The driver offers zero copy for this MTU, and the kernel has not refused it.
    pub zero_copy: bool,
    /// The mode to expect of its AF_XDP sockets. The one in use is known after the bind. `None`
    /// where there are none: on io_uring, and on an output whose TX method needs none.
    pub expected_mode: Option<Mode>,
    /// Its TX rings take a frame in two parts: headers, and a payload that all copies share.
    #[serde(skip)]
    pub shares_payloads: bool,
    /// How copies shall leave, as the file says.
    #[serde(skip)]
    pub transmit: Transmit,
    /// How copies leave; `None` on an interface that is only an input.
    #[serde(rename = "engine")]
    pub tx_method: Option<TxMethod>,
    /// Copies can leave through it in GSO packets.
    #[serde(skip)]
    pub gso_packets: bool,
    /// The device takes GSO packets whole.
    #[serde(skip)]
    pub segments_udp: bool,
    /// It has no queueing discipline.
    #[serde(skip)]
    pub queueless: bool,
    /// The largest GSO packet that the device takes.
    #[serde(skip)]
    pub gso: GsoLimits,
}

/// How copies leave through an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TxMethod {
    /// Through the TX rings of AF_XDP sockets.
    Xsk,
    /// Through packet sockets: the datagrams of a flow in one receive batch leave as GSO packets,
    /// which the kernel or the NIC cuts apart.
    Segmented,
    /// Through packet sockets, frame by frame: where GSO packets cannot leave, on the io_uring
    /// backend and beside zero copy.
    Frames,
}

/// How AF_XDP moves a frame between the interface and user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The NIC reads and writes the UMEM itself.
    ZeroCopy,
    /// The kernel copies each frame.
    Copy,
}

/// One rule, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// The rule's name.
    pub rule: String,
    /// The input interface's id.
    pub interface: InterfaceId,
    /// Which datagrams of those that arrive there.
    #[serde(flatten)]
    pub matches: Match,
    /// Whether the relay joins the groups.
    pub join: bool,
    /// Whether programs and routes of this host get the datagrams as well.
    pub local: bool,
    /// How much of it is relayed; `None` means all.
    pub limit: Option<Limit>,
    /// Where the datagrams have sequence numbers that the relay watches.
    #[serde(skip)]
    pub monitor: Option<Monitor>,
    /// The copies that leave.
    pub outputs: Vec<Output>,
    /// The outputs of the rule that wait for their interfaces, or for routes.
    #[serde(skip)]
    pub pending: Vec<PendingOutput>,
}

/// An output of a running rule that waits for its interface, or for a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingOutput {
    /// Which output of the rule it is, from 0.
    pub position: usize,
    /// The interface's name; `None` where the kernel's routing chooses it.
    pub interface: Option<String>,
    /// The destination group, the prefix that the input's host part is kept on, or a unicast
    /// address.
    pub group: Prefix,
    /// The destination port, or ports as many as the input's.
    pub port: PortMatch,
    /// The tags.
    pub vlan: OutputVlan,
    /// What it waits for.
    pub waits_for: WaitsFor,
}

/// What keeps copies of an output from leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitsFor {
    /// Its interface is missing, or cannot be used now.
    Interface,
    /// The kernel has no route to its unicast destination.
    Route,
}

/// One copy, resolved to the header it leaves with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// Which output of the rule it is, from 0. A plan may have some of a rule's outputs only.
    #[serde(skip)]
    pub position: usize,
    /// The output interface's id.
    pub interface: InterfaceId,
    /// The interface was chosen by the kernel's routing, and not by the file.
    #[serde(skip)]
    pub is_routed: bool,
    /// The destination group, the prefix that the input's host part is kept on, or a unicast
    /// address.
    #[serde(flatten, serialize_with = "to")]
    pub group: Prefix,
    /// The destination port, or ports as many as the input's.
    pub port: PortMatch,
    /// The source address, of the destination's version of IP; `None` keeps the datagram's.
    #[serde(serialize_with = "or_keep")]
    pub source: Option<IpAddr>,
    /// What else it sets.
    #[serde(flatten)]
    pub header: Header,
    /// The Ethernet destination.
    #[serde(flatten)]
    pub to: LinkDestination,
}

/// Where copies go on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkDestination {
    /// The Ethernet address of the group (RFC 1112, section 6.4; RFC 2464, section 7).
    #[serde(rename = "destination_mac", serialize_with = "mac::serialize")]
    Group([u8; 6]),
    /// That of this host on the link, which the kernel resolves: the destination itself, or a
    /// gateway.
    NextHop(IpAddr),
}

/// Under the key that a rule file has.
fn to<S: Serializer>(group: &Prefix, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "lowercase")]
    enum To<'a> {
        Group(&'a Prefix),
        Address(&'a Prefix),
    }
    let to = match group.address().is_multicast() {
        true => To::Group(group),
        false => To::Address(group),
    };
    to.serialize(serializer)
}

fn or_keep<S: Serializer>(source: &Option<IpAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match source {
        Some(source) => serializer.collect_str(source),
        None => serializer.serialize_str("keep"),
    }
}

/// One thread and what it owns. No other worker touches its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerPlan {
    /// What moves its frames.
    pub backend: Backend,
    /// The CPU to pin to.
    pub cpu: Option<u32>,
    /// Every (interface, queue) that this worker binds an AF_XDP socket to, receiving, transmitting
    /// or both. Empty on io_uring.
    pub ports: Vec<Port>,
    /// On io_uring, the interface that its packet socket receives from. Several workers with the
    /// same one share its flows among them (`PACKET_FANOUT`).
    pub input: Option<InterfaceId>,
    /// The interfaces that have a TX socket for its copies, ascending.
    #[serde(rename = "senders")]
    pub tx_sockets: Vec<InterfaceId>,
    /// The flows that it can meet.
    pub flows: Vec<FlowId>,
}

/// One (interface, queue) pair of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The interface's id.
    pub interface: InterfaceId,
    /// The queue.
    pub queue: u32,
    /// Matching frames of this queue are received here.
    pub receives: bool,
    /// Copies leave through this queue. A worker has at most one such port per interface.
    pub transmits: bool,
}

impl Plan {
    /// Whether an interface is on `backend`.
    #[must_use]
    pub fn is_on(&self, backend: Backend) -> bool {
        let mut interfaces = self.interfaces.iter();
        interfaces.any(|interface| interface.backend == backend)
    }

    /// Whether it runs as another one does, whatever their notes say.
    #[must_use]
    pub fn runs_as(&self, other: &Self) -> bool {
        self.interfaces == other.interfaces
            && self.flows == other.flows
            && self.workers == other.workers
    }

    /// The inputs of `worker` whose frames it gives back to the Linux stack, because XDP takes them
    /// from there and a rule has `local`; each once, ascending.
    #[must_use]
    pub fn local_inputs(&self, worker: &WorkerPlan) -> BTreeSet<InterfaceId> {
        let flows = worker.flows.iter().filter_map(|&at| self.flows.get(at));
        let local = flows.filter(|flow| flow.local && worker.backend == Backend::Xdp);
        local.map(|flow| flow.interface).collect()
    }

    /// How many flows have a limit.
    #[must_use]
    pub fn limits(&self) -> usize {
        let limits = self.flows.iter().filter(|flow| flow.limit.is_some());
        limits.count()
    }
}

impl Output {
    /// The interface that the file names; `None` where the kernel's routing has chosen it.
    #[must_use]
    pub fn configured(&self) -> Option<InterfaceId> {
        (!self.is_routed).then_some(self.interface)
    }
}

impl Interface {
    /// Whether the XDP program is attached here: where frames are received, and where zero copy
    /// transmits. Drivers do that only while a native program is attached, whatever the program
    /// does (`ndo_xsk_wakeup` of igb, ixgbe, i40e, ice).
    #[must_use]
    pub fn needs_program(&self) -> bool {
        let zero_copy = self.expected_mode == Some(Mode::ZeroCopy);
        self.backend == Backend::Xdp && (self.is_input || zero_copy)
    }
}

impl WorkerPlan {
    /// The mode to ask for when its AF_XDP sockets are bound. They share a UMEM, and so the mode.
    #[must_use]
    pub fn mode(&self, plan: &Plan) -> Mode {
        let interfaces = self.ports.iter().map(|port| port.interface);
        let mut interfaces = interfaces.filter_map(|at| plan.interfaces.get(at));
        if interfaces.all(|interface| interface.expected_mode == Some(Mode::ZeroCopy)) {
            Mode::ZeroCopy
        } else {
            Mode::Copy
        }
    }

    /// How its copies leave through an interface; `None` where none do.
    #[must_use]
    pub fn tx_method(&self, plan: &Plan, interface: InterfaceId) -> Option<TxMethod> {
        if self.tx_sockets.contains(&interface) {
            let gso_packets = plan.interfaces.get(interface)?.gso_packets;
            return Some(if gso_packets {
                TxMethod::Segmented
            } else {
                TxMethod::Frames
            });
        }
        let mut ports = self.ports.iter();
        ports
            .any(|port| port.transmits && port.interface == interface)
            .then_some(TxMethod::Xsk)
    }
}

fn offload_lists<S: Serializer>(switched: &Switched, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Lists<'a> {
        offloads_off: Vec<&'a Offload>,
        offloads_on: Vec<&'a Offload>,
    }
    let (offloads_on, offloads_off) = switched.iter().partition(|one| one.wanted_on());
    Lists {
        offloads_off,
        offloads_on,
    }
    .serialize(serializer)
}
