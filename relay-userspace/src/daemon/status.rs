//! Everything that the relay counts and knows, as one value: the report, and the status with the
//! rates of the last second.
//!
//! Numbers are those of what runs and of all that has ended ([`super::totals`]), so they never go
//! backwards, whichever worker counts a rule's frames now.

use std::{collections::HashMap, time::Instant};

use relay_common::abi::Counter;

mod snapshot;

use self::snapshot::Rates;
use super::{
    reconcile::State,
    running::Running,
    totals::{Copies, RuleNumbers},
    watcher::Watcher,
};
use crate::{
    config::rules::Rule,
    datapath::{OutputIdentity, socket_drops::KernelDrops},
    observe::{
        log_line::{Lines, Pace},
        report::{InterfaceReport, Named, OutputReport, Report, RuleReport, WorkerReport},
        snapshot::{LastChange, Snapshot},
    },
};

/// Makes reports of what runs.
pub struct Observer {
    /// When the relay was first ready to match frames.
    started: Instant,
    lines: Lines,
    rates: Rates,
}

impl Observer {
    /// Starts the clock.
    pub fn new(pace: Pace) -> Self {
        Self {
            started: Instant::now(),
            lines: Lines::new(pace),
            rates: Rates::default(),
        }
    }

    /// The numbers and the status now.
    pub fn observe(
        &mut self,
        state: &State,
        last_change: Option<LastChange>,
        watcher: &Watcher,
    ) -> (Report, Snapshot) {
        let report = self.report(state, watcher);
        self.rates.take(&report);
        let snapshot = snapshot::of(state, &report, &self.rates, watcher, last_change);
        (report, snapshot)
    }

    /// A line for the log if there is something to say about `report`, which follows that of the
    /// last call by about a second.
    pub fn line(&mut self, report: Report) -> Option<String> {
        self.lines.after(report)
    }

    /// The numbers now.
    pub fn report(&self, state: &State, watcher: &Watcher) -> Report {
        let running = &state.running;
        let rules = rules(state);
        let mut copies = running.totals.removed().copies.clone();
        let mut over_limit = running.totals.removed().over_limit;
        for numbers in rules.values() {
            over_limit += numbers.over_limit;
            for output in numbers.outputs.values() {
                copies.add(output);
            }
        }
        let interfaces = interfaces(running, watcher);
        let device_dropped = interfaces.iter().map(|one| one.device_dropped).sum();
        let mut dropped = Named::new();
        add_kernel(&mut dropped, running);
        add(&mut dropped, &frames(running));
        add(&mut dropped, &copies);
        dropped.insert("device_dropped", device_dropped);
        dropped.insert("over_limit", over_limit);
        let stats = || running.workers.iter().map(|worker| worker.remote.stats());
        Report {
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            packets_received: running.totals.received
                + stats().map(|one| one.received.get()).sum::<u64>(),
            packets_matched: running.totals.matched
                + stats().map(|one| one.matched.get()).sum::<u64>(),
            packets_sent: copies.sent.saturating_sub(device_dropped),
            dropped,
            interfaces,
            rules: reported(state, &rules),
            workers: workers(running),
        }
    }
}

/// The numbers of every rule that is wanted or still counts.
fn rules(state: &State) -> HashMap<String, RuleNumbers> {
    let running = &state.running;
    let mut all = running.totals.rules().clone();
    for worker in &running.workers {
        for (rule, counters) in worker.remote.flows() {
            all.entry(rule.to_owned()).or_default().add(&counters);
        }
    }
    for (key, rule) in running.limited() {
        all.entry(rule.to_owned()).or_default().over_limit += running.kernel.over_limit(key);
    }
    all
}

/// The rules that are wanted, in their order.
fn reported(state: &State, numbers: &HashMap<String, RuleNumbers>) -> Vec<RuleReport> {
    let none = RuleNumbers::default();
    let rules = state.desired.rules().rules.rules.iter();
    rules
        .filter(|rule| rule.enabled)
        .map(|rule| rule_report(rule, numbers.get(&rule.name).unwrap_or(&none)))
        .collect()
}

fn rule_report(rule: &Rule, numbers: &RuleNumbers) -> RuleReport {
    let outputs = rule.outputs.iter().zip(OutputIdentity::of_rule(rule));
    RuleReport {
        name: rule.name.clone(),
        packets_matched: numbers.matched,
        over_limit: numbers.over_limit,
        outputs: outputs
            .map(|(output, key)| {
                let numbers = numbers.outputs.get(&key).cloned().unwrap_or_default();
                let mut dropped = Named::new();
                add(&mut dropped, &numbers);
                dropped.retain(|_, &mut number| number > 0);
                OutputReport {
                    interface: output.interface.clone(),
                    group: output.group,
                    port: output.port,
                    packets_sent: numbers.sent,
                    dropped,
                }
            })
            .collect(),
    }
}

fn interfaces(running: &Running, watcher: &Watcher) -> Vec<InterfaceReport> {
    let interfaces = running.plan.interfaces.iter().zip(&running.paths);
    interfaces
        .map(|(interface, path)| InterfaceReport {
            name: interface.name.clone(),
            path: path.clone(),
            device_dropped: watcher.device_dropped(interface.index),
            missed: watcher.missed(interface.index),
            filter: running
                .kernel
                .counters(interface.index)
                .map(|counters| {
                    let names = Counter::ALL.into_iter().map(Counter::name);
                    names.zip(counters).collect()
                })
                .unwrap_or_default(),
        })
        .collect()
}

fn workers(running: &Running) -> Vec<WorkerReport> {
    let workers = running.workers.iter().map(|worker| worker.remote.stats());
    workers
        .chain(&running.last)
        .map(|stats| WorkerReport {
            packets_received: stats.received.get(),
            chunks_total: stats.chunks.total.get(),
            chunks_free: stats.chunks.free.get(),
            chunks_fill: stats.chunks.fill.get(),
            chunks_in_flight: stats.chunks.in_flight.get(),
            ring_out_of_buffers: stats.ring.out_of_buffers.get(),
            ring_interrupted: stats.ring.interrupted.get(),
            ring_overflows: stats.ring.overflows.get(),
            ring_refusals: stats.ring.refusals.get(),
        })
        .collect()
}

/// Frames that are no output's, by reason.
fn frames(running: &Running) -> Copies {
    let mut sum = running.totals.frames.clone();
    for worker in &running.workers {
        sum.add_drops(&worker.remote.stats().drops);
    }
    sum
}

fn add_kernel(dropped: &mut Named, running: &Running) {
    let mut sum = running.totals.kernel;
    for worker in &running.workers {
        sum.add(worker.drops.sum());
    }
    let KernelDrops {
        rx_ring_full,
        rx_fill_ring_empty,
        rx_dropped,
        rx_socket_full,
    } = sum;
    dropped.insert("rx_ring_full", rx_ring_full);
    dropped.insert("rx_fill_ring_empty", rx_fill_ring_empty);
    dropped.insert("rx_dropped", rx_dropped);
    dropped.insert("rx_socket_full", rx_socket_full);
}

fn add(sums: &mut Named, numbers: &Copies) {
    for (reason, number) in numbers.dropped() {
        *sums.entry(reason.name()).or_default() += number;
    }
}
