//! The relay's counters as one value, from which log lines, the final report and its JSON are made.
//!
//! Counters are summed over workers, because frames of one rule may arrive on several queues.

use std::{collections::BTreeMap, fmt};

use relay_common::abi::Counter;
use serde::Serialize;

use super::snapshot::FeedStatus;
use crate::{
    config::rules::{GroupPort, OutputVlan, PortMatch, Prefix},
    plan::{self, Backend, Mode, TxMethod},
};

/// Numbers by name.
pub type Named = BTreeMap<&'static str, u64>;

/// The relay's counters at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Seconds since the kernel programs were allowed to match frames.
    pub uptime_seconds: f64,
    /// Frames that reached a worker.
    pub packets_received: u64,
    /// Of those, frames that matched a rule.
    pub packets_matched: u64,
    /// Copies that left.
    pub packets_sent: u64,
    /// Frames and copies that did not leave, by reason; zeros included.
    pub dropped: Named,
    /// Of those, frames that were dropped before a rule took them, by reason; zeros included.
    pub dropped_before_rules: Named,
    /// Every interface of the plan.
    pub interfaces: Vec<InterfaceReport>,
    /// Every rule of the plan.
    pub rules: Vec<RuleReport>,
    /// Every worker of the plan.
    pub workers: Vec<WorkerReport>,
}

/// One interface.
#[derive(Debug, Clone, Serialize)]
pub struct InterfaceReport {
    /// The name.
    pub name: String,
    /// The path of its frames.
    #[serde(flatten)]
    pub path: FramePath,
    /// Frames that its device dropped after the kernel had cut them from GSO packets. The outputs'
    /// own numbers count them as sent, because the kernel does not tell whose they were.
    pub device_dropped: u64,
    /// Frames of any kind that its NIC dropped since the relay started, because it had no buffer
    /// for them ([`crate::host::rx_missed`]). Nothing else has seen them, and `dropped` does not
    /// contain them.
    pub missed: u64,
    /// The counters of the kernel program (XDP program or socket filter); empty on an interface
    /// that is only an output.
    pub filter: Named,
}

/// How frames move between an interface and the relay.
#[derive(Debug, Clone, Serialize)]
pub struct FramePath {
    /// XDP or io_uring.
    pub backend: Backend,
    /// The mode of its AF_XDP sockets; `None` if it has none.
    pub mode: Option<Mode>,
    /// Why the backend and the mode are these, see [`plan::Interface::reason`].
    pub reason: String,
    /// How copies leave; `None` if none do.
    #[serde(rename = "engine")]
    pub tx_method: Option<TxMethod>,
}

impl FramePath {
    /// The path as the plan knows it: mode and TX method are known once the sockets are bound.
    #[must_use]
    pub fn planned(interface: &plan::Interface) -> Self {
        Self {
            backend: interface.backend,
            mode: None,
            reason: interface.reason.clone(),
            tx_method: None,
        }
    }
}

impl fmt::Display for FramePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = match &self.reason[..] {
            "" => String::new(),
            reason => format!(", because {reason}"),
        };
        let transmits = self
            .tx_method
            .map(|tx_method| format!("transmits by {tx_method}"));
        match (self.backend, self.mode, transmits) {
            (Backend::Xdp, None, None) => Ok(()),
            (Backend::Xdp, None, Some(transmits)) => write!(f, "{transmits}{because}"),
            (Backend::IoUring, _, None) => write!(f, "io_uring{because}"),
            (Backend::IoUring, _, Some(transmits)) => write!(f, "io_uring{because}; {transmits}"),
            (Backend::Xdp, Some(mode), None) => write!(f, "{mode} mode{}{because}", mode.remark()),
            (Backend::Xdp, Some(mode), Some(transmits)) => {
                write!(f, "{mode} mode{}{because}; {transmits}", mode.remark())
            }
        }
    }
}

/// One rule.
#[derive(Debug, Clone, Serialize)]
pub struct RuleReport {
    /// The name.
    pub name: String,
    /// Frames that matched it and reached a worker.
    pub packets_matched: u64,
    /// Bytes of UDP payload in them.
    pub bytes_matched: u64,
    /// Frames that matched it and that the kernel program dropped because they were above its
    /// limit.
    pub over_limit: u64,
    /// Frames that matched it and that this host's own stack should have got as well, and did not.
    pub local_failed: u64,
    /// What its datagrams are like, if it has `monitor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedStatus>,
    /// Its outputs, in the file's order.
    pub outputs: Vec<OutputReport>,
}

/// One output.
#[derive(Debug, Clone, Serialize)]
pub struct OutputReport {
    /// The interface's name; empty where the kernel's routing chooses it.
    pub interface: String,
    /// The destination group or address.
    pub group: Prefix,
    /// The destination port.
    pub port: PortMatch,
    /// The tags.
    #[serde(skip_serializing_if = "OutputVlan::is_untagged")]
    pub vlan: OutputVlan,
    /// Copies that left.
    pub packets_sent: u64,
    /// Copies that did not leave, by reason; only reasons that occurred.
    pub dropped: Named,
}

/// One worker, and where its chunks are: those of the UMEM, or on io_uring its receive buffers. At
/// rest `chunks_free`, `chunks_fill` and `chunks_in_flight` add up to `chunks_total`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct WorkerReport {
    /// Frames that reached it.
    pub packets_received: u64,
    /// All chunks.
    pub chunks_total: u64,
    /// In the free list.
    pub chunks_free: u64,
    /// In FILL and RX rings; on io_uring, with the kernel to receive into.
    pub chunks_fill: u64,
    /// On their way out.
    pub chunks_in_flight: u64,
    /// How often io_uring's receive found no buffer, see [`crate::datapath::stats::RingStats`].
    /// This and the next three are 0 on XDP.
    pub ring_out_of_buffers: u64,
    /// How often the receive was interrupted.
    pub ring_interrupted: u64,
    /// How often the completion queue was full.
    pub ring_overflows: u64,
    /// How often the kernel refused `io_uring_enter`.
    pub ring_refusals: u64,
}

impl Report {
    /// Frames and copies that did not leave, for all reasons together.
    #[must_use]
    pub fn total_dropped(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// `reason number` for each reason that occurred, separated by commas.
pub fn occurred<'a>(named: impl IntoIterator<Item = (&'a &'static str, &'a u64)>) -> String {
    let parts: Vec<String> = named
        .into_iter()
        .filter(|&(_, &number)| number > 0)
        .map(|(name, number)| format!("{name} {number}"))
        .collect();
    parts.join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "after {:.1} s: received {}, matched {}, sent {}, dropped {}",
            self.uptime_seconds,
            self.packets_received,
            self.packets_matched,
            self.packets_sent,
            self.total_dropped(),
        )?;
        for (reason, number) in self.dropped.iter().filter(|&(_, &number)| number > 0) {
            writeln!(f, "  {reason}: {number}")?;
        }
        for interface in &self.interfaces {
            write!(f, "{}: {}", interface.name, interface.path)?;
            if interface.device_dropped > 0 {
                write!(f, "; dropped by the device: {}", interface.device_dropped)?;
            }
            if interface.missed > 0 {
                write!(f, "; missed by the NIC: {}", interface.missed)?;
            }
            // "Received" are datagrams that reached a worker; those that the kernel program saw are
            // "seen".
            let received = Counter::Received.name();
            let (seen, others): (Named, Named) = interface
                .filter
                .iter()
                .partition(|&(&name, _)| name == received);
            match seen.get(received) {
                None | Some(0) => writeln!(f)?,
                Some(seen) => writeln!(f, "; frames seen {seen}: {}", occurred(&others))?,
            }
        }
        for rule in &self.rules {
            write!(f, "rule {}: matched {}", rule.name, rule.packets_matched)?;
            match rule.over_limit {
                0 => {}
                over => write!(f, ", over its limit {over}")?,
            }
            match rule.local_failed {
                0 => writeln!(f)?,
                failed => writeln!(f, ", not given to this host {failed}")?,
            }
            for output in &rule.outputs {
                let interface = match &output.interface[..] {
                    "" => "by routing",
                    interface => interface,
                };
                let to = GroupPort(output.group, output.port);
                write!(f, "  {interface} {to}")?;
                if !output.vlan.is_untagged() {
                    write!(f, ", {}", output.vlan)?;
                }
                write!(f, ": sent {}", output.packets_sent)?;
                let dropped = occurred(&output.dropped);
                if dropped.is_empty() {
                    writeln!(f)?;
                } else {
                    writeln!(f, ", dropped: {dropped}")?;
                }
            }
        }
        Ok(())
    }
}
