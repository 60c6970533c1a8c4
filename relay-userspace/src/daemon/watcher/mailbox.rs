//! What the watcher tells control: that facts have changed on which a plan depends.
//!
//! It does not hand over the facts: control reads them anew. So a mailbox that is emptied rarely
//! does not grow, and what changed twice is told once.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::host::Bell;

/// The most reasons that wait. More would tell an operator nothing, and all are in the log.
const MOST_REASONS: usize = 16;

/// What has happened since the last look into the mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// Something has changed on which a plan depends: make it anew.
    pub changed: bool,
    /// What has changed, one sentence per change, in order; at most 16, and the further ones are
    /// left out.
    pub why: Vec<String>,
    /// The followed interfaces that have gone, by index. One that is there again, with the same
    /// index, is among them: its sockets, its XDP program and its memberships went with it.
    pub gone: BTreeSet<u32>,
    /// Next hops are to be resolved, or resolved anew.
    pub unresolved: bool,
    /// News of next hops may be missing.
    pub doubt_next_hops: bool,
    /// The kernel dropped notifications. The watcher has asked for everything anew, and told here
    /// what it found; only what came and went meanwhile may be missing.
    pub lost: bool,
}

impl Events {
    /// Adds one change.
    pub(super) fn add(&mut self, why: &str) {
        self.changed = true;
        if self.why.len() < MOST_REASONS && !self.why.iter().any(|known| known == why) {
            self.why.push(why.to_owned());
        }
    }

    fn append(&mut self, newer: Self) {
        self.changed |= newer.changed;
        self.lost |= newer.lost;
        self.unresolved |= newer.unresolved;
        self.doubt_next_hops |= newer.doubt_next_hops;
        self.gone.extend(newer.gone);
        for why in &newer.why {
            self.add(why);
        }
    }
}

/// Where the watcher leaves its events for control.
#[derive(Debug)]
pub(super) struct Mailbox {
    events: Mutex<Events>,
    bell: Bell,
}

impl Mailbox {
    /// An empty one. `bell` rings when there is something in it.
    pub(super) fn new(bell: Bell) -> Self {
        Self {
            events: Mutex::default(),
            bell,
        }
    }

    /// Adds `newer`, and rings if it is anything.
    pub(super) fn put(&self, newer: Events) {
        if newer != Events::default() {
            self.lock().append(newer);
            self.bell.ring();
        }
    }

    /// Empties it.
    pub(super) fn take(&self) -> Events {
        std::mem::take(&mut *self.lock())
    }

    /// A thread that panicked with the lock left the events whole: every change is one step.
    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_says_each_thing_once() {
        let mailbox = Mailbox::new(Bell::new().unwrap());
        assert_eq!(mailbox.take(), Events::default());
        for number in 0..100 {
            let mut events = Events::default();
            events.add(&format!("eth{} has gone", number / 2));
            events.gone.insert(number % 3);
            mailbox.put(events);
        }
        let events = mailbox.take();
        assert!(events.changed && !events.lost);
        assert_eq!(events.why.len(), MOST_REASONS);
        assert_eq!(events.why[1], "eth1 has gone");
        assert_eq!(events.gone.len(), 3);
        assert_eq!(mailbox.take(), Events::default());
    }
}
