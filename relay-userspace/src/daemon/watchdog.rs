//! Notices a worker that hangs.
//!
//! A worker counts its rounds, also while nothing arrives: it sleeps for 100 ms at most. Control
//! compares the counts whenever it turns itself. Time in which control did not turn counts only in
//! part: after a standstill of the whole process (SIGSTOP, a suspended machine) nothing hangs.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a worker may stand still where no service manager watches.
pub const LIMIT: Duration = Duration::from_secs(10);

/// How often control checks, unless the service manager's watchdog asks for more.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What the workers' counts of rounds say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Every worker has turned since the last check.
    AllTurn,
    /// A worker has not turned since the last check, which proves nothing yet.
    Unsure,
    /// A worker has stood still for longer than the limit.
    Hangs {
        /// Its name.
        worker: String,
        /// For how long.
        time: Duration,
    },
}

/// Compares the workers' counts of rounds.
#[derive(Debug)]
pub struct Watchdog {
    /// How long a worker may stand still.
    limit: Duration,
    /// The time between two checks.
    period: Duration,
    started: Instant,
    checked: Option<Instant>,
    workers: BTreeMap<String, Turning>,
}

/// A worker at the last check.
#[derive(Debug, Clone, Copy)]
struct Turning {
    rounds: u64,
    /// How long it has stood still.
    still: Duration,
}

impl Watchdog {
    /// One that lets a worker stand still for [`LIMIT`]. Under a service manager whose watchdog has
    /// an `interval`, for less than that, so that the relay names the worker before the service
    /// manager ends it.
    #[must_use]
    pub fn new(interval: Option<Duration>) -> Self {
        Self {
            limit: interval.map_or(LIMIT, |interval| LIMIT.min(interval * 3 / 4)),
            period: interval.map_or(CHECK_EVERY, |interval| CHECK_EVERY.min(interval / 4)),
            started: Instant::now(),
            checked: None,
            workers: BTreeMap::new(),
        }
    }

    /// When the next check is due.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.checked.map_or(self.started, |last| last + self.period)
    }

    /// Takes the workers that run now, each with its name and the rounds that it has counted.
    /// Workers may come and go between two checks. To be called when it is [`Watchdog::due`].
    pub fn check(
        &mut self,
        now: Instant,
        workers: impl IntoIterator<Item = (String, u64)>,
    ) -> Health {
        let passed = self.checked.map(|last| now.saturating_duration_since(last));
        let passed = passed.unwrap_or_default().min(self.limit / 2);
        self.checked = Some(now);
        let before = std::mem::take(&mut self.workers);
        let mut health = Health::AllTurn;
        let mut longest = self.limit;
        for (name, rounds) in workers {
            let still = match before.get(&name) {
                Some(before) if before.rounds == rounds => before.still + passed,
                _ => Duration::ZERO,
            };
            if still > longest {
                longest = still;
                health = Health::Hangs {
                    worker: name.clone(),
                    time: still,
                };
            } else if !still.is_zero() && health == Health::AllTurn {
                health = Health::Unsure;
            }
            self.workers.insert(name, Turning { rounds, still });
        }
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_for_longer_than_the_limit_is_named_and_no_other() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(None);
        let mut check = |second: u64, rounds: &[(&str, u64)]| {
            let workers = rounds
                .iter()
                .map(|(name, rounds)| ((*name).into(), *rounds));
            watchdog.check(start + Duration::from_secs(second), workers)
        };
        assert_eq!(check(0, &[("w0", 5), ("w1", 5)]), Health::AllTurn);
        assert_eq!(check(1, &[("w0", 6), ("w1", 9)]), Health::AllTurn);
        for second in 2..=11 {
            let health = check(second, &[("w0", 6), ("w1", 10 * second)]);
            assert_eq!(health, Health::Unsure, "{second}");
        }
        let hangs = Health::Hangs {
            worker: "w0".into(),
            time: Duration::from_secs(11),
        };
        assert_eq!(check(12, &[("w0", 6), ("w1", 200)]), hangs);
        // It turns again, and another one with the name of one that has ended begins anew.
        assert_eq!(check(13, &[("w0", 7)]), Health::AllTurn);
        assert_eq!(check(14, &[("w0", 8), ("w1", 200)]), Health::AllTurn);
    }

    #[test]
    fn after_a_standstill_of_all_threads_nothing_hangs() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(None);
        let mut check = |second: u64, rounds: u64| {
            let now = start + Duration::from_secs(second);
            watchdog.check(now, [("w0".to_owned(), rounds)])
        };
        assert_eq!(check(0, 1), Health::AllTurn);
        assert_eq!(check(3600, 1), Health::Unsure);
        assert_eq!(check(3601, 1), Health::Unsure);
        assert_eq!(check(3602, 2), Health::AllTurn);
    }

    #[test]
    fn under_a_service_manager_the_relay_is_the_first_to_notice() {
        for (interval, limit, period) in
            [(60_000, 10_000, 1000), (4000, 3000, 1000), (800, 600, 200)]
        {
            let watchdog = Watchdog::new(Some(Duration::from_millis(interval)));
            assert_eq!(watchdog.limit, Duration::from_millis(limit));
            assert_eq!(watchdog.period, Duration::from_millis(period));
            assert!(
                watchdog.due() <= Instant::now(),
                "the first check is due at once"
            );
        }
    }
}
