//! Outputs of running rules that wait for their interface, or for a route: what they miss is
//! counted.
//!
//! Each frame of the rule misses such an output. That costs nothing per frame: the frames are those
//! that the rule matched since the table with the waiting output was taken, so their number is the
//! difference of two counters. Only the worker knows the first of them exactly, since it takes a
//! table between two batches.

use super::stats::{Count, Dropped, WorkerStats};

/// Frames that a flow has matched.
fn matched(flow: u32, stats: &WorkerStats) -> u64 {
    let flow = stats.flows.get(flow as usize);
    flow.map_or(0, |flow| flow.matched.get())
}

/// One output that waits.
#[derive(Debug)]
struct One {
    /// The slot of its flow.
    flow: u32,
    /// Its own slot.
    output: u32,
    /// Why it misses them.
    reason: Dropped,
    /// Frames that the flow had matched when the output began to wait.
    since: Count,
}

impl One {
    fn missed(&self, stats: &WorkerStats) -> u64 {
        let matched = matched(self.flow, stats);
        matched.saturating_sub(self.since.get())
    }
}

/// The outputs of one table that wait, in the order of their slots.
#[derive(Debug, Default)]
pub struct Waiting(Box<[One]>);

impl Waiting {
    /// Outputs that wait from now on: the slots of the flow and of the output of each, and under
    /// what its frames count.
    pub fn new(outputs: impl Iterator<Item = (u32, u32, Dropped)>, stats: &WorkerStats) -> Self {
        let one = |(flow, output, reason): (u32, u32, Dropped)| {
            let since = Count::default();
            since.set(matched(flow, stats));
            One {
                flow,
                output,
                reason,
                since,
            }
        };
        let mut all: Box<[One]> = outputs.map(one).collect();
        all.sort_unstable_by_key(|one| one.output);
        Self(all)
    }

    /// The worker takes the table: what comes from now on is missed.
    pub fn begin(&self, stats: &WorkerStats) {
        for one in &self.0 {
            let matched = matched(one.flow, stats);
            one.since.set(matched);
        }
    }

    /// The worker has this table no more: counts what was missed.
    pub fn end(&self, stats: &WorkerStats) {
        for one in &self.0 {
            let missed = one.missed(stats);
            if let Some(output) = stats.outputs.get(one.output as usize) {
                output.drops.add(one.reason, missed);
            }
            // What follows is counted by the next table.
            one.since.add(missed);
        }
    }

    /// What the output with this slot misses so far, beyond what is counted, and under what it
    /// counts; `None` if it does not wait.
    pub fn missed(&self, output: u32, stats: &WorkerStats) -> Option<(Dropped, u64)> {
        let found = self.0.binary_search_by_key(&output, |one| one.output);
        let one = found.ok().and_then(|at| self.0.get(at))?;
        Some((one.reason, one.missed(stats)))
    }

    /// What all of them miss so far, beyond what is counted, one by one.
    pub fn all_missed(&self, stats: &WorkerStats) -> impl Iterator<Item = (Dropped, u64)> {
        self.0.iter().map(|one| (one.reason, one.missed(stats)))
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_waiting_output_misses_is_counted_once_over_changes_of_the_table() {
        let stats = WorkerStats::new(2, 3).unwrap();
        let matches = |frames| stats.flows.get(1).unwrap().matched.add(frames);
        let counted = || stats.outputs.get(2).unwrap().drops_by_reason()[Dropped::NoRoute as usize];
        let missed = |waiting: &Waiting| waiting.missed(2, &stats).unwrap();
        let waiting = (1, 2, Dropped::NoRoute);
        matches(5);
        let first = Waiting::new([waiting].into_iter(), &stats);
        matches(7);
        first.begin(&stats);
        matches(10);
        assert_eq!((missed(&first), counted()), ((Dropped::NoRoute, 10), 0));
        assert_eq!(first.missed(1, &stats), None, "that one does not wait");
        let second = Waiting::new([waiting].into_iter(), &stats);
        matches(3);
        first.end(&stats);
        second.begin(&stats);
        matches(4);
        assert_eq!((missed(&second), counted()), ((Dropped::NoRoute, 4), 13));
        second.end(&stats);
        matches(100);
        assert_eq!(counted(), 17);
    }
}
