//! Which UDP ports of this host the relay holds, so that the kernel does not answer what it relays.
//!
//! On io_uring the kernel's own stack gets every frame as well. Where no program listens on the
//! port of a datagram to this host, it answers with ICMP (port unreachable), and the sender may
//! stop.

use std::{collections::BTreeSet, net::IpAddr};

use super::{backend::Backend, model::Plan};
use crate::config::rules::PortMatch;

/// The most ports of one input that are held: each takes an open file.
pub(super) const MOST_PORTS: u32 = 1024;

/// A UDP port of one address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sink {
    /// The address.
    pub address: IpAddr,
    /// The index of the interface that has it, where it is a link-local address; otherwise 0.
    pub scope: u32,
    /// The port.
    pub port: u16,
}

/// Whether so few ports are named that each is held.
pub(super) fn are_few(ports: PortMatch) -> bool {
    !matches!(ports, PortMatch::Any) && u32::from(ports.count()) <= MOST_PORTS
}

impl Plan {
    /// Every port that is held while it runs. Ports of rules with `local` are left to programs.
    #[must_use]
    pub fn sinks(&self) -> BTreeSet<Sink> {
        let (mut all, mut left) = (BTreeSet::new(), BTreeSet::new());
        for flow in self.flows.iter().filter(|flow| flow.matches.is_unicast()) {
            let interface = self.interfaces.get(flow.interface);
            let interface = interface.filter(|one| one.backend == Backend::IoUring);
            let (Some(interface), true) = (interface, are_few(flow.matches.ports)) else {
                continue;
            };
            let address = flow.matches.group.address();
            let is_link_local =
                matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
            let scope = if is_link_local { interface.index } else { 0 };
            let (first, last) = flow.matches.ports.bounds();
            let of_flow = (first..=last).map(|port| Sink {
                address,
                scope,
                port,
            });
            match flow.local {
                true => left.extend(of_flow),
                false => all.extend(of_flow),
            }
        }
        &all - &left
    }
}
