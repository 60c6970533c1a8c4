//! Feeds that have stopped: rules with `silence` whose datagrams do not come any more.
//!
//! The counters of these rules are looked at several times within the shortest silence that any
//! of them names, and those of other rules are left alone. A feed that stops is noticed at most
//! one look late. Nothing is done about it but to say so: no group is left or joined.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    daemon::reconcile::State, datapath::stats::WorkerStats, observe::snapshot::SilenceStatus,
};

/// How many looks there are within a silence.
const LOOKS: u32 = 5;
/// The longest time between two looks.
const LONGEST: Duration = Duration::from_millis(100);

/// The rules that are watched, by name.
#[derive(Debug, Default)]
pub struct Silences {
    rules: HashMap<String, Watched>,
    /// The time between two looks.
    every: Duration,
    /// The next look; `None` if no rule is watched.
    due: Option<Instant>,
}

/// A rule that is watched.
#[derive(Debug)]
struct Watched {
    /// How long no datagram may come.
    after: Duration,
    /// What counts its datagrams: a worker's numbers, and the slot in them. Nothing does if it is
    /// disabled or waits; then it is not silent, because it takes no datagrams.
    cells: Vec<(Arc<WorkerStats>, u32)>,
    /// The sum of these when it was last looked at.
    seen: u64,
    /// When a datagram was last seen to have come; before the first, since when it is watched.
    last: Instant,
    /// Since when it is silent.
    since: Option<Instant>,
    /// How often it became silent.
    times: u64,
}

/// A rule that became silent, or whose datagrams come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The rule.
    pub rule: String,
    /// How long no datagram came; `None` if it has just become silent.
    pub over_after: Option<Duration>,
    /// How long no datagram may come.
    pub after: Duration,
}

impl Silences {
    /// Finds out anew which rules are watched, and where their datagrams are counted. To be called
    /// after each change.
    pub fn arrange(&mut self, state: &State, now: Instant) -> Vec<Turn> {
        // Also in workers that have ended since.
        let turns = self.look_at_all(now);
        let mut before = std::mem::take(&mut self.rules);
        let rules = state.desired.rules().rules.rules.iter();
        for rule in rules {
            let Some(after) = rule.health.silence else {
                continue;
            };
            let cells: Vec<_> = state
                .running
                .workers
                .iter()
                .filter_map(|worker| {
                    let slot = worker.remote.flow_slot(&rule.name)?;
                    Some((Arc::clone(worker.remote.stats()), slot))
                })
                .collect();
            let seen = sum(&cells);
            let one = match before.remove(&rule.name) {
                Some(known) => Watched {
                    after,
                    cells,
                    seen,
                    ..known
                },
                None => Watched {
                    after,
                    cells,
                    seen,
                    last: now,
                    since: None,
                    times: 0,
                },
            };
            self.rules.insert(rule.name.clone(), one);
        }
        let shortest = self.rules.values().map(|rule| rule.after).min();
        self.every = shortest.map_or(LONGEST, |shortest| (shortest / LOOKS).min(LONGEST));
        self.due = shortest.map(|_| now + self.every);
        turns
    }

    /// When the counters are to be looked at next.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks at the counters if that is due. Returns which rules became silent, and of which
    /// datagrams come again.
    pub fn look(&mut self, now: Instant) -> Vec<Turn> {
        if self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.due = Some(now + self.every);
        self.look_at_all(now)
    }

    fn look_at_all(&mut self, now: Instant) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (name, rule) in &mut self.rules {
            if let Some(over_after) = rule.look(now) {
                turns.push(Turn {
                    rule: name.clone(),
                    over_after,
                    after: rule.after,
                });
            }
        }
        turns.sort_unstable_by(|one, other| one.rule.cmp(&other.rule));
        turns
    }

    /// What is known of a rule, if it is watched.
    pub fn of(&self, rule: &str, now: Instant) -> Option<SilenceStatus> {
        let rule = self.rules.get(rule).filter(|rule| !rule.cells.is_empty())?;
        Some(SilenceStatus {
            after_seconds: rule.after.as_secs_f64(),
            silent: rule.since.is_some(),
            seconds: now.saturating_duration_since(rule.last).as_secs_f64(),
            times: rule.times,
        })
    }

    /// The rules that are silent, each with how long no datagram has come, in the order of their
    /// names.
    pub fn now(&self, now: Instant) -> Vec<(&str, Duration)> {
        let rules = self.rules.iter().filter(|(_, rule)| rule.since.is_some());
        let mut silent: Vec<_> = rules
            .map(|(name, rule)| (name.as_str(), now.saturating_duration_since(rule.last)))
            .collect();
        silent.sort_unstable();
        silent
    }
}

impl Watched {
    /// Looks at the counters. `Some(None)` if it becomes silent now, and how long no datagram came
    /// if one comes again.
    fn look(&mut self, now: Instant) -> Option<Option<Duration>> {
        if self.cells.is_empty() {
            (self.last, self.since) = (now, None);
            return None;
        }
        let sum = sum(&self.cells);
        let silent_for = now.saturating_duration_since(self.last);
        // A slot that has another user begins with zero, so the sum may also be lower.
        if sum != std::mem::replace(&mut self.seen, sum) {
            self.last = now;
            return self.since.take().map(|_| Some(silent_for));
        }
        if self.since.is_some() || silent_for < self.after {
            return None;
        }
        self.since = Some(now);
        self.times += 1;
        Some(None)
    }
}

/// How many datagrams were counted.
fn sum(cells: &[(Arc<WorkerStats>, u32)]) -> u64 {
    let counted = cells.iter().map(|(stats, slot)| {
        let flow = stats.flows.get(*slot as usize);
        flow.map_or(0, |flow| flow.matched.get())
    });
    counted.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(after: u64, now: Instant) -> (Watched, Arc<WorkerStats>) {
        let stats = Arc::new(WorkerStats::new(2, 0).unwrap());
        let watched = Watched {
            after: Duration::from_millis(after),
            cells: vec![(Arc::clone(&stats), 1)],
            seen: 0,
            last: now,
            since: None,
            times: 0,
        };
        (watched, stats)
    }

    #[test]
    fn a_rule_is_silent_once_after_its_time_and_no_more_when_a_datagram_comes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut rule, stats) = watched(500, start);
        assert_eq!(rule.look(at(499)), None);
        assert_eq!(
            rule.look(at(500)),
            Some(None),
            "also before the first datagram"
        );
        assert_eq!(rule.look(at(600)), None, "said once");
        stats.flows[1].matched.add(1);
        assert_eq!(rule.look(at(700)), Some(Some(Duration::from_millis(700))));
        assert_eq!(rule.look(at(1_199)), None);
        stats.flows[0].matched.add(1);
        assert_eq!(
            rule.look(at(1_200)),
            Some(None),
            "another flow's count is not its own"
        );
        assert_eq!(rule.times, 2);
        stats.flows[1].matched.set(0);
        assert_eq!(rule.look(at(1_300)), Some(Some(Duration::from_millis(600))));
    }
}
