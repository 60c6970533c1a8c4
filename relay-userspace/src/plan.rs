//! Rules and facts about the interfaces become a [`Plan`]: what will run, resolved to indices.
//!
//! Building a plan is pure: it reads no file and touches no interface, so it can be printed by
//! `relay plan` and tested without a network.

mod build;
mod mac;
mod print;
mod queues;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use serde::Serialize;

pub use build::build;
pub use mac::{Mac, of_group};

use crate::{
    config::{Document, Mistakes},
    nic,
    rules::Ttl,
};

/// Asks the kernel about every interface that `document` names, and builds the plan.
///
/// # Errors
///
/// Everything that stands against running the rules on this machine, with its place in the file.
pub fn for_this_machine(document: &Document) -> Result<Plan, Mistakes> {
    let rules = document.rules.rules.iter();
    let names = rules.flat_map(|rule| {
        let outputs = rule.outputs.iter().map(|output| output.interface.as_str());
        std::iter::once(rule.input.interface.as_str()).chain(outputs)
    });
    build(document, &nic::facts_for(names))
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
    /// A rule receives here.
    pub is_input: bool,
    /// A rule transmits here.
    pub is_output: bool,
    /// The RX queues whose frames are relayed, ascending; empty on an interface that is only an output.
    pub rx_queues: Vec<u32>,
    /// The driver offers zero copy, for this MTU.
    pub zero_copy: bool,
    /// The mode to expect: zero copy where all interfaces that rules connect offer it. The one in use is known
    /// after the bind.
    pub expected_mode: Mode,
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
    /// The CPU to pin to.
    pub cpu: Option<u32>,
    /// Every (interface, queue) this worker binds, receiving, transmitting or both.
    pub ports: Vec<Port>,
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
