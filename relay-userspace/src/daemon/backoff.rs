//! When the relay tries again to use an interface that the kernel refused.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The wait before the first new attempt; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// The interfaces that were refused, each with its next attempt.
#[derive(Debug, Default)]
pub struct Backoff {
    interfaces: BTreeMap<String, Attempt>,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    wait: Duration,
    /// `None` while the relay tries.
    at: Option<Instant>,
}

impl Backoff {
    /// An attempt failed at `now`: the next one follows later than after the last failure. Returns
    /// after how long.
    pub fn failed(&mut self, interface: &str, now: Instant) -> Duration {
        let wait = match self.interfaces.get(interface) {
            Some(before) => (before.wait * 2).min(LONGEST),
            None => FIRST,
        };
        let at = Some(now + wait);
        self.interfaces
            .insert(interface.to_owned(), Attempt { wait, at });
        wait
    }

    /// Forgets the interfaces that do not `wait` any more: their next failure is a first one.
    pub fn retain(&mut self, waits: impl Fn(&str) -> bool) {
        self.interfaces.retain(|name, _| waits(name));
    }

    /// When the next attempt is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.interfaces.values().filter_map(|one| one.at).min()
    }

    /// The interfaces to try again at `now`. Each is returned once, until it fails again.
    pub fn due(&mut self, now: Instant) -> Vec<String> {
        let due = self.interfaces.iter_mut();
        let due = due.filter(|(_, one)| one.at.is_some_and(|at| at <= now));
        due.map(|(name, one)| {
            one.at = None;
            name.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_start_anew_once_the_interface_is_in_use() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = backoff.failed("in0", start);
            let next = backoff.next().unwrap();
            assert_eq!(next, start + wait);
            waits.push(wait.as_secs());
            assert!(backoff.due(next - Duration::from_millis(1)).is_empty());
            assert_eq!(backoff.due(next), ["in0"]);
            assert_eq!(backoff.next(), None, "it is being tried");
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.retain(|_| false);
        backoff.failed("in0", start);
        assert_eq!(backoff.next(), Some(start + FIRST));
    }

    #[test]
    fn an_interface_waits_for_its_own_attempt_whatever_others_wait_for() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed("in0", start);
        backoff.due(start + FIRST);
        assert_eq!(backoff.failed("in1", start), FIRST);
        assert_eq!(backoff.failed("in0", start + FIRST), 2 * FIRST);
        assert_eq!(backoff.next(), Some(start + FIRST), "that of in1");
    }
}
