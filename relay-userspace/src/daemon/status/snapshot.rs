//! The status of everything, from the numbers of a report and from what is wanted and waits.

use std::{
    collections::{BTreeSet, HashMap},
    process,
    time::{Duration, Instant},
};

use crate::{
    config::quoted,
    daemon::{reconcile::State, watcher::Watcher},
    observe::{
        report::{InterfaceReport, Named, Report, RuleReport},
        snapshot::{
            self, Health, InterfaceStatus, LastChange, Numbers, Origin, OutputStatus, RuleStatus,
            Snapshot, Totals,
        },
    },
};

/// The least time that rates are taken over.
const SECOND: Duration = Duration::from_millis(900);
/// The most problems that a status names.
const MOST_PROBLEMS: usize = 100;

/// One rule at a moment.
#[derive(Debug, Default, Clone)]
struct Seen {
    matched: u64,
    sent: Vec<u64>,
    /// Per second.
    rate: f64,
    output_rates: Vec<f64>,
    /// When its last frame was seen to have come.
    last_frame: Option<Instant>,
}

/// Numbers of the last second.
#[derive(Debug, Default)]
pub struct Rates {
    at: Option<Instant>,
    received: u64,
    sent: u64,
    dropped: u64,
    rates: snapshot::Rates,
    rules: HashMap<String, Seen>,
}

impl Rates {
    /// Takes a report. Rates are over the time since the last one that was taken a second ago or
    /// earlier.
    pub fn take(&mut self, report: &Report) {
        let now = Instant::now();
        let passed = self.at.map(|at| now.duration_since(at));
        if passed.is_some_and(|passed| passed < SECOND) {
            return;
        }
        let seconds = passed.map_or(f64::INFINITY, |passed| passed.as_secs_f64());
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let dropped = report.total_dropped();
        self.rates = snapshot::Rates {
            packets_received: per_second(report.packets_received, self.received),
            packets_sent: per_second(report.packets_sent, self.sent),
            dropped: per_second(dropped, self.dropped),
        };
        (self.received, self.sent) = (report.packets_received, report.packets_sent);
        (self.at, self.dropped) = (Some(now), dropped);
        let mut before = std::mem::take(&mut self.rules);
        for rule in &report.rules {
            let mut seen = before.remove(&rule.name).unwrap_or_default();
            if rule.packets_matched != seen.matched {
                seen.last_frame = Some(now);
            }
            seen.rate = per_second(rule.packets_matched, seen.matched);
            seen.matched = rule.packets_matched;
            seen.sent.resize(rule.outputs.len(), 0);
            let outputs = rule.outputs.iter().zip(&seen.sent);
            seen.output_rates = outputs
                .map(|(output, &sent)| per_second(output.packets_sent, sent))
                .collect();
            seen.sent = rule.outputs.iter().map(|one| one.packets_sent).collect();
            self.rules.insert(rule.name.clone(), seen);
        }
    }
}

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
                waits.name(&output.interface, reason);
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
    state: &State,
    report: &Report,
    rates: &Rates,
    watcher: &Watcher,
    last_change: Option<LastChange>,
) -> Snapshot {
    let waits = Waits::of(state);
    let rules = rules(state, &waits, report, rates);
    let interfaces = interfaces(state, &waits, report);
    let mut problems = problems(state, report, rates);
    let used = state.running.plan.interfaces.iter();
    for interface in used.filter(|one| watcher.carries(one.index) == Some(false)) {
        problems.push(format!("{} is down or has no carrier", interface.name));
    }
    Snapshot {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: process::id(),
        taken_at: snapshot::now(),
        uptime_seconds: report.uptime_seconds,
        state: if problems.is_empty() {
            Health::Healthy
        } else {
            Health::Degraded
        },
        problems,
        last_change,
        interfaces,
        rules,
        totals: Totals {
            packets_received: report.packets_received,
            packets_matched: report.packets_matched,
            packets_sent: report.packets_sent,
            dropped: numbers(&report.dropped),
        },
        rates: rates.rates,
    }
}

fn numbers(named: &Named) -> Numbers {
    let named = named.iter();
    named
        .map(|(name, number)| ((*name).to_owned(), *number))
        .collect()
}

/// What does not run, or loses frames.
fn problems(state: &State, report: &Report, rates: &Rates) -> Vec<String> {
    let mut problems = state.waiting_lines();
    for worker in &state.running.workers {
        if worker.has_ended() {
            problems.push(format!(
                "worker {} ended because of a defect; nothing is relayed from its queues",
                worker.number
            ));
        }
    }
    if rates.rates.dropped > 0.0 {
        let reasons: Vec<String> = report
            .dropped
            .iter()
            .filter(|&(_, &number)| number > 0)
            .map(|(reason, number)| format!("{reason} {number}"))
            .collect();
        problems.push(format!(
            "{:.0} frames per second are dropped; in all: {}",
            rates.rates.dropped,
            reasons.join(", ")
        ));
    }
    if problems.len() > MOST_PROBLEMS {
        let more = problems.len() - MOST_PROBLEMS;
        problems.truncate(MOST_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    problems
}

fn rules(state: &State, waits: &Waits<'_>, report: &Report, rates: &Rates) -> Vec<RuleStatus> {
    let added = state.desired.added();
    let reports: HashMap<&str, &RuleReport> = report
        .rules
        .iter()
        .map(|rule| (rule.name.as_str(), rule))
        .collect();
    let none = Seen::default();
    let rules = state.desired.rules().rules.rules.iter();
    rules
        .map(|rule| {
            let name = rule.name.as_str();
            let report = reports.get(name);
            let seen = rates.rules.get(name).unwrap_or(&none);
            let reason = waits.rules.get(name).copied();
            let rule_state = match reason {
                _ if !rule.enabled => snapshot::State::Disabled,
                Some(_) => snapshot::State::Pending,
                None => snapshot::State::Active,
            };
            let output = |(position, output): (usize, &crate::config::rules::Output)| {
                let report = report.and_then(|report| report.outputs.get(position));
                let waits = waits.outputs.get(&(name, position)).copied();
                OutputStatus {
                    interface: output.interface.clone(),
                    group: output.group,
                    port: output.port,
                    state: match waits {
                        Some(_) if rule.enabled => snapshot::State::Pending,
                        _ => rule_state,
                    },
                    reason: waits.unwrap_or_default().to_owned(),
                    packets_sent: report.map_or(0, |report| report.packets_sent),
                    rate: seen.output_rates.get(position).copied().unwrap_or(0.0),
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
                group: rule.input.group,
                port: rule.input.port,
                packets_matched: report.map_or(0, |report| report.packets_matched),
                over_limit: report.map_or(0, |report| report.over_limit),
                rate: seen.rate,
                last_frame_seconds_ago: seen.last_frame.map(|at| at.elapsed().as_secs_f64()),
                outputs: rule.outputs.iter().enumerate().map(output).collect(),
            }
        })
        .collect()
}

fn interfaces(state: &State, waits: &Waits<'_>, report: &Report) -> Vec<InterfaceStatus> {
    let plan = &state.running.plan;
    let used = report.interfaces.iter().zip(plan.interfaces.iter());
    let mut all: Vec<InterfaceStatus> = used
        .map(|(report, interface)| in_use(report, interface.index))
        .collect();
    let known: BTreeSet<String> = all.iter().map(|one| one.name.clone()).collect();
    for name in state.desired.interfaces() {
        if !known.contains(&name) {
            all.push(InterfaceStatus {
                reason: waits.interface(&name),
                name,
                index: None,
                state: snapshot::State::Pending,
                backend: None,
                mode: None,
                engine: None,
                device_dropped: 0,
                missed: 0,
                filter: Numbers::new(),
            });
        }
    }
    all
}

fn in_use(report: &InterfaceReport, index: u32) -> InterfaceStatus {
    let path = &report.path;
    InterfaceStatus {
        name: report.name.clone(),
        index: Some(index),
        state: snapshot::State::Active,
        reason: path.reason.clone(),
        backend: Some(path.backend.name().to_owned()),
        mode: path.mode.map(|mode| mode.name().to_owned()),
        engine: path.tx_method.map(|tx_method| tx_method.name().to_owned()),
        device_dropped: report.device_dropped,
        missed: report.missed,
        filter: numbers(&report.filter),
    }
}
