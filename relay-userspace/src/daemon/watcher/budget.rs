//! Limits the log lines about one interface: a flapping wire must not fill the log.

use std::time::{Duration, Instant};

use log::{Level, log, warn};

/// Lines that may be written at once.
const BURST: u32 = 20;
/// The time until one more line may be written.
const REFILL: Duration = Duration::from_secs(10);

/// The target of the lines.
const LOG: &str = "relay::daemon::watcher";

/// One line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The level.
    pub level: Level,
    /// A sentence.
    pub text: String,
    /// A plan depends on what has changed, so control is told as well.
    pub matters: bool,
}

/// A token bucket of lines.
#[derive(Debug)]
pub struct Budget {
    left: u32,
    /// When the bucket gets one more line.
    next: Instant,
    /// Lines that were not written.
    withheld: u64,
}

impl Budget {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            next: now + REFILL,
            withheld: 0,
        }
    }

    /// Writes a line about `interface` to the log, or counts that it was withheld. Debug lines are
    /// not limited.
    pub fn say(&mut self, now: Instant, interface: &str, line: &Line) {
        if line.level >= Level::Debug || self.admit(now) {
            log!(target: LOG, line.level, interface = interface; "{}", line.text);
        }
    }

    /// Logs how many lines about `interface` were withheld, as soon as the budget allows it.
    pub fn tick(&mut self, now: Instant, interface: &str) {
        if let Some(withheld) = self.catch_up(now) {
            warn!(target: LOG, interface = interface; "{interface} changed so often that {withheld} lines about it were left out");
        }
    }

    fn admit(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.left == 0 {
            self.withheld += 1;
            return false;
        }
        self.left -= 1;
        true
    }

    /// How many lines were withheld, once half of the bucket is full again: a flapping wire then
    /// causes bursts of lines, and not a count of withheld lines after every single one.
    fn catch_up(&mut self, now: Instant) -> Option<u64> {
        self.refill(now);
        let ready = self.withheld > 0 && self.left >= BURST / 2;
        ready.then(|| {
            self.left -= 1;
            std::mem::take(&mut self.withheld)
        })
    }

    fn refill(&mut self, now: Instant) {
        while now >= self.next && self.left < BURST {
            self.left += 1;
            self.next += REFILL;
        }
        if self.left == BURST {
            self.next = now + REFILL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_said_then_a_line_every_ten_seconds_and_what_was_withheld_is_counted() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut said = |seconds: u64, lines: usize| {
            let now = start + Duration::from_secs(seconds);
            let said = (0..lines).filter(|_| budget.admit(now)).count();
            (said, budget.catch_up(now))
        };
        assert_eq!(said(0, 3), (3, None));
        assert_eq!(said(1, 100), (17, None));
        assert_eq!(said(9, 5), (0, None));
        assert_eq!(said(10, 5), (1, None));
        assert_eq!(said(35, 5), (2, None));
        assert_eq!(said(400, 0), (0, Some(83 + 5 + 4 + 3)));
        assert_eq!(said(1000, 100), (20, None), "never more than a burst");
    }
}
