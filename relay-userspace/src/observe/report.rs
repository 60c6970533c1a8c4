//! The relay's counters as one value, from which log lines, the final report and its JSON are made.
//!
//! Counters are summed over workers, because frames of one rule may arrive on several queues.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use relay_common::abi::Counter;
use serde::Serialize;

use crate::{
    datapath::{
        socket_drops::KernelDrops,
        stats::{Drops, WorkerStats},
    },
    plan::{self, Backend, FlowId, List, Mode, Plan, TxMethod},
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
    /// Frames that matched it and that the kernel program dropped because they were above its
    /// limit.
    pub over_limit: u64,
    /// Its outputs, in the file's order.
    pub outputs: Vec<OutputReport>,
}

/// One output.
#[derive(Debug, Clone, Serialize)]
pub struct OutputReport {
    /// The interface's name.
    pub interface: String,
    /// The destination group.
    pub group: Ipv4Addr,
    /// The destination port.
    pub port: u16,
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

/// A worker's counters, and the kernel's for its sockets.
#[derive(Debug, Clone, Copy)]
pub struct WorkerView<'a> {
    /// The worker's own counters.
    pub stats: &'a WorkerStats,
    /// Frames that the kernel dropped in front of its sockets.
    pub kernel: KernelDrops,
}

impl Report {
    /// Sums up. `workers` and `over_limit`, the frames above each rule's limit, are in the plan's
    /// order.
    #[must_use]
    pub fn new(
        plan: &Plan,
        uptime_seconds: f64,
        workers: &[WorkerView<'_>],
        interfaces: Vec<InterfaceReport>,
        over_limit: &[u64],
    ) -> Self {
        let mut dropped = Named::new();
        for view in workers {
            let KernelDrops {
                rx_ring_full,
                rx_fill_ring_empty,
                rx_dropped,
                rx_socket_full,
            } = view.kernel;
            *dropped.entry("rx_ring_full").or_default() += rx_ring_full;
            *dropped.entry("rx_fill_ring_empty").or_default() += rx_fill_ring_empty;
            *dropped.entry("rx_dropped").or_default() += rx_dropped;
            *dropped.entry("rx_socket_full").or_default() += rx_socket_full;
            add(&mut dropped, &view.stats.drops);
            for output in &view.stats.outputs {
                add(&mut dropped, &output.drops);
            }
        }
        let device_dropped = interfaces
            .iter()
            .map(|interface| interface.device_dropped)
            .sum();
        dropped.insert("device_dropped", device_dropped);
        dropped.insert("over_limit", over_limit.iter().sum());
        let given = workers.iter().flat_map(|view| &view.stats.outputs);
        let given: u64 = given.map(|output| output.sent.get()).sum();
        let sum = |of: fn(&WorkerStats) -> u64| workers.iter().map(|view| of(view.stats)).sum();
        Self {
            uptime_seconds,
            packets_received: sum(|stats| stats.received.get()),
            packets_matched: sum(|stats| stats.matched.get()),
            packets_sent: given.saturating_sub(device_dropped),
            dropped,
            interfaces,
            rules: rules(plan, workers, over_limit),
            workers: workers
                .iter()
                .map(|view| WorkerReport {
                    packets_received: view.stats.received.get(),
                    chunks_total: view.stats.chunks.total.get(),
                    chunks_free: view.stats.chunks.free.get(),
                    chunks_fill: view.stats.chunks.fill.get(),
                    chunks_in_flight: view.stats.chunks.in_flight.get(),
                    ring_out_of_buffers: view.stats.ring.out_of_buffers.get(),
                    ring_interrupted: view.stats.ring.interrupted.get(),
                    ring_overflows: view.stats.ring.overflows.get(),
                    ring_refusals: view.stats.ring.refusals.get(),
                })
                .collect(),
        }
    }

    /// Frames and copies that did not leave, for all reasons together.
    #[must_use]
    pub fn total_dropped(&self) -> u64 {
        self.dropped.values().sum()
    }
}

fn rules(plan: &Plan, workers: &[WorkerView<'_>], over_limit: &[u64]) -> Vec<RuleReport> {
    let mut rules: List<FlowId, RuleReport> = plan
        .flows
        .iter()
        .enumerate()
        .map(|(at, flow)| RuleReport {
            name: flow.rule.clone(),
            packets_matched: 0,
            over_limit: over_limit.get(at).copied().unwrap_or(0),
            outputs: flow
                .outputs
                .iter()
                .map(|output| OutputReport {
                    interface: plan
                        .interfaces
                        .get(output.interface)
                        .map_or_else(String::new, |interface| interface.name.clone()),
                    group: output.group,
                    port: output.port,
                    packets_sent: 0,
                    dropped: Named::new(),
                })
                .collect(),
        })
        .collect();
    for (worker, view) in plan.workers.iter().zip(workers) {
        let mut outputs = view.stats.outputs.iter();
        for (&flow, matched) in worker.flows.iter().zip(view.stats.flows.iter()) {
            let Some(rule) = rules.get_mut(flow) else {
                continue;
            };
            rule.packets_matched += matched.get();
            for (output, stats) in rule.outputs.iter_mut().zip(&mut outputs) {
                output.packets_sent += stats.sent.get();
                add(&mut output.dropped, &stats.drops);
                output.dropped.retain(|_, &mut number| number > 0);
            }
        }
    }
    rules.into_iter().collect()
}

fn add(sums: &mut Named, drops: &Drops) {
    for (reason, number) in drops.iter() {
        *sums.entry(reason.name()).or_default() += number;
    }
}

/// `reason number` for each reason that occurred, separated by commas.
pub(super) fn occurred<'a>(named: impl IntoIterator<Item = (&'a &'static str, &'a u64)>) -> String {
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
                0 => writeln!(f)?,
                over => writeln!(f, ", over its limit {over}")?,
            }
            for output in &rule.outputs {
                write!(
                    f,
                    "  {} {}:{}: sent {}",
                    output.interface, output.group, output.port, output.packets_sent
                )?;
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
