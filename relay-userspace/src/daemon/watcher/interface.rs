//! One interface of the plan: asks the kernel about it, and passes the answers to workers, the
//! report and the log.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use log::debug;

use super::{budget::Budget, changes, changes::Seen};
use crate::{
    datapath::output_link::{Link, State},
    host::{
        device_drops::DeviceDrops,
        rx_missed::Missed,
        watch::{Now, Questions},
    },
    plan::Interface,
};

/// One interface of the plan.
pub struct Watched {
    facts: Interface,
    /// The XDP program that the relay attached.
    program: Option<u32>,
    /// The link states of it that workers read.
    links: Vec<Arc<Link>>,
    /// Its state when last seen. `None` once it has gone, for good: sockets are bound to the
    /// interface that it was.
    seen: Option<Seen>,
    /// The index of a new interface with its name.
    again: Option<u32>,
    drops: DeviceDrops,
    missed: Missed,
    lines: Budget,
}

impl Watched {
    /// The interface as the plan has it. `program` is the id of the XDP program that the relay
    /// attached, `links` are all link states that workers read.
    pub fn new(facts: &Interface, program: Option<u32>, links: &[Arc<Link>]) -> Self {
        let mine = links.iter().filter(|link| link.index() == facts.index);
        Self {
            facts: facts.clone(),
            program,
            links: mine.cloned().collect(),
            seen: Some(Seen::planned(facts, program)),
            again: None,
            drops: DeviceDrops::default(),
            missed: Missed::default(),
            lines: Budget::new(Instant::now()),
        }
    }

    /// The kernel's index.
    pub fn index(&self) -> u32 {
        self.facts.index
    }

    /// See [`DeviceDrops::frames`].
    pub fn device_dropped(&self) -> u64 {
        self.drops.frames()
    }

    /// See [`Missed::frames`].
    pub fn missed(&self) -> u64 {
        self.missed.frames()
    }

    /// Asks the kernel for its state, and logs what has changed.
    pub fn look(&mut self, questions: &mut Questions) {
        let Some(before) = &self.seen else { return };
        let known: Vec<State> = self.links.iter().map(|link| link.state()).collect();
        let now = match questions.link(self.facts.index) {
            Ok(now) => now,
            Err(error) => {
                debug!("asking for {}: {error}", self.facts.name);
                return;
            }
        };
        let seen = now.as_ref().map(|now| self.see(before, now, questions));
        for (link, known) in self.links.iter().zip(known) {
            let gone = State {
                carries: false,
                ..known
            };
            link.replace(known, seen.as_ref().map_or(gone, |seen| seen.state));
        }
        if let (Some(seen), Some(now)) = (&seen, &now) {
            self.links
                .iter()
                .for_each(|link| link.set_gso_limits(now.gso));
            let told = self.links.iter().map(|link| link.told()).sum();
            self.drops.take(now.tx_dropped, seen.state.is_cut(), told);
            self.missed.take(now.rx_missed);
        }
        for line in changes::between(&self.facts, before, seen.as_ref()) {
            self.lines.say(Instant::now(), line);
        }
        self.seen = seen;
    }

    fn see(&self, before: &Seen, now: &Now, questions: &mut Questions) -> Seen {
        let index = self.facts.index;
        let has_address = match (self.facts.is_output, self.facts.address) {
            (true, Some(address)) => questions
                .addresses(index)
                .map_or(before.has_address, |all| all.contains(&address)),
            _ => true,
        };
        let takes_gso = self.facts.is_output.then(|| questions.takes_gso(index));
        Seen {
            name: now.name.clone(),
            mac: now.mac.unwrap_or(before.mac),
            is_up: now.is_up,
            has_address,
            program: now.program.filter(|_| self.program.is_some()),
            state: State {
                // If the kernel does not answer, the last answer.
                takes_gso: takes_gso.flatten().unwrap_or(before.state.takes_gso),
                ..linked(now, before.state)
            },
        }
    }

    /// Once this interface has gone, logs each new interface with its name, once. `named` has the
    /// index of the interface that was last given each name.
    pub fn look_for_another(&mut self, named: &BTreeMap<String, u32>, questions: &mut Questions) {
        let Some(&index) = named.get(&self.facts.name) else {
            return;
        };
        if self.seen.is_none()
            && self.again != Some(index)
            // The last news of the old one may come together with those of its end.
            && let Ok(Some(now)) = questions.link(index)
            && now.name == self.facts.name
        {
            self.again = Some(index);
            let line = changes::there_again(&self.facts, index);
            self.lines.say(Instant::now(), line);
        }
    }

    /// Logs how many lines were withheld, as soon as the budget allows it.
    pub fn tick(&mut self) {
        self.lines.tick(Instant::now(), &self.facts.name);
    }
}

/// The state that a link reports; the rest as it was `before`.
pub fn linked(now: &Now, before: State) -> State {
    State {
        mtu: now.mtu,
        queueless: match now.qdisc.as_str() {
            // An interface that is down has no queueing discipline of its own.
            "noop" => before.queueless,
            name => name == "noqueue",
        },
        carries: now.is_up && now.carries,
        ..before
    }
}
