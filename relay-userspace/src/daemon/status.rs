//! Everything that the relay counts and knows, as one value: the report, and the status with the
//! rates of the last second.
//!
//! Numbers are those of what runs and of all that has ended ([`super::totals`]), so they never go
//! backwards, whichever worker counts a rule's frames now.
//!
//! Once per second only sums and rates are taken. What has a line per rule is made when it is asked
//! for.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use relay_common::abi::Counter;

mod feeds;
mod latency;
mod loops;
mod meters;
mod process;
mod silence;
mod snapshot;
mod sources;
mod takers;

pub use self::silence::Turn;
use self::{
    latency::Latencies,
    loops::Loops,
    meters::Meters,
    silence::Silences,
    sources::Sources,
    takers::{Seen, takers},
};
use super::{
    reconcile::State,
    running::Running,
    totals::{Copies, RuleNumbers},
    watcher::Watcher,
};
use crate::{
    config::rules::Rule,
    datapath::{
        OutputIdentity, clock,
        socket_drops::KernelDrops,
        stats::{Count, Dropped},
    },
    kernel::{CameBack, Destination},
    observe::{
        log_line::{Lines, Pace},
        report::{InterfaceReport, Named, OutputReport, Report, RuleReport, WorkerReport},
        snapshot::{Changes, LastChange, LoopKind, LoopStatus, Rates, Snapshot},
    },
    plan::{Flow, Mac, Plan},
};

/// Makes reports of what runs.
pub struct Observer {
    /// When the relay was first ready to match frames.
    started: Instant,
    lines: Lines,
    meters: Meters,
    loops: Loops,
    silences: Silences,
    sources: Sources,
    latencies: Latencies,
    /// Why metrics are not served, if they should be.
    metrics: Option<String>,
    /// When copies last came back to each destination, in nanoseconds since boot, and when that was
    /// seen.
    came_back: HashMap<Destination, (u64, Instant)>,
    /// What waits, one line each.
    waiting: Vec<String>,
    /// At the end of the last second.
    sums: Sums,
    rates: Rates,
    /// Frames and copies that did not leave, by reason, at the end of the last second.
    dropped: Named,
}

/// The numbers that rates are made of.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    received: u64,
    sent: u64,
    dropped: u64,
}

impl Observer {
    /// Starts the clock.
    pub fn new(pace: Pace) -> Self {
        Self {
            started: Instant::now(),
            lines: Lines::new(pace),
            meters: Meters::default(),
            loops: Loops::default(),
            silences: Silences::default(),
            sources: Sources::default(),
            latencies: Latencies::default(),
            metrics: None,
            came_back: HashMap::new(),
            waiting: Vec::new(),
            sums: Sums::default(),
            rates: Rates::default(),
            dropped: Named::new(),
        }
    }

    /// Something may run differently now. To be called after each change. Returns which rules
    /// became silent meanwhile, and of which datagrams come again.
    pub fn changed(&mut self, state: &State) -> Vec<Turn> {
        self.meters.arrange(state);
        self.waiting = state.waiting_lines();
        let rules = state.desired.rules().rules.rules.iter();
        let names: HashSet<&str> = rules.map(|rule| rule.name.as_str()).collect();
        self.sources.keep(|rule| names.contains(rule));
        self.latencies.keep(&state.desired.interfaces());
        self.silences.arrange(state, Instant::now())
    }

    /// Notes why metrics are not served, if they should be.
    pub fn note_metrics(&mut self, problem: Option<String>) {
        self.metrics = problem;
    }

    /// When rules with `silence` are to be looked at next.
    pub fn silence_due(&self) -> Option<Instant> {
        self.silences.due()
    }

    /// Which rules became silent, and of which datagrams come again, if it is time to look.
    pub fn look_for_silence(&mut self, now: Instant) -> Vec<Turn> {
        self.silences.look(now)
    }

    /// Takes the rates of the last second, and looks for loops. Returns a line for the log if there
    /// is something to say.
    pub fn tick(&mut self, state: &mut State, watcher: &Watcher) -> Option<String> {
        let report = self.sums(&state.running, watcher);
        let now = Instant::now();
        if let Some(seconds) = self.meters.take(now) {
            let sums = Sums {
                received: report.packets_received,
                sent: report.packets_sent,
                dropped: report.total_dropped(),
            };
            let before = std::mem::replace(&mut self.sums, sums);
            let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            self.rates = Rates {
                packets_received: per_second(sums.received, before.received),
                bits_matched: self.meters.bit_rate(),
                packets_sent: per_second(sums.sent, before.sent),
                dropped: per_second(sums.dropped, before.dropped),
            };
        }
        self.dropped.clone_from(&report.dropped);
        self.look_for_loops(now, state);
        let rules = &state.desired.rules().rules.rules;
        self.meters.sampled(|rule, sample| {
            if let Some(rule) = rules.get(rule) {
                self.sources
                    .see(&rule.name, sample.address, sample.port, now);
            }
        });
        self.latencies.turn(now);
        let interfaces = &state.running.plan.interfaces;
        self.meters.latencies(|latency| {
            let mut interfaces = interfaces.iter();
            let interface = interfaces.find(|one| one.index == latency.interface);
            if let Some(interface) = interface {
                self.latencies.note(&interface.name, latency);
            }
        });
        self.lines.after(report)
    }

    /// Finds the rules whose copies came back, and whose datagrams expired.
    fn look_for_loops(&mut self, now: Instant, state: &mut State) {
        let mut moved = Vec::new();
        for one in state.running.kernel.came_back() {
            match self.came_back.get(&one.to) {
                Some(&(at, since)) if one.at <= at => {
                    if now.duration_since(since) >= loops::OVER_AFTER {
                        // This makes room for others.
                        state.running.kernel.forget_came_back(&one.to);
                        self.came_back.remove(&one.to);
                    }
                }
                _ => {
                    self.came_back.insert(one.to, (one.at, now));
                    moved.push(one);
                }
            }
        }
        let mut seen = own_frames(&moved, &state.running.plan);
        let rules = &state.desired.rules().rules.rules;
        for (rule, last) in self.meters.expired() {
            seen.extend(rules.get(rule).map(|rule| LoopStatus {
                rule: rule.name.clone(),
                kind: LoopKind::Expired,
                interface: rule.input.interface.clone(),
                group: rule.input.matches.group,
                port: rule.input.matches.ports,
                source: last.source,
                source_mac: Mac(last.mac).to_string(),
                last_seconds_ago: 0.0,
            }));
        }
        self.loops.see(now, seen);
    }

    /// What does not run, or loses frames, or is in a loop: one sentence per problem.
    pub fn problems(&self, state: &State, watcher: &Watcher) -> Vec<String> {
        snapshot::problems(self, state, watcher).0
    }

    /// The status now.
    pub fn snapshot(
        &self,
        state: &State,
        last_change: Option<LastChange>,
        changes: Changes,
        watcher: &Watcher,
    ) -> Snapshot {
        let report = self.report(state, watcher);
        snapshot::of(self, state, &report, watcher, last_change, changes)
    }

    /// The numbers now.
    pub fn report(&self, state: &State, watcher: &Watcher) -> Report {
        Report {
            rules: rules(state),
            ..self.sums(&state.running, watcher)
        }
    }

    /// The numbers now, without those of single rules.
    fn sums(&self, running: &Running, watcher: &Watcher) -> Report {
        let mut copies = running.totals.copies().clone();
        for worker in &running.workers {
            copies.add_worker(&worker.remote);
        }
        let over_limits = running.kernel.over_limits().map(|(_, over)| over);
        let over_limit = running.totals.over_limit() + over_limits.sum::<u64>();
        let interfaces = interfaces(running, watcher);
        // Also those of interfaces that no rule has any more: what was sent there stays counted.
        let device_dropped = watcher.all_device_dropped();
        let mut dropped = Named::new();
        add_kernel(&mut dropped, running);
        for (reason, number) in frames(running).dropped() {
            // The others are of copies.
            if number > 0 || matches!(reason, Dropped::NoRule | Dropped::Malformed) {
                *dropped.entry(reason.name()).or_default() += number;
            }
        }
        let dropped_before_rules = dropped.clone();
        add(&mut dropped, &copies);
        dropped.insert("device_dropped", device_dropped);
        dropped.insert("over_limit", over_limit);
        dropped.insert("local_failed", local_failed(running));
        let stats = || running.workers.iter().map(|worker| worker.remote.stats());
        Report {
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            packets_received: running.totals.received
                + stats().map(|one| one.received.get()).sum::<u64>(),
            packets_matched: running.totals.matched
                + stats().map(|one| one.matched.get()).sum::<u64>(),
            packets_sent: copies.sent.saturating_sub(device_dropped),
            dropped,
            dropped_before_rules,
            interfaces,
            rules: Vec::new(),
            workers: workers(running),
        }
    }
}

/// The loops that copies which came back show; none for those that no rule takes any more.
fn own_frames(moved: &[CameBack], plan: &Plan) -> Vec<LoopStatus> {
    if moved.is_empty() {
        return Vec::new();
    }
    let datagrams: Vec<Seen> = moved
        .iter()
        .map(|one| Seen {
            interface: one.to.interface,
            vlan: one.to.vlan(),
            group: one.to.group(),
            port: one.to.port(),
            source: one.source,
        })
        .collect();
    let keys = plan.flows.iter().flat_map(|flow| {
        let rank = flow.matches.specificity();
        plan.keys(flow).map(move |key| (key, rank, flow))
    });
    let takers = takers(keys, &datagrams);
    let loops = moved.iter().zip(takers).filter_map(|(one, flow)| {
        let flow: &Flow = flow?;
        Some(LoopStatus {
            rule: flow.rule.clone(),
            kind: LoopKind::OwnFrames,
            interface: plan.interfaces.get(flow.interface)?.name.clone(),
            group: flow.matches.group,
            port: flow.matches.ports,
            source: one.source,
            source_mac: Mac(one.mac).to_string(),
            last_seconds_ago: 0.0,
        })
    });
    loops.collect()
}

/// The numbers of the rules that are wanted and enabled, in their order.
fn rules(state: &State) -> Vec<RuleReport> {
    let running = &state.running;
    let mut over_limit: HashMap<&str, u64> = HashMap::new();
    for (rule, over) in running.kernel.over_limits() {
        *over_limit.entry(rule).or_default() += over;
    }
    let rules = state.desired.rules().rules.rules.iter();
    rules
        .filter(|rule| rule.enabled)
        .map(|rule| {
            let ended = running.totals.rules().get(&rule.name);
            let mut numbers = ended.cloned().unwrap_or_default();
            for worker in &running.workers {
                if let Some(counters) = worker.remote.flow(&rule.name) {
                    numbers.add(&counters);
                }
            }
            numbers.over_limit += over_limit.get(&rule.name[..]).copied().unwrap_or(0);
            rule_report(rule, &numbers)
        })
        .collect()
}

fn rule_report(rule: &Rule, numbers: &RuleNumbers) -> RuleReport {
    let outputs = rule.outputs.iter().zip(OutputIdentity::of_rule(rule));
    let monitor = rule.health.monitor;
    RuleReport {
        name: rule.name.clone(),
        packets_matched: numbers.matched,
        bytes_matched: numbers.bytes,
        over_limit: numbers.over_limit,
        local_failed: numbers.local_failed,
        feed: monitor.map(|monitor| feeds::of(monitor, numbers, clock())),
        outputs: outputs
            .map(|(output, key)| {
                let numbers = numbers.outputs.get(&key).cloned().unwrap_or_default();
                let mut dropped = Named::new();
                add(&mut dropped, &numbers);
                dropped.retain(|_, &mut number| number > 0);
                OutputReport {
                    interface: output.interface.clone().unwrap_or_default(),
                    group: output.group,
                    port: output.port,
                    vlan: output.header.vlan,
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
                .counters_of(&interface.name)
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

/// Frames of all rules that were not given back to this host's stack.
fn local_failed(running: &Running) -> u64 {
    let workers = running.workers.iter();
    let now = workers.flat_map(|worker| worker.remote.stats().local_failed.iter());
    running.totals.local_failed + now.map(Count::get).sum::<u64>()
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
