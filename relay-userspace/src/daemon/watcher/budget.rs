//! Limits the log lines about one interface: a flapping wire must not fill the log.
//!
//! A log that stops in the middle of a burst says "down" of what is up. So once it is quiet again,
//! one line says how many were left out, and the last of them about each thing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use log::{Level, log, warn};

/// Lines that may be written at once.
const BURST: u32 = 20;
/// The time until one more line may be written.
const REFILL: Duration = Duration::from_secs(10);
/// Lines that are kept back for saying what was left out.
const RESERVE: u32 = 1;
/// How long nothing must have been left out until that is said.
const QUIET: Duration = Duration::from_secs(3);
/// Of how many things the last line is kept that was left out.
const THINGS: usize = 8;

/// The target of the lines.
const LOG: &str = "relay::daemon::watcher";
/// The target of lines about rules.
const LOG_OF_RULES: &str = "relay::daemon::service";

/// One line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The level.
    pub level: Level,
    /// What it is about: a later line about the same makes it obsolete.
    pub about: String,
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
    /// Lines that were left out since that was last said.
    left_out: u64,
    /// When the last of them was.
    last: Instant,
    /// The last text that was left out about each thing, unless a later one was written.
    latest: BTreeMap<String, String>,
    /// There are more things than that.
    more: bool,
}

impl Budget {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self {
            left: BURST + RESERVE,
            next: now + REFILL,
            left_out: 0,
            last: now,
            latest: BTreeMap::new(),
            more: false,
        }
    }

    /// Writes a line about `interface` to the log, or counts that it was left out. Debug lines are
    /// not limited.
    pub fn say(&mut self, now: Instant, interface: &str, line: &Line) {
        if line.level >= Level::Debug || self.admit(now, line) {
            log!(target: LOG, line.level, interface = interface; "{}", line.text);
        }
    }

    /// The same about a rule.
    pub fn say_of_rule(&mut self, now: Instant, rule: &str, line: &Line) {
        if line.level >= Level::Debug || self.admit(now, line) {
            log!(target: LOG_OF_RULES, line.level, rule = rule; "{}", line.text);
        }
    }

    /// Logs what was left out about `interface`, once it is quiet and the budget allows it.
    pub fn tick(&mut self, now: Instant, interface: &str) {
        if self.is_quiet(now) {
            self.flush(now, interface);
        }
    }

    /// Nothing was left out for a while.
    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= QUIET
    }

    /// Logs what was left out about `interface`, if the budget allows it: there will be no other
    /// line about it.
    pub fn flush(&mut self, now: Instant, interface: &str) {
        if let Some(summary) = self.catch_up(now) {
            warn!(target: LOG, interface = interface; "{interface} changed so often that {summary}");
        }
    }

    fn admit(&mut self, now: Instant, line: &Line) -> bool {
        self.refill(now);
        if self.left > RESERVE {
            self.left -= 1;
            self.latest.remove(&line.about);
            return true;
        }
        self.left_out += 1;
        self.last = now;
        if self.latest.len() < THINGS || self.latest.contains_key(&line.about) {
            self.latest.insert(line.about.clone(), line.text.clone());
        } else {
            self.more = true;
        }
        false
    }

    /// How many lines were left out, and the last of them, if the bucket has a line for that.
    fn catch_up(&mut self, now: Instant) -> Option<String> {
        self.refill(now);
        if self.left_out == 0 || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let mut summary = match std::mem::take(&mut self.left_out) {
            1 => "a line was left out".to_owned(),
            many => format!("{many} lines were left out"),
        };
        let latest: Vec<String> = std::mem::take(&mut self.latest).into_values().collect();
        if !latest.is_empty() {
            summary += &format!("; the last: {}", latest.join("; "));
        }
        if std::mem::take(&mut self.more) {
            summary += "; and more, `relay status` shows how it is now";
        }
        Some(summary)
    }

    fn refill(&mut self, now: Instant) {
        const FULL: u32 = BURST + RESERVE;
        while now >= self.next && self.left < FULL {
            self.left += 1;
            self.next += REFILL;
        }
        if self.left == FULL {
            self.next = now + REFILL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bucket at a time in seconds.
    struct At {
        start: Instant,
        budget: Budget,
    }

    impl At {
        fn new() -> Self {
            let start = Instant::now();
            let budget = Budget::new(start);
            Self { start, budget }
        }

        /// How many of `lines` about `about` are written.
        fn said(&mut self, seconds: u64, about: &str, lines: usize) -> usize {
            let now = self.start + Duration::from_secs(seconds);
            let lines = (1..=lines).map(|number| Line {
                level: Level::Info,
                about: about.into(),
                text: format!("{about} {number}"),
                matters: false,
            });
            lines.filter(|line| self.budget.admit(now, line)).count()
        }

        /// What is said of lines that were left out, as the clock has it.
        fn tick(&mut self, seconds: u64) -> Option<String> {
            let now = self.start + Duration::from_secs(seconds);
            self.budget
                .is_quiet(now)
                .then(|| self.budget.catch_up(now))
                .flatten()
        }
    }

    #[test]
    fn a_burst_is_said_and_then_a_line_every_ten_seconds() {
        let mut at = At::new();
        assert_eq!(at.said(0, "wire", 3), 3);
        assert_eq!(at.said(1, "wire", 100), 17);
        assert_eq!(at.said(9, "wire", 5), 0);
        assert_eq!(at.said(10, "wire", 5), 1);
        assert_eq!(at.said(35, "wire", 5), 2);
        assert_eq!(at.said(1000, "wire", 100), 20, "never more than a burst");
    }

    #[test]
    fn once_it_is_quiet_the_log_has_how_many_were_left_out_and_the_last_of_them() {
        let mut at = At::new();
        assert_eq!(at.said(0, "wire", 30), 20);
        assert_eq!(at.tick(2), None, "not quiet yet");
        assert_eq!(
            at.tick(3).as_deref(),
            Some("10 lines were left out; the last: wire 30")
        );
        assert_eq!(at.tick(4), None, "once");
        // The bucket is empty: it takes until there is a line again, and one goes for this.
        assert_eq!(at.said(5, "MTU", 1), 0);
        assert_eq!(at.tick(8), None);
        let said = at.tick(10);
        assert_eq!(
            said.as_deref(),
            Some("a line was left out; the last: MTU 1")
        );
        // A flapping wire for an hour.
        let mut lines = 0;
        for seconds in 11..3611 {
            lines += at.said(seconds, "wire", usize::from(seconds % 5 == 0));
            lines += usize::from(at.tick(seconds).is_some());
        }
        assert!((350..=361).contains(&lines), "{lines}");
    }

    #[test]
    fn what_a_later_line_has_said_is_not_said_again_and_many_things_are_not_listed() {
        let mut at = At::new();
        assert_eq!(at.said(0, "wire", 21), 20);
        assert_eq!(at.said(0, "MTU", 1), 0);
        assert_eq!(at.said(10, "wire", 1), 1);
        assert_eq!(
            at.tick(10).as_deref(),
            Some("2 lines were left out; the last: MTU 1")
        );
        let hops: Vec<String> = (0..1000).map(|number| format!("hop {number:03}")).collect();
        for hop in &hops {
            assert_eq!(at.said(11, hop, 2), 0);
        }
        let said = at.tick(21).unwrap();
        assert!(said.starts_with("2000 lines were left out; the last: hop 000 2; hop 001 2; "));
        assert!(said.ends_with("; hop 007 2; and more, `relay status` shows how it is now"));
    }
}
