//! Taps of a worker from control's side: begun and ended while it runs, and what was counted in
//! between.
//!
//! A tap knows slots. It ends before the worker gets a table in which one of these is something
//! else, so it never shows what is not its rule's.

use std::sync::Arc;

use super::{FlowCounters, OutputCounters, Remote};
use crate::datapath::{
    slots::{Entry, OutputIdentity},
    stats::WorkerStats,
    tap::{
        MOST_TAPS, Tap,
        ring::{Reader, ring},
    },
};

/// A tap in one worker.
#[derive(Debug)]
pub(super) struct Begun {
    id: u64,
    rule: String,
    entry: Entry,
    /// The counters when it began.
    before: FlowCounters,
    /// The same when it ended, if it has.
    after: Option<FlowCounters>,
}

/// What a worker had counted when a tap of it began.
#[derive(Debug)]
pub struct Account {
    stats: Arc<WorkerStats>,
    entry: Entry,
    before: FlowCounters,
}

impl Account {
    /// What was counted since, by a worker that has ended: nothing else has its slots.
    #[must_use]
    pub fn of_ended(&self) -> FlowCounters {
        let flow = self.stats.flows.get(self.entry.flow as usize);
        let outputs = self.entry.outputs.iter();
        let outputs =
            outputs.map(|(output, slot)| OutputCounters::read(&self.stats, output, *slot));
        let after = FlowCounters {
            matched: flow.map_or(0, |flow| flow.matched.get()),
            bytes: flow.map_or(0, |flow| flow.bytes.get()),
            local_failed: 0,
            health: None,
            outputs: outputs.collect(),
        };
        since(&self.before, after)
    }
}

/// What a tap is to be of.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Never the same for two taps of a relay.
    pub id: u64,
    /// The rule.
    pub rule: &'a str,
    /// Its outputs, each with the interface of the tap that its copies leave through.
    pub outputs: &'a [(OutputIdentity, u16)],
    /// Bytes of its ring.
    pub ring: usize,
}

/// One worker's part of a tap, for those who read it.
#[derive(Debug)]
pub struct Part {
    /// Its records.
    pub reader: Reader,
    stats: Arc<WorkerStats>,
    missed_before: [u64; 2],
}

impl Part {
    /// Frames that are in no record: those that came in, and those that left or should have.
    #[must_use]
    pub fn lost(&self) -> [u64; 2] {
        let missed = self.stats.outputs.taps().missed();
        let [came, left] = self.reader.lost();
        let [missed_in, missed_out] = missed;
        let [before_in, before_out] = self.missed_before;
        [
            came.saturating_add(missed_in.saturating_sub(before_in)),
            left.saturating_add(missed_out.saturating_sub(before_out)),
        ]
    }
}

impl Remote {
    /// Begins a tap of a rule. `None` if the worker does not have the rule, or has too many taps.
    pub fn begin_tap(&mut self, wanted: &Wanted<'_>) -> Option<(Part, Account)> {
        let entry = self.book.get(wanted.rule)?.clone();
        if self.taps.iter().filter(|tap| tap.after.is_none()).count() >= MOST_TAPS {
            return None;
        }
        let at = |(identity, slot): &(OutputIdentity, u32)| {
            let mut outputs = wanted.outputs.iter();
            let (_, at) = outputs.find(|(output, _)| output == identity)?;
            Some((*slot, *at))
        };
        let outputs = entry.outputs.iter().filter_map(at).collect();
        let (writer, reader) = ring(wanted.ring);
        let tap = Tap::new(wanted.id, entry.flow, 0, outputs, writer);
        let taps = self.stats.outputs.taps();
        let missed_before = taps.missed();
        let before = self.counters(wanted.rule, &entry);
        if !taps.begin(tap) {
            return None;
        }
        let account = Account {
            stats: Arc::clone(&self.stats),
            entry: entry.clone(),
            before: before.clone(),
        };
        self.taps.push(Begun {
            id: wanted.id,
            rule: wanted.rule.to_owned(),
            entry,
            before,
            after: None,
        });
        let part = Part {
            reader,
            stats: Arc::clone(&self.stats),
            missed_before,
        };
        Some((part, account))
    }

    /// Whether a tap goes on: no change of the table has ended it.
    #[must_use]
    pub fn has_tap(&self, id: u64) -> bool {
        let mut taps = self.taps.iter();
        taps.any(|tap| tap.id == id && tap.after.is_none())
    }

    /// Ends a tap, and returns what was counted meanwhile: frames that matched, and the outputs.
    pub fn end_tap(&mut self, id: u64) -> Option<FlowCounters> {
        let at = self.taps.iter().position(|tap| tap.id == id)?;
        let tap = self.taps.swap_remove(at);
        let after = match tap.after {
            Some(after) => after,
            None => {
                self.stats.outputs.taps().end(|other| other == id);
                self.counters(&tap.rule, &tap.entry)
            }
        };
        Some(since(&tap.before, after))
    }

    /// Ends the taps whose slots are something else in the table that is handed over next.
    pub(super) fn end_changed_taps(&mut self) {
        let book = &self.book;
        let stays = |tap: &Begun| {
            book.get(&tap.rule).is_some_and(|entry| {
                entry.flow == tap.entry.flow && entry.outputs == tap.entry.outputs
            })
        };
        let changed = |tap: &&Begun| tap.after.is_none() && !stays(tap);
        let ended: Vec<u64> = self.taps.iter().filter(changed).map(|tap| tap.id).collect();
        if ended.is_empty() {
            return;
        }
        self.stats.outputs.taps().end(|id| ended.contains(&id));
        let counters = |tap: &Begun| self.counters(&tap.rule, &tap.entry);
        let after = self.taps.iter().map(|tap| {
            let ends = ended.contains(&tap.id);
            ends.then(|| counters(tap))
        });
        let after: Vec<_> = after.collect();
        for (tap, after) in self.taps.iter_mut().zip(after) {
            tap.after = tap.after.take().or(after);
        }
    }
}

/// What was counted between two moments.
fn since(before: &FlowCounters, mut after: FlowCounters) -> FlowCounters {
    after.matched = after.matched.saturating_sub(before.matched);
    after.bytes = after.bytes.saturating_sub(before.bytes);
    for output in &mut after.outputs {
        let Some(was) = before.output(&output.output) else {
            continue;
        };
        output.sent = output.sent.saturating_sub(was.sent);
        for (now, was) in output.drops.iter_mut().zip(was.drops) {
            *now = now.saturating_sub(was);
        }
    }
    after
}
