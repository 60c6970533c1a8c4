//! One interface that is followed: asks the kernel about it, and passes the answers to workers, the
//! report, the log and control.

use std::sync::Arc;

use log::debug;

use super::{
    Followed,
    changes::{self, Addresses, Line, Seen},
    mailbox::Events,
};
use crate::{
    datapath::output_link::{Link, State},
    host::{
        device_drops::DeviceDrops,
        rx_missed::Missed,
        watch::{Now, Questions, Queues},
    },
};

/// The counters of an interface's device, which go on when it is followed again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Frames that the device dropped after the kernel had cut them from GSO packets.
    pub drops: DeviceDrops,
    /// Frames that the NIC had no buffer for.
    pub missed: Missed,
}

/// One interface that is followed.
pub struct Watched {
    followed: Followed,
    /// Its state when last seen. `None` once it has gone, until it is followed anew: sockets are
    /// bound to the interface that it was.
    seen: Option<Seen>,
    /// The last notification about its queues.
    queues: Option<Queues>,
    counters: Counters,
}

impl Watched {
    /// The interface as the plan has it, which nobody has looked at yet.
    pub fn new(followed: Followed, mut counters: Counters) -> Self {
        counters.drops.pause(told(&followed.links));
        counters.missed.pause();
        Self {
            seen: Some(Seen::planned(&followed.facts, followed.program)),
            followed,
            queues: None,
            counters,
        }
    }

    /// Follows it for another plan. What changed since it was seen last is still told.
    pub fn follow(&mut self, followed: Followed, questions: &mut Questions, events: &mut Events) {
        let same = |one: &Arc<Link>, other: &Arc<Link>| Arc::ptr_eq(one, other);
        let before = &self.followed.links;
        let stay = |link: &&Arc<Link>| before.iter().any(|old| same(old, link));
        let staying: Vec<Arc<Link>> = followed.links.iter().filter(stay).cloned().collect();
        if staying.len() != before.len() || staying.len() != followed.links.len() {
            // What the links that end have counted.
            self.look(questions, events);
            self.counters.drops.recount(told(&staying));
        }
        match &mut self.seen {
            // It was attached for this plan. What another process detached before is there again,
            // and may be detached again before anyone looks.
            Some(seen) => seen.program = followed.program,
            gone => {
                self.counters.drops.pause(told(&followed.links));
                self.counters.missed.pause();
                *gone = Some(Seen::planned(&followed.facts, followed.program));
            }
        }
        self.followed = followed;
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.followed.facts.name.clone()
    }

    /// It has not gone.
    pub fn is_there(&self) -> bool {
        self.seen.is_some()
    }

    /// It is up and has a carrier, as far as is known.
    pub fn carries(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.state.carries)
    }

    /// The counters of its device.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// It has gone, whatever is there now.
    pub fn lose(&mut self, events: &mut Events) {
        if self.seen.take().is_some() {
            for link in &self.followed.links {
                link.update(|state| State {
                    carries: false,
                    ..state
                });
            }
            events.gone.insert(self.followed.facts.index);
            self.tell(&changes::gone(&self.followed.facts.name), events);
        }
    }

    /// The kernel reported how many queues it has now.
    pub fn has_queues(&mut self, queues: Queues, events: &mut Events) {
        if self.seen.is_some() && self.queues.replace(queues) != Some(queues) {
            self.tell(&changes::queues(&self.followed.facts.name, queues), events);
        }
    }

    /// Asks the kernel for its state, and tells what has changed.
    pub fn look(&mut self, questions: &mut Questions, events: &mut Events) {
        let Some(before) = &self.seen else { return };
        let Followed { facts, links, .. } = &self.followed;
        let known: Vec<State> = links.iter().map(|link| link.state()).collect();
        let now = match questions.link(facts.index) {
            Ok(Some(now)) => now,
            Ok(None) => return self.lose(events),
            Err(error) => {
                debug!("asking for {}: {error}", facts.name);
                return;
            }
        };
        let seen = self.see(before, &now, questions);
        for (link, known) in links.iter().zip(known) {
            link.replace(known, seen.state);
            link.set_gso_limits(now.gso);
        }
        let Counters { drops, missed } = &mut self.counters;
        drops.take(now.tx_dropped, seen.state.is_cut(), told(links));
        missed.take(now.rx_missed);
        let lines = changes::between(facts, before, Some(&seen));
        self.seen = Some(seen);
        for line in lines {
            self.tell(&line, events);
        }
    }

    fn see(&self, before: &Seen, now: &Now, questions: &mut Questions) -> Seen {
        let Followed { facts, program, .. } = &self.followed;
        // If the kernel does not answer, the last answer. Also of an interface that is an input only:
        // outputs may wait for an address there.
        let addresses = Addresses::ask(facts.index, questions).ok();
        let strips_tags = facts.is_input.then(|| questions.strips_tags(facts.index));
        let takes_gso = facts.is_output.then(|| questions.takes_gso(facts.index));
        Seen {
            name: now.name.clone(),
            mac: now.mac.unwrap_or(before.mac),
            is_up: now.is_up,
            addresses: addresses.or_else(|| before.addresses.clone()),
            strips_tags: strips_tags.flatten().unwrap_or(before.strips_tags),
            program: now.program.filter(|_| program.is_some()),
            state: State {
                takes_gso: takes_gso.flatten().unwrap_or(before.state.takes_gso),
                ..linked(now, before.state)
            },
        }
    }

    fn tell(&mut self, line: &Line, events: &mut Events) {
        line.say(&self.followed.facts.name);
        if line.matters {
            events.add(&line.text);
        }
    }
}

/// Drops that the kernel reported to the workers that send through `links`.
fn told(links: &[Arc<Link>]) -> u64 {
    links.iter().map(|link| link.told()).sum()
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
