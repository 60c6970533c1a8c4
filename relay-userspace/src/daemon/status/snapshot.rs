//! The status of everything, from the numbers of a report and from what is wanted and waits.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use super::{Observer, process};
use crate::{
    config::quoted,
    daemon::{reconcile::State, watcher::Watcher},
    datapath::next_hops::Known,
    host::neighbours::OnLink,
    observe::{
        report::{InterfaceReport, Named, Report, occurred},
        snapshot::{
            self, Changes, Health, InterfaceStatus, LastChange, LoopStatus, NextHopStatus, Numbers,
            Origin, OutputStatus, RuleStatus, Snapshot, Totals,
        },
    },
    plan::{self, Flow, HeaderText, LinkDestination, Mac, Plan},
};

/// The most problems that a status names.
const MOST_PROBLEMS: usize = 100;

/// What waits, each with its reason.
struct Waits<'a> {
    rules: HashMap<&'a str, &'a str>,
    /// By rule and position.
    outputs: HashMap<(&'a str, usize), &'a str>,
    /// The interfaces that an enabled rule names, with the reason of the first that waits for it.
    interfaces: HashMap<&'a str, Option<&'a str>>,
}

impl<'a> Waits<'a> {
    fn of(state: &'a State) -> Self {
        let rules = state.arrangement.pending_rules.iter();
        let outputs = state.arrangement.pending_outputs.iter();
        let mut waits = Self {
            rules: rules
                .map(|(rule, reason)| (rule.as_str(), &**reason))
                .collect(),
            outputs: outputs
                .map(|(rule, position, reason)| ((rule.as_str(), *position), &**reason))
                .collect(),
            interfaces: HashMap::new(),
        };
        let rules = state.desired.rules().rules.rules.iter();
        for rule in rules.filter(|rule| rule.enabled) {
            let reason = waits.rules.get(rule.name.as_str()).copied();
            waits.name(&rule.input.interface, reason);
            for (position, output) in rule.outputs.iter().enumerate() {
                let reason = waits.outputs.get(&(rule.name.as_str(), position)).copied();
                if let Some(interface) = &output.interface {
                    waits.name(interface, reason);
                }
            }
        }
        waits
    }

    /// A rule names an interface, and waits for `reason`, if it waits.
    fn name(&mut self, interface: &'a str, reason: Option<&'a str>) {
        let first = self.interfaces.entry(interface).or_default();
        *first = first.or(reason);
    }

    /// Why an interface that a rule names is not in use.
    fn interface(&self, name: &str) -> String {
        match self.interfaces.get(name) {
            Some(Some(reason)) => (*reason).to_owned(),
            Some(None) => "the rules that name it wait for other interfaces".into(),
            None => format!("only disabled rules name {}", quoted(name)),
        }
    }
}

/// The status of everything now.
pub fn of(
    observer: &Observer,
    state: &State,
    report: &Report,
    watcher: &Watcher,
    last_change: Option<LastChange>,
    changes: Changes,
) -> Snapshot {
    let waits = Waits::of(state);
    let (problems, problem_count) = problems(observer, state, watcher);
    Snapshot {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        taken_at: snapshot::now(),
        uptime_seconds: report.uptime_seconds,
        state: if problems.is_empty() {
            Health::Healthy
        } else {
            Health::Degraded
        },
        problems,
        problem_count: problem_count as u64,
        changes,
        process: process::now(),
        last_change,
        loops: loops(observer, state),
        interfaces: interfaces(observer, state, &waits, report),
        rules: rules(observer, state, &waits, report),
        totals: Totals {
            packets_received: report.packets_received,
            packets_matched: report.packets_matched,
            packets_sent: report.packets_sent,
            dropped: numbers(&report.dropped),
            dropped_before_rules: numbers(&report.dropped_before_rules),
        },
        rates: observer.rates,
    }
}

/// The loops of rules that are wanted.
fn loops(observer: &Observer, state: &State) -> Vec<LoopStatus> {
    if observer.loops.is_empty() {
        return Vec::new();
    }
    let rules = state.desired.rules().rules.rules.iter();
    let enabled = rules.filter(|rule| rule.enabled);
    let names: HashSet<&str> = enabled.map(|rule| rule.name.as_str()).collect();
    observer.loops.now(|rule| names.contains(rule))
}

fn numbers(named: &Named) -> Numbers {
    let named = named.iter();
    named
        .map(|(&name, &number)| (name.into(), number))
        .collect()
}

/// What does not run, or loses frames, or is in a loop: one sentence per problem, up to a number;
/// and how many problems there are.
pub fn problems(observer: &Observer, state: &State, watcher: &Watcher) -> (Vec<String>, usize) {
    let mut others = Vec::new();
    for worker in &state.running.workers {
        if worker.has_ended() {
            others.push(format!(
                "worker {} ended because of a defect; nothing is relayed from its queues",
                worker.number
            ));
        }
    }
    others.extend(loops(observer, state).iter().map(ToString::to_string));
    others.extend(observer.metrics.clone());
    let silent = observer.silences.now(Instant::now());
    others.extend(silent.iter().take(MOST_PROBLEMS).map(|(rule, time)| {
        let (rule, seconds) = (quoted(rule), time.as_secs_f64());
        format!("rule {rule} is silent: no datagram has come for {seconds:.1} s")
    }));
    let silent_beyond = silent.len().saturating_sub(MOST_PROBLEMS);
    if observer.rates.dropped > 0.0 {
        others.push(format!(
            "{:.0} frames per second are dropped; in all: {}",
            observer.rates.dropped,
            occurred(&observer.dropped)
        ));
    }
    let used = state.running.plan.interfaces.iter();
    for interface in used.filter(|one| watcher.carries(one.index) == Some(false)) {
        others.push(format!("{} is down or has no carrier", interface.name));
    }
    let next_hops = state.running.next_hops.table.all();
    let unresolved = next_hops.iter().filter(|(_, known)| known.mac().is_none());
    for (host, _) in unresolved.take(MOST_PROBLEMS) {
        let interfaces = &state.running.plan.interfaces;
        let mut on = interfaces.iter().filter(|one| one.index == host.interface);
        let on = on
            .next()
            .map_or_else(String::new, |one| format!(" on {}", one.name));
        others.push(format!("next hop {}{on} does not answer", host.address));
    }
    let all = observer.waiting.len() + others.len() + silent_beyond;
    others.truncate(MOST_PROBLEMS);
    let waiting = observer.waiting.iter().take(MOST_PROBLEMS - others.len());
    let mut problems: Vec<String> = waiting.cloned().collect();
    problems.append(&mut others);
    if all > problems.len() {
        problems.push(format!("and {} more", all - problems.len()));
    }
    (problems, all)
}

fn rules(
    observer: &Observer,
    state: &State,
    waits: &Waits<'_>,
    report: &Report,
) -> Vec<RuleStatus> {
    let (meters, now) = (&observer.meters, Instant::now());
    let added = state.desired.added();
    let known = state.running.next_hops.table.all();
    let known: HashMap<OnLink, Known> = known.into_iter().collect();
    let plan = &state.running.plan;
    let flows = plan.flows.iter().map(|flow| (flow.rule.as_str(), flow));
    let flows: HashMap<&str, &Flow> = flows.collect();
    // Those that are enabled, in the same order.
    let mut reports = report.rules.iter();
    let rules = state.desired.rules().rules.rules.iter();
    rules
        .enumerate()
        .map(|(position, rule)| {
            let name = rule.name.as_str();
            let report = if rule.enabled { reports.next() } else { None };
            let seen = meters.of(position);
            let reason = waits.rules.get(name).copied();
            let rule_state = match reason {
                _ if !rule.enabled => snapshot::State::Disabled,
                Some(_) => snapshot::State::Pending,
                None => snapshot::State::Active,
            };
            let output = |(position, output): (usize, &crate::config::rules::Output)| {
                let report = report.and_then(|report| report.outputs.get(position));
                let waits = waits.outputs.get(&(name, position)).copied();
                let arrived = rule.input.matches.vlan;
                let planned = flows.get(name).and_then(|flow| {
                    let at = flow
                        .outputs
                        .binary_search_by_key(&position, |one| one.position);
                    flow.outputs.get(at.ok()?)
                });
                let next_hop = planned.and_then(|output| next_hop(plan, output, &known));
                let (next_hop, mac) = next_hop.unzip();
                let headers = match planned {
                    Some(planned) => {
                        HeaderText::planned(plan, planned, arrived).resolved(mac.flatten())
                    }
                    None => HeaderText::wanted(output, arrived),
                };
                OutputStatus {
                    interface: output.interface.clone().unwrap_or_default(),
                    group: output.group,
                    port: output.port,
                    vlan: output.header.vlan,
                    headers: headers.to_string(),
                    state: match waits {
                        Some(_) if rule.enabled => snapshot::State::Pending,
                        _ => rule_state,
                    },
                    reason: waits.unwrap_or_default().to_owned(),
                    next_hop,
                    packets_sent: report.map_or(0, |report| report.packets_sent),
                    rate: seen.output(position),
                    bit_rate: seen.bit_rate_of_output(position),
                    dropped: report
                        .map(|report| numbers(&report.dropped))
                        .unwrap_or_default(),
                }
            };
            RuleStatus {
                name: rule.name.clone(),
                state: rule_state,
                reason: reason.unwrap_or_default().to_owned(),
                origin: if added.contains(name) {
                    Origin::Runtime
                } else {
                    Origin::File
                },
                interface: rule.input.interface.clone(),
                group: rule.input.matches.group,
                port: rule.input.matches.ports,
                packets_matched: report.map_or(0, |report| report.packets_matched),
                over_limit: report.map_or(0, |report| report.over_limit),
                local_failed: report.map_or(0, |report| report.local_failed),
                bytes_matched: report.map_or(0, |report| report.bytes_matched),
                rate: seen.rate,
                bit_rate: seen.bit_rate,
                last_frame_seconds_ago: seen.last_frame.map(|at| at.elapsed().as_secs_f64()),
                last_frame_at: seen.last_frame_at,
                sources: observer.sources.of(name, now),
                silence: observer.silences.of(name, now),
                feed: report.and_then(|report| report.feed.clone()),
                outputs: rule.outputs.iter().enumerate().map(output).collect(),
            }
        })
        .collect()
}

/// Where the copies of an output leave to, if that is one host, and the host's Ethernet address, if
/// it answers.
fn next_hop(
    plan: &Plan,
    output: &plan::Output,
    known: &HashMap<OnLink, Known>,
) -> Option<(NextHopStatus, Option<[u8; 6]>)> {
    let LinkDestination::NextHop(address) = output.to else {
        return None;
    };
    let interface = plan.interfaces.get(output.interface)?;
    let host = OnLink {
        interface: interface.index,
        address,
    };
    let mac = known.get(&host).and_then(|known| known.mac());
    let status = NextHopStatus {
        interface: interface.name.clone(),
        address,
        mac: mac.map(|mac| Mac(mac).to_string()),
    };
    Some((status, mac))
}

fn interfaces(
    observer: &Observer,
    state: &State,
    waits: &Waits<'_>,
    report: &Report,
) -> Vec<InterfaceStatus> {
    let plan = &state.running.plan;
    let used = report.interfaces.iter().zip(plan.interfaces.iter());
    let mut all: Vec<InterfaceStatus> = used
        .map(|(report, interface)| in_use(observer, report, interface))
        .collect();
    let known: BTreeSet<String> = all.iter().map(|one| one.name.clone()).collect();
    for name in state.desired.interfaces() {
        if !known.contains(&name) {
            all.push(InterfaceStatus {
                reason: waits.interface(&name),
                name,
                index: None,
                state: snapshot::State::Pending,
                driver: None,
                backend: None,
                mode: None,
                engine: None,
                device_dropped: 0,
                missed: 0,
                filter: Numbers::new(),
                latency: None,
            });
        }
    }
    all
}

fn in_use(
    observer: &Observer,
    report: &InterfaceReport,
    interface: &plan::Interface,
) -> InterfaceStatus {
    let path = &report.path;
    InterfaceStatus {
        name: report.name.clone(),
        index: Some(interface.index),
        state: snapshot::State::Active,
        reason: path.reason.clone(),
        driver: Some(interface.driver.clone()),
        backend: Some(path.backend.name().to_owned()),
        mode: path.mode.map(|mode| mode.name().to_owned()),
        engine: path.tx_method.map(|tx_method| tx_method.name().to_owned()),
        device_dropped: report.device_dropped,
        missed: report.missed,
        filter: numbers(&report.filter),
        latency: observer.latencies.of(&report.name, path.backend),
    }
}
