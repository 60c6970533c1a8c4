//! Rules and facts about the interfaces become a [`Plan`]: what will run, resolved to indices.
//!
//! Building a plan is pure: it reads no file and touches no interface, so it can be printed by
//! `relay plan` and tested without a network.

mod build;
mod checksums;
mod choice;
mod engines;
mod group_notes;
mod loops;
mod mac;
mod missing;
mod packets;
mod print;
mod queues;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use serde::Serialize;

pub use build::build;
pub use checksums::Checksums;
pub use choice::{Choice, Refusal};
pub(crate) use engines::max_zero_copy_mtu;
pub use mac::{Mac, of_group};

use crate::{
    config::{Document, Mistakes},
    nic::{self, Survey},
    rules::{Limit, Transmit, Ttl},
};

/// Asks the kernel about every interface that `document` names.
#[must_use]
pub fn survey(document: &Document) -> Survey {
    let rules = document.rules.rules.iter();
    nic::facts_for(rules.flat_map(|rule| {
        let outputs = rule.outputs.iter().map(|output| output.interface.as_str());
        std::iter::once(rule.input.interface.as_str()).chain(outputs)
    }))
}

/// The plan for this machine as it is now; `forced` is the backend that was asked for.
///
/// # Errors
///
/// Everything that stands against running the rules on this machine, with its place in the file.
pub fn for_this_machine(document: &Document, forced: Option<Backend>) -> Result<Plan, Mistakes> {
    let choice = Choice {
        forced,
        ..Choice::default()
    };
    build(document, &survey(document), &choice)
}

/// What will run: interfaces, flows, and the workers that own their queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Every interface that a rule names. Other fields refer to it by position.
    pub interfaces: Vec<Interface>,
    /// One a rule, in the file's order. Workers refer to it by position.
    pub flows: Vec<Flow>,
    /// The threads that will run.
    pub workers: Vec<Worker>,
    /// What the user should know about this plan, a sentence each.
    pub notes: Vec<String>,
}

/// One interface as the relay will use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The name.
    pub name: String,
    /// The kernel's interface index.
    pub index: u32,
    /// The hardware address, the Ethernet source of what leaves here.
    #[serde(serialize_with = "mac::serialize")]
    pub mac: [u8; 6],
    /// The largest IP packet in bytes.
    pub mtu: u32,
    /// The IPv4 address that copies leave with; `None` on an interface that is only an input.
    pub address: Option<Ipv4Addr>,
    /// The driver's name, `unknown` where the kernel does not tell.
    pub driver: String,
    /// What moves the frames of its workers.
    pub backend: Backend,
    /// On io_uring, why it is not XDP. On XDP, why its sockets have the mode that they have, and why it has none where
    /// zero copy could not be had. Empty where there is nothing to tell.
    pub reason: String,
    /// A rule receives here.
    pub is_input: bool,
    /// A rule transmits here.
    pub is_output: bool,
    /// The RX queues whose frames are relayed, ascending; empty on an interface that is only an output, and on
    /// io_uring, whose packet sockets see the frames of all queues.
    pub rx_queues: Vec<u32>,
    /// What is known of the UDP checksums of what arrives here; `None` unless an input.
    pub checksums: Option<Checksums>,
    /// The TX queues in use.
    #[serde(skip)]
    pub tx_queues: u32,
    /// The driver offers zero copy, for this MTU, and nobody has refused it.
    pub zero_copy: bool,
    /// The mode to expect of its AF_XDP sockets. The one in use is known after the bind. `None` where there are
    /// none: on io_uring, and on an output whose engine does without.
    pub expected_mode: Option<Mode>,
    /// How copies shall leave, as the file says.
    #[serde(skip)]
    pub transmit: Transmit,
    /// How copies leave; `None` on an interface that is only an input.
    pub engine: Option<Engine>,
    /// Copies can leave by it in super-frames.
    #[serde(skip)]
    pub super_frames: bool,
    /// It takes super-frames whole.
    #[serde(skip)]
    pub segments_udp: bool,
    /// It has no queueing discipline.
    #[serde(skip)]
    pub queueless: bool,
    /// What it takes in one GSO packet.
    #[serde(skip)]
    pub gso: nic::GsoLimits,
}

/// What moves the frames of a worker. All interfaces that rules connect have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// An XDP program and AF_XDP sockets; refuse rather than fall back to io_uring
    Xdp,
    /// Packet sockets with a socket filter, read and written by io_uring; always, on any Ethernet interface
    IoUring,
}

/// How copies leave by an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// By the TX rings of AF_XDP sockets.
    Xsk,
    /// By packet sockets: what one receive batch brought of a flow leaves as super-frames, which the kernel or the
    /// NIC cuts apart.
    Segmented,
    /// By packet sockets, frame by frame: where super-frames cannot leave, on the io_uring backend and beside zero
    /// copy.
    Frames,
}

/// How AF_XDP moves a frame between the interface and user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    /// The input interface, a position in [`Plan::interfaces`].
    pub interface: usize,
    /// The group that is matched.
    pub group: Ipv4Addr,
    /// The destination port that is matched.
    pub port: u16,
    /// How much of it is relayed; `None` means all.
    pub limit: Option<Limit>,
    /// The copies that leave.
    pub outputs: Vec<Output>,
}

/// One copy, resolved to the header it leaves with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// The output interface, a position in [`Plan::interfaces`].
    pub interface: usize,
    /// The destination group.
    pub group: Ipv4Addr,
    /// The destination port.
    pub port: u16,
    /// The time to live.
    pub ttl: Ttl,
    /// The source address: the output interface's.
    pub source: Ipv4Addr,
    /// The Ethernet destination, from the group (RFC 1112, section 6.4).
    #[serde(serialize_with = "mac::serialize")]
    pub destination_mac: [u8; 6],
}

/// One thread and what it owns. No other worker touches its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Worker {
    /// What moves its frames.
    pub backend: Backend,
    /// The CPU to pin to.
    pub cpu: Option<u32>,
    /// Every (interface, queue) this worker binds an AF_XDP socket to, receiving, transmitting or both. None on io_uring.
    pub ports: Vec<Port>,
    /// On io_uring, the interface that it receives from by a packet socket, a position in [`Plan::interfaces`].
    /// Several workers with the same one share its flows out among them (`PACKET_FANOUT`).
    pub input: Option<usize>,
    /// The interfaces that copies leave by through packet sockets, positions in [`Plan::interfaces`], ascending.
    pub senders: Vec<usize>,
    /// The flows it can meet, positions in [`Plan::flows`].
    pub flows: Vec<usize>,
}

/// One (interface, queue) pair of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Port {
    /// A position in [`Plan::interfaces`].
    pub interface: usize,
    /// The queue.
    pub queue: u32,
    /// Matching frames of this queue are received here.
    pub receives: bool,
    /// Copies leave by this queue. A worker has at most one such port an interface.
    pub transmits: bool,
}

impl Plan {
    /// Whether an interface is on `backend`.
    #[must_use]
    pub fn is_on(&self, backend: Backend) -> bool {
        let mut interfaces = self.interfaces.iter();
        interfaces.any(|interface| interface.backend == backend)
    }
}

impl Interface {
    /// Whether the XDP program is attached here: where frames are received, and where zero copy transmits, which
    /// drivers do only while a native program is attached, whatever it does (`ndo_xsk_wakeup` of igb, ixgbe, i40e,
    /// ice).
    #[must_use]
    pub fn needs_program(&self) -> bool {
        let zero_copy = self.expected_mode == Some(Mode::ZeroCopy);
        self.backend == Backend::Xdp && (self.is_input || zero_copy)
    }
}

impl Worker {
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

    /// How its copies leave by an interface, a position in [`Plan::interfaces`]; `None` where none do.
    #[must_use]
    pub fn engine(&self, plan: &Plan, interface: usize) -> Option<Engine> {
        if self.senders.contains(&interface) {
            let super_frames = plan.interfaces.get(interface)?.super_frames;
            return Some(if super_frames {
                Engine::Segmented
            } else {
                Engine::Frames
            });
        }
        let mut ports = self.ports.iter();
        ports
            .any(|port| port.transmits && port.interface == interface)
            .then_some(Engine::Xsk)
    }
}
