//! The taps of a running relay: begun and ended by the main thread, read by a thread of the control
//! socket each.
//!
//! A tap never shows what it was not asked for: if a change makes something else of its rule, or of
//! a worker that has the rule, it ends with a sentence, and so it does with the relay. At its end it
//! has what the relay counted while it was on, from the counters that the status is made of.

pub mod judge;
mod passed;
pub mod summary;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use log::Level;

pub use self::passed::Passed;
use self::{
    judge::Judge,
    passed::Judging,
    summary::{OutputSummary, Summary, TapInterface},
};
use super::{
    reconcile::State,
    requests::{Answer, Refusal, TapOutputs, TapRequest},
    running::Running,
};
use crate::{
    config::{
        quoted,
        rules::{GroupPort, OutputVlan},
    },
    datapath::{
        FlowCounters, OutputIdentity,
        remote::taps::{Account, Part, Wanted},
        slots::identities,
        stats::Dropped,
        tap::MOST_TAPS,
    },
    events::Event,
    plan::{self, Plan},
};

/// The target of the lines.
const LOG: &str = module_path!();
/// How long the end of the relay waits for the threads that send the last records.
const FAREWELL: Duration = Duration::from_millis(300);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// All taps that are on.
#[derive(Default)]
pub struct Taps {
    last: u64,
    active: Vec<Active>,
}

/// One of them.
struct Active {
    id: u64,
    began: Instant,
    of: Of,
    shared: Arc<Shared>,
}

/// What it is of.
enum Of {
    /// A rule: its name, by worker what had been counted, and its outputs.
    Rule {
        name: String,
        workers: Vec<(usize, Account)>,
        outputs: Vec<(OutputIdentity, u16)>,
    },
    /// An interface: its index, the plan that its frames are judged by, and what had been counted.
    Passed {
        index: u32,
        name: String,
        plan: Arc<Plan>,
        judging: Judging,
        before: Vec<(&'static str, u64)>,
    },
}

impl Of {
    /// What the log calls it.
    fn what(&self) -> String {
        match self {
            Self::Rule { name, .. } => format!("a tap of rule {}", quoted(name)),
            Self::Passed { name, .. } => {
                format!(
                    "a tap of what the kernel program on {} passes",
                    quoted(name)
                )
            }
        }
    }
}

/// What the main thread tells the thread that reads a tap.
#[derive(Debug, Default)]
struct Shared {
    end: Mutex<Option<Summary>>,
}

/// A tap that began, for the thread that is to read it.
#[derive(Clone)]
pub struct Tapping(Arc<Begun>);

struct Begun {
    id: u64,
    interfaces: Vec<TapInterface>,
    source: Mutex<Option<Source>>,
    shared: Arc<Shared>,
}

/// Where a tap's records come from.
pub enum Source {
    /// The rings of the workers.
    Workers(Vec<Part>),
    /// A packet socket.
    Passed(Box<Passed>),
}

/// A thread that panicked with the lock left the value whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tapping {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The interfaces that its records name by their positions.
    #[must_use]
    pub fn interfaces(&self) -> &[TapInterface] {
        &self.0.interfaces
    }

    /// Where its records come from, once.
    #[must_use]
    pub fn take_source(&self) -> Option<Source> {
        lock(&self.0.source).take()
    }

    /// What was counted, once it has ended.
    #[must_use]
    pub fn end(&self) -> Option<Summary> {
        lock(&self.0.shared.end).take()
    }
}

impl fmt::Debug for Tapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tapping").field(&self.0.id).finish()
    }
}

impl PartialEq for Tapping {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tapping {}

impl Taps {
    /// Begins or ends a tap.
    ///
    /// # Errors
    ///
    /// There is no such rule or interface, or there are too many taps.
    pub fn carry_out(&mut self, request: TapRequest, state: &mut State) -> Result<Answer, Refusal> {
        if let TapRequest::End(id) = request {
            self.end(&mut state.running, |tap, _| {
                (tap.id == id).then(|| "its client has enough".into())
            });
            return Ok(Answer::Confirmed);
        }
        if self.active.len() >= MOST_TAPS {
            return Err(Refusal::CannotTap(format!(
                "{MOST_TAPS} taps are on, and no more may be at once: end one of them first"
            )));
        }
        self.last += 1;
        match request {
            TapRequest::Rule {
                name,
                outputs,
                ring,
            } => self.begin_rule(&name, outputs, ring, state),
            TapRequest::Passed { interface } => self.begin_passed(&interface, &state.running),
            TapRequest::End(_) => Ok(Answer::Confirmed),
        }
    }

    fn begin_rule(
        &mut self,
        name: &str,
        wanted: TapOutputs,
        ring: usize,
        state: &mut State,
    ) -> Result<Answer, Refusal> {
        let rule = state.desired.rules().rules.rules.iter();
        let Some(rule) = rule.clone().find(|rule| rule.name == name) else {
            return Err(Refusal::NoSuchRule(name.to_owned()));
        };
        let count = rule.outputs.len();
        if let TapOutputs::One(number) = wanted
            && !(1..=count).contains(&(number as usize))
        {
            return Err(Refusal::CannotTap(format!(
                "rule {} has {count} outputs, so there is no output {number}; `relay rules {name}` \
                 lists them, the first is 1",
                quoted(name)
            )));
        }
        let (id, running) = (self.last, &mut state.running);
        let plan = Arc::clone(&running.plan);
        let Some(flow) = plan.flows.iter().find(|flow| flow.rule == name) else {
            return Err(Refusal::CannotTap(format!(
                "rule {} does not run now, so there is nothing to see; `relay status` says why",
                quoted(name)
            )));
        };
        let (interfaces, outputs) = described(&plan, flow, wanted);
        let wanted = Wanted {
            id,
            rule: name,
            outputs: &outputs,
            ring,
        };
        let (mut parts, mut workers) = (Vec::new(), Vec::new());
        for worker in &mut running.workers {
            if let Some((part, account)) = worker.remote.begin_tap(&wanted) {
                parts.push(part);
                workers.push((worker.number, account));
            }
        }
        let of = Of::Rule {
            name: name.to_owned(),
            workers,
            outputs,
        };
        Ok(self.begun(of, interfaces, Source::Workers(parts)))
    }

    fn begin_passed(&mut self, name: &str, running: &Running) -> Result<Answer, Refusal> {
        let mut interfaces = running.plan.interfaces.iter();
        let input = interfaces.find(|one| one.name == name && one.is_input);
        let Some(input) = input else {
            return Err(Refusal::CannotTap(format!(
                "no rule that runs has the input {}, so no program of the relay judges frames \
                 there; tcpdump shows what the network stack gets",
                quoted(name)
            )));
        };
        let judge = Judge::new(&running.plan, input);
        let judging = Judging::new(judge);
        let passed = Passed::open(input, judging.clone()).map_err(|error| {
            Refusal::CannotTap(format!(
                "cannot open a packet socket on {}: {error}; give the relay CAP_NET_RAW",
                quoted(name)
            ))
        })?;
        let of = Of::Passed {
            index: input.index,
            name: name.to_owned(),
            plan: Arc::clone(&running.plan),
            judging,
            before: counted(running, input.index),
        };
        let interface = TapInterface {
            name: name.to_owned(),
            output: None,
            label: "what the kernel program passes".into(),
        };
        Ok(self.begun(of, vec![interface], Source::Passed(Box::new(passed))))
    }

    fn begun(&mut self, of: Of, interfaces: Vec<TapInterface>, source: Source) -> Answer {
        let (id, shared) = (self.last, Arc::<Shared>::default());
        let text = format!("{} begins", of.what());
        Event::new(LOG, Level::Info, "taps", &text)
            .turn("begins")
            .say();
        self.active.push(Active {
            id,
            began: Instant::now(),
            of,
            shared: Arc::clone(&shared),
        });
        Answer::Tapping(Tapping(Arc::new(Begun {
            id,
            interfaces,
            source: Mutex::new(Some(source)),
            shared,
        })))
    }

    /// Ends the taps whose rule or interface a change has made something else of, and makes the
    /// others judge by the plan that runs now.
    pub fn follow(&mut self, state: &mut State) {
        if self.active.is_empty() {
            return;
        }
        let rules = &state.desired.rules().rules.rules;
        let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
        let running = &mut state.running;
        let over = |tap: &Active, running: &Running| match &tap.of {
            Of::Rule { name, workers, .. } => {
                let has = running
                    .workers
                    .iter()
                    .filter(|worker| worker.remote.flow_slot(name).is_some())
                    .map(|worker| (worker.number, worker.remote.has_tap(tap.id)));
                let same = has.eq(workers.iter().map(|(number, _)| (*number, true)));
                let is_there = names.contains(&name.as_str());
                (!same).then(|| match is_there {
                    true => format!(
                        "rule {} was changed, or a worker that has it; begin the tap again",
                        quoted(name)
                    ),
                    false => format!("rule {} is gone", quoted(name)),
                })
            }
            Of::Passed { index, name, .. } => {
                let mut interfaces = running.plan.interfaces.iter();
                let is_input = interfaces.any(|one| one.index == *index && one.is_input);
                (!is_input).then(|| format!("no rule has the input {} any more", quoted(name)))
            }
        };
        self.end(running, over);
        for tap in &mut self.active {
            if let Of::Passed {
                index,
                plan,
                judging,
                ..
            } = &mut tap.of
                && !Arc::ptr_eq(plan, &running.plan)
            {
                *plan = Arc::clone(&running.plan);
                let mut interfaces = plan.interfaces.iter();
                if let Some(input) = interfaces.find(|one| one.index == *index) {
                    judging.set(Judge::new(plan, input));
                }
            }
        }
    }

    /// Ends all taps because the relay ends, and gives their readers a moment for the last records.
    pub fn end_all(&mut self, state: &mut State) {
        let shared: Vec<_> = self
            .active
            .iter()
            .map(|tap| Arc::clone(&tap.shared))
            .collect();
        self.end(&mut state.running, |_, _| Some("the relay ends".into()));
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline && shared.iter().any(|one| Arc::strong_count(one) > 1) {
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends the taps that `over` gives a reason for.
    fn end(&mut self, running: &mut Running, over: impl Fn(&Active, &Running) -> Option<String>) {
        let active = std::mem::take(&mut self.active);
        for tap in active {
            match over(&tap, running) {
                Some(reason) => {
                    let text = format!("{} ends: {reason}", tap.of.what());
                    Event::new(LOG, Level::Info, "taps", &text)
                        .turn("ends")
                        .say();
                    let summary = summary(&tap, reason, running);
                    *lock(&tap.shared.end) = Some(summary);
                }
                None => self.active.push(tap),
            }
        }
    }
}

/// What was counted while a tap was on.
fn summary(tap: &Active, reason: String, running: &mut Running) -> Summary {
    let mut summary = Summary {
        reason,
        seconds: tap.began.elapsed().as_secs_f64(),
        ..Summary::default()
    };
    match &tap.of {
        Of::Rule {
            workers, outputs, ..
        } => {
            let output = |(_, at): &(OutputIdentity, u16)| OutputSummary {
                at: *at,
                ..OutputSummary::default()
            };
            summary.outputs = outputs.iter().map(output).collect();
            for (number, account) in workers {
                let mut running = running.workers.iter_mut();
                let worker = running.find(|worker| worker.number == *number);
                let counted = worker.and_then(|worker| worker.remote.end_tap(tap.id));
                let counted = counted.unwrap_or_else(|| account.of_ended());
                add(&mut summary, &counted, outputs);
            }
        }
        Of::Passed { index, before, .. } => {
            let now = counted(running, *index).into_iter().zip(before);
            let since = now
                .map(|((name, now), (_, before))| (name.to_owned(), now.saturating_sub(*before)));
            summary.passed = since.filter(|(_, count)| *count > 0).collect();
        }
    }
    summary
}

fn add(summary: &mut Summary, counted: &FlowCounters, outputs: &[(OutputIdentity, u16)]) {
    summary.matched += counted.matched;
    for ((identity, _), sum) in outputs.iter().zip(&mut summary.outputs) {
        let Some(output) = counted.output(identity) else {
            continue;
        };
        sum.sent += output.sent;
        for (reason, count) in Dropped::ALL.into_iter().zip(output.drops) {
            if count > 0 {
                *sum.dropped.entry(reason.name().to_owned()).or_default() += count;
            }
        }
    }
}

/// What the kernel program has counted on an interface, by the counter's name: what it passed.
fn counted(running: &Running, index: u32) -> Vec<(&'static str, u64)> {
    let counters = running.kernel.counters(index);
    let all = counters.iter().flat_map(judge::passed_counters);
    all.collect()
}

/// The interfaces of a tap of `flow`: the input, and one for each output that is wanted, with the
/// outputs that these are.
fn described(
    plan: &Plan,
    flow: &plan::Flow,
    wanted: TapOutputs,
) -> (Vec<TapInterface>, Vec<(OutputIdentity, u16)>) {
    let name = |id| {
        let interface: Option<&plan::Interface> = plan.interfaces.get(id);
        interface.map_or_else(String::new, |interface| interface.name.clone())
    };
    let rule = quoted(&flow.rule);
    let from = GroupPort(flow.matches.group, flow.matches.ports);
    let mut interfaces = vec![TapInterface {
        name: name(flow.interface),
        output: None,
        label: format!("rule {rule}, input {from}"),
    }];
    let running = flow.outputs.iter().map(|output| {
        let to = (output.group, output.port, output.header.vlan);
        (output.position, name(output.interface), to)
    });
    let pending = flow.pending.iter().map(|output| {
        let to = (output.group, output.port, output.vlan);
        let interface = output.interface.clone().unwrap_or_default();
        (output.position, interface, to)
    });
    let all = running.chain(pending).zip(identities(plan, flow));
    let mut outputs = Vec::new();
    for ((position, name, (group, port, vlan)), identity) in all {
        let number = u32::try_from(position + 1).unwrap_or(u32::MAX);
        let (true, Ok(at)) = (
            wanted == TapOutputs::All || wanted == TapOutputs::One(number),
            u16::try_from(interfaces.len()),
        ) else {
            continue;
        };
        let vlan = match vlan {
            OutputVlan::Untagged => String::new(),
            vlan => format!(", {vlan}"),
        };
        let to = GroupPort(group, port);
        interfaces.push(TapInterface {
            name,
            output: Some(number),
            label: format!("rule {rule}, output {number} to {to}{vlan}"),
        });
        outputs.push((identity, at));
    }
    (interfaces, outputs)
}
