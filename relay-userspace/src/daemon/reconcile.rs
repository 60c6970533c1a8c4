//! From what the operator wants and what the host offers to what runs: one path for the start, for
//! reloads, for commands and for interfaces that come and go.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use log::Level::{Info, Warn};
use relay_common::abi::MAX_INTERFACES;

use super::{
    backoff::Backoff,
    claim::{self, ClaimError},
    descriptors,
    desired::Desired,
    error::RunError,
    refusals::{self, Rung},
    running::{Applied, Running},
    signals::Signals,
    this_machine,
};
use crate::{
    config::{Mistakes, quoted, rules::Offloads},
    events::Event,
    host::HostFacts,
    plan::{self, Arrangement, Backend, Constraints, Plan, Refusal},
};

/// What happens where the kernel refuses a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRefusal {
    /// The rules of the interface wait, and the relay tries again later.
    Wait,
    /// The change is refused, and all is as before.
    Restore,
}

/// How often the relay looks whether another one has released an interface that it waits for: so
/// one that stands by takes over at once.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long after the kernel did not answer the relay asks again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The most lines about what waits that one change logs.
const SHOWN: usize = 10;
/// The target of the lines.
const LOG: &str = module_path!();

/// What is wanted, what the host offers, and what runs.
pub struct State {
    pub desired: Desired,
    pub facts: HostFacts,
    pub constraints: Constraints,
    pub running: Running,
    /// What waits, beside the plan that was made with it.
    pub arrangement: Arrangement,
    pub backoff: Backoff,
    /// The interfaces that another relay held at the last attempt, by name and index.
    held: BTreeMap<String, u32>,
    /// When to look next whether it has released one.
    look_at: Instant,
    /// When to ask the kernel again, which did not answer.
    ask_again: Option<Instant>,
}

impl State {
    /// Nothing runs yet.
    pub fn new(desired: Desired, forced: Option<Backend>) -> Self {
        Self {
            facts: HostFacts::default(),
            constraints: Constraints {
                forced,
                ..Constraints::default()
            },
            running: Running::nothing(),
            arrangement: Arrangement::default(),
            backoff: Backoff::default(),
            held: BTreeMap::new(),
            look_at: Instant::now(),
            ask_again: None,
            desired,
        }
    }

    /// Asks the kernel anew about every interface that a rule names. What the kernel refused on an
    /// interface may be tried again if that has changed since: a rung of the ladder if something
    /// has changed that the refusal may depend on, and the interface as a whole after any change.
    /// Where the kernel does not answer, what was known stands, and the relay asks again soon.
    pub fn refresh(&mut self) {
        let facts = this_machine::host_facts(self.desired.rules(), &self.running.in_use());
        self.ask_again = facts.refusal().map(|refusal| {
            let text = format!(
                "{refusal}; what is known of the interfaces stands, and the relay asks again"
            );
            Event::new(LOG, Warn, "unanswered questions", &text).say();
            Instant::now() + ASK_AGAIN
        });
        let mut facts = facts.or_known(&self.facts);
        facts.bystanders.leave_out(self.running.joined());
        facts.bystanders.leave_out_ports(self.running.held_ports());
        self.keep_followed(&mut facts);
        let stay = self.running.offloads.leave_out_of(&mut facts);
        let both = |refusal: &Refusal| {
            let name = &refusal.interface;
            (facts.interfaces.get(name), self.facts.interfaces.get(name))
        };
        // A refused rung pauses rules that run without it when it is tried again.
        let keep_rung = |refusal: &Refusal| match both(refusal) {
            (Some(now), Some(before)) => refusals::may_stand(now, before),
            (now, before) => now.is_none() && before.is_none(),
        };
        self.constraints.refused.retain(keep_rung);
        self.constraints.without_zero_copy.retain(keep_rung);
        self.constraints.without_local_device.retain(keep_rung);
        self.constraints.unavailable.retain(|refusal| {
            let (now, before) = both(refusal);
            now == before
        });
        // Another process's choice counts until the offloads are off.
        self.constraints.offloads_stay.retain(|refusal| {
            let [before, now] = [&self.facts, &facts].map(|all| {
                let facts = all.interfaces.get(&refusal.interface)?;
                Some((facts.index, &facts.offloads))
            });
            before == now
        });
        self.constraints.offloads_stay.extend(stay);
        self.facts = facts;
    }

    /// What is known of the host, for [`Self::know`].
    #[must_use]
    pub fn known(&self) -> Known {
        Known {
            facts: self.facts.clone(),
            constraints: self.constraints.clone(),
        }
    }

    /// Goes back to what was known before other rules were tried: what the kernel has refused on
    /// interfaces that those do not name stands.
    pub fn know(&mut self, known: Known) {
        self.facts = known.facts;
        self.constraints = known.constraints;
    }

    /// Gives back what relays that were killed have left switched off, unless the rules want it
    /// off.
    pub fn give_back_offloads_left(&mut self) {
        let rules = &self.desired.rules().rules;
        let managed = rules.interfaces.iter();
        let managed = managed.filter(|options| options.offloads == Offloads::Manage);
        let managed = managed.map(|options| options.name.as_str()).collect();
        self.running.offloads.give_back_left(&managed);
    }

    /// Keeps what workers follow by themselves while they run: whether devices in use take GSO
    /// packets. A new plan would pause what a worker does without.
    fn keep_followed(&self, facts: &mut HostFacts) {
        for interface in &self.running.plan.interfaces {
            let now = facts.interfaces.get_mut(&interface.name);
            let before = self.facts.interfaces.get(&interface.name);
            if let (Some(now), Some(before)) = (now, before)
                && now.index == interface.index
                && before.index == interface.index
            {
                now.segments_udp = before.segments_udp;
                now.queueless = before.queueless;
                now.gso = before.gso;
            }
        }
    }

    /// The names of interfaces from which another process has detached the relay's XDP program.
    #[must_use]
    pub fn detached_by_force(&self) -> Vec<&str> {
        let kernel = &self.running.kernel;
        let attached = kernel.attached();
        let interfaces = self.running.plan.interfaces.iter();
        let detached = interfaces.filter(|one| {
            let now = self.facts.interfaces.get(&one.name);
            now.is_some_and(|now| now.index == one.index)
                && attached.contains(&one.index)
                && !kernel.is_attached(one.index)
        });
        detached.map(|one| one.name.as_str()).collect()
    }

    /// Makes `desired` run as far as the host offers what it needs.
    ///
    /// # Errors
    ///
    /// A mistake in the rules, or a missing privilege; with [`OnRefusal::Restore`] also the
    /// kernel's refusal of a step, after which what ran before runs again as far as the kernel lets
    /// it.
    pub fn reconcile(&mut self, policy: OnRefusal, signals: &Signals) -> Result<Applied, RunError> {
        let former = Arc::clone(&self.running.plan);
        // Every round takes something off one interface: zero copy, XDP, the way back to this
        // host's stack, or the interface.
        let rounds = 4 * MAX_INTERFACES as usize + 1;
        for _ in 0..rounds {
            self.constraints.in_use = self.running.in_use();
            let arrangement = self.arrange()?;
            let next = Arc::clone(&arrangement.plan);
            let refused = match self.running.apply(&next, signals) {
                Ok(applied) => {
                    for note in &next.notes {
                        if applied.changed && !former.notes.contains(note) {
                            Event::new(LOG, Info, "notes", note).by_text().say();
                        }
                    }
                    self.arrangement = arrangement;
                    self.settle_backoff();
                    let wanted = self.desired.rules().rules.rules.iter();
                    let wanted: HashSet<&str> = wanted.map(|rule| rule.name.as_str()).collect();
                    let totals = &mut self.running.totals;
                    totals.forget_rules(|rule| wanted.contains(rule));
                    return Ok(applied);
                }
                Err(error) => error,
            };
            if self.step_down(&refused, &next) {
                continue;
            }
            let interface = refusals::interface(&refused).map(str::to_owned);
            match (policy, interface.or_else(|| self.running.take_culprit())) {
                (OnRefusal::Wait, Some(interface)) => self.wait_for(interface, &refused),
                (OnRefusal::Wait, None) => return Err(refused),
                (OnRefusal::Restore, _) => {
                    match self.running.apply(&former, signals) {
                        Ok(applied) if !applied.paused.is_empty() => {
                            let pauses = applied.pauses().join("; ");
                            let text = format!("{pauses}, for a change that was refused");
                            Event::new(LOG, Warn, "refusal", &text).by_text().say();
                        }
                        Ok(_) => {}
                        Err(error) => {
                            let interface = refusals::interface(&error).unwrap_or_default();
                            let text =
                                format!("{error}. So not all runs that ran before the change");
                            say_refusal(interface, &text);
                        }
                    }
                    return Err(refused);
                }
            }
        }
        Err(RunError::Unsettled)
    }

    /// Goes down the ladder on the interface where the kernel refused a rung. False if no lower
    /// rung would help.
    fn step_down(&mut self, refused: &RunError, plan: &Plan) -> bool {
        let Some((name, rung)) = refusals::rung(refused, plan) else {
            return false;
        };
        let refusal = Refusal {
            interface: name.to_owned(),
            reason: refused.to_string(),
        };
        match rung {
            Rung::ZeroCopy => {
                let text = format!(
                    "{refused}. Zero copy was tried on {name}; the relay goes on without it there"
                );
                say_refusal(name, &text);
                self.constraints.without_zero_copy.push(refusal);
                true
            }
            Rung::Offloads => {
                let text = format!("{refused}. The relay goes on with the offloads as they are");
                say_refusal(name, &text);
                self.constraints.offloads_stay.push(refusal);
                true
            }
            Rung::Local => {
                let text = format!("{refused}. On io_uring this host gets them anyway");
                say_refusal(name, &text);
                self.constraints.without_local_device.push(refusal);
                true
            }
            Rung::Xdp if self.constraints.forced.is_none() && self.facts.gso_packets => {
                let text = format!(
                    "{refused}. XDP was tried on {name}; io_uring takes over there, and on all \
                     interfaces that rules connect with it"
                );
                say_refusal(name, &text);
                self.constraints.refused.push(refusal);
                true
            }
            Rung::Xdp => false,
        }
    }

    /// Leaves an interface alone until the next attempt.
    fn wait_for(&mut self, interface: String, refused: &RunError) {
        let wait = self.backoff.failed(&interface, Instant::now());
        let seconds = wait.as_secs();
        let name = &interface[..];
        if let RunError::Claim(ClaimError::Held { .. }) = refused
            && let Some(facts) = self.facts.interfaces.get(name)
        {
            self.held.insert(interface.clone(), facts.index);
        }
        let text = format!("{refused}. The rules of {interface} wait; trying again in {seconds} s");
        say_refusal(name, &text);
        self.constraints.unavailable.push(Refusal {
            interface,
            reason: refused.to_string(),
        });
    }

    /// When interfaces may be tried again.
    pub fn next_retry(&self) -> Option<Instant> {
        let look_at = (!self.held.is_empty()).then_some(self.look_at);
        let others = [look_at, self.ask_again, self.backoff.next()];
        others.into_iter().flatten().min()
    }

    /// Lets interfaces be tried again whose time has come, and those that another relay has
    /// released. False if there is none, and the kernel need not be asked again either.
    pub fn retry_due(&mut self, now: Instant) -> bool {
        let mut due = self.backoff.due(now);
        if !self.held.is_empty() && self.look_at <= now {
            self.look_at = now + LOOK_EVERY;
            let claimed = claim::claimed();
            let released = self.held.iter();
            let released = released.filter(|&(_, index)| !claimed.contains(index));
            due.extend(released.map(|(name, _)| name.clone()));
        }
        self.held.retain(|name, _| !due.contains(name));
        let unavailable = &mut self.constraints.unavailable;
        unavailable.retain(|refusal| !due.contains(&refusal.interface));
        let ask_again = self.ask_again.take_if(|at| *at <= now).is_some();
        ask_again || !due.is_empty()
    }

    /// Forgets the failures of interfaces that are in use now, or that no rule wants any more.
    fn settle_backoff(&mut self) {
        let waiting: BTreeSet<&str> = self
            .constraints
            .unavailable
            .iter()
            .map(|refusal| refusal.interface.as_str())
            .collect();
        self.backoff.retain(|name| waiting.contains(name));
        self.held.retain(|name, _| waiting.contains(&name[..]));
    }

    /// What the rules would become, for a dry run: the workers that would end and start.
    ///
    /// # Errors
    ///
    /// A mistake that no interface is to blame for.
    pub fn foresee(&mut self) -> Result<Foreseen, RunError> {
        self.constraints.in_use = self.running.in_use();
        let arrangement = self.arrange()?;
        Ok(Foreseen {
            pauses: self.running.would_pause(&arrangement.plan),
            waiting: waiting_lines(&arrangement),
        })
    }

    /// What of the rules can run now.
    fn arrange(&self) -> Result<Arrangement, Mistakes> {
        plan::arrange(self.desired.rules(), &self.facts, &self.constraints)
    }

    /// Fails if what can run takes more open files than this process may have, and, if the start is
    /// to be `strict`, if anything would wait.
    ///
    /// # Errors
    ///
    /// A mistake that no interface is to blame for, or the limit; if strict, every mistake that
    /// keeps the rules from running on this machine, each with its place.
    pub fn check_start(&self, strict: bool) -> Result<(), RunError> {
        if strict {
            let rules = self.desired.rules().enabled();
            plan::build(&rules, &self.facts, &self.constraints)?;
        }
        let arrangement = self.arrange()?;
        let waiting = waiting_lines(&arrangement);
        if strict && !waiting.is_empty() {
            return Err(RunError::Waiting(waiting.join("; ")));
        }
        let needed = descriptors::needed(&arrangement.plan);
        Ok(descriptors::check("running these rules", needed)?)
    }

    /// How many rules and outputs wait; a rule that waits as a whole counts once.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting_lines().len()
    }

    /// The rules and outputs that wait, one line each.
    #[must_use]
    pub fn waiting_lines(&self) -> Vec<String> {
        waiting_lines(&self.arrangement)
    }

    /// Logs what waits now and did not `before`, and how many do not wait any more.
    pub fn log_waiting_since(&self, before: &[String]) {
        let now: Vec<_> = waiting(&self.arrangement).collect();
        let was: HashSet<&String> = before.iter().collect();
        let is: HashSet<&String> = now.iter().map(|(_, line)| line).collect();
        let new: Vec<_> = now.iter().filter(|(_, line)| !was.contains(line)).collect();
        for (rule, line) in new.iter().take(SHOWN) {
            Event::new(LOG, Info, "waiting", line)
                .rule(rule)
                .by_text()
                .say();
        }
        if new.len() > SHOWN {
            let more = new.len() - SHOWN;
            let text = format!("and {more} more wait; `relay status` lists them");
            Event::new(LOG, Info, "many waiting", &text).say();
        }
        let gone = before.iter().filter(|line| !is.contains(line)).count();
        if gone > 0 && now.is_empty() {
            Event::new(LOG, Info, "waiting", "all rules run").say();
        }
    }
}

/// Logs that the kernel refused something on an interface, and what the relay does without.
fn say_refusal(interface: &str, text: &str) {
    Event::new(LOG, Warn, "refusal", text)
        .interface(interface)
        .by_text()
        .say();
}

/// The rules and outputs of `arrangement` that wait, one line each.
fn waiting_lines(arrangement: &Arrangement) -> Vec<String> {
    waiting(arrangement).map(|(_, line)| line).collect()
}

/// The rules and outputs of `arrangement` that wait: the rule's name, and a line; those of a rule
/// that waits as a whole only once.
fn waiting(arrangement: &Arrangement) -> impl Iterator<Item = (&str, String)> {
    let rules: HashSet<&str> = arrangement
        .pending_rules
        .iter()
        .map(|(rule, _)| rule.as_str())
        .collect();
    let whole = arrangement.pending_rules.iter().map(|(rule, reason)| {
        let line = format!("rule {} waits: {reason}", quoted(rule));
        (rule.as_str(), line)
    });
    let outputs = arrangement.pending_outputs.iter();
    let outputs = outputs.filter(move |(rule, ..)| !rules.contains(rule.as_str()));
    let outputs = outputs.map(|(rule, position, reason)| {
        let line = format!(
            "output {} of rule {} waits: {reason}",
            position + 1,
            quoted(rule)
        );
        (rule.as_str(), line)
    });
    whole.chain(outputs)
}

/// What was known of the host at a time, and what the kernel had refused.
#[derive(Debug)]
pub struct Known {
    facts: HostFacts,
    constraints: Constraints,
}

/// What a change would do.
#[derive(Debug)]
pub struct Foreseen {
    /// The interfaces whose rules would pause, each with why.
    pub pauses: Vec<String>,
    /// What would wait.
    pub waiting: Vec<String>,
}
