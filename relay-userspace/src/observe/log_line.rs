//! The log's lines about the counters.
//!
//! By default a summary per minute, and in between a line when something begins: traffic, silence,
//! drops for a reason. With `run --progress` a line per second in which a number changed.
//!
//! Every frame that arrives on an input is in the line under one word: `received`, the reason why
//! it was dropped in front of the workers, or the reason why it was passed to the Linux stack. So a
//! feed that no rule takes, the commonest first mistake, does not look like silence. A relay
//! without traffic does not fill the log: it reports silence once, and again once per minute.

use std::collections::BTreeMap;

use relay_common::abi::Counter;

use super::report::{Named, Report, occurred};

/// Seconds between two summaries, and after which silence, or drops for the same reason, are
/// reported again.
const MINUTE: f64 = 60.0;
/// Seconds without a frame after which silence is reported between two summaries.
const SILENT_AFTER: f64 = 10.0;
/// A report that comes this much early still counts as due, in seconds.
const SLACK: f64 = 0.5;

/// When the log has a line about the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Once per minute, and when something begins.
    Summary,
    /// Once per second in which a number changed.
    EverySecond,
}

/// Decides which reports become lines.
#[derive(Debug)]
pub struct Lines {
    pace: Pace,
    last: Option<Report>,
    /// The uptime at the last change of the numbers, in seconds.
    changed_at: f64,
    /// The uptime when silence was last reported, in seconds; `None` if numbers have changed since.
    told_at: Option<f64>,
    /// At the last summary.
    summary: Totals,
    /// The uptime at the last line that said that traffic begins, or that it has ended.
    begun_at: Option<f64>,
    silent_at: Option<f64>,
    /// Per reason that frames are dropped for: the uptime when its number last rose.
    rose_at: BTreeMap<&'static str, f64>,
}

/// The numbers that rates are made of.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    seconds: f64,
    received: u64,
    matched: u64,
    sent: u64,
    dropped: u64,
}

impl Lines {
    /// No report was taken yet.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            last: None,
            changed_at: 0.0,
            told_at: None,
            summary: Totals::default(),
            begun_at: None,
            silent_at: None,
            rose_at: BTreeMap::new(),
        }
    }

    /// The line for `now`, the report that follows the previous call's, about a second after it.
    /// `None` if there is nothing to log.
    pub fn after(&mut self, now: Report) -> Option<String> {
        let seconds = now.uptime_seconds;
        let moved = now.moved_since(self.last.as_ref());
        let was_silent = self.begun_at.is_none() || seconds - self.changed_at > SILENT_AFTER;
        if moved {
            self.changed_at = seconds;
            self.told_at = None;
        }
        let line = match self.pace {
            Pace::EverySecond => self.progress(&now, moved),
            Pace::Summary => self.change(&now, moved, was_silent),
        };
        self.last = Some(now);
        line
    }

    /// The line of one second.
    fn progress(&mut self, now: &Report, moved: bool) -> Option<String> {
        let seconds = now.uptime_seconds;
        if moved {
            let last = self.last.as_ref().map(Report::totals);
            return Some(now.line(last.unwrap_or_default()));
        }
        let due = self.told_at.is_none_or(|at| seconds - at >= MINUTE);
        due.then(|| {
            self.told_at = Some(seconds);
            now.silence(seconds - self.changed_at)
        })
    }

    /// The line of a minute, or of what begins now.
    fn change(&mut self, now: &Report, moved: bool, was_silent: bool) -> Option<String> {
        let seconds = now.uptime_seconds;
        let begun = self.reasons_that_begin(now);
        if seconds - self.summary.seconds >= MINUTE - SLACK {
            let since = std::mem::replace(&mut self.summary, now.totals());
            let moved = self.changed_at > since.seconds;
            return Some(if moved {
                format!("in {:.0} s: {}", seconds - since.seconds, now.line(since))
            } else {
                now.silence(seconds - self.changed_at)
            });
        }
        let last = self.last.as_ref().map(Report::totals).unwrap_or_default();
        // Each kind once per minute: a slow feed, or one that stutters, must not fill the log.
        let due = |at: Option<f64>| at.is_none_or(|at| seconds - at >= MINUTE);
        if !begun.is_empty() {
            return Some(format!(
                "frames are dropped now: {}; {}",
                begun.join(", "),
                now.line(last)
            ));
        }
        if moved && was_silent && due(self.begun_at) {
            self.begun_at = Some(seconds);
            return Some(format!("frames arrive: {}", now.line(last)));
        }
        let silence = seconds - self.changed_at;
        let just_silent = silence >= SILENT_AFTER && self.told_at.is_none();
        if !moved && just_silent && due(self.silent_at) {
            self.told_at = Some(seconds);
            self.silent_at = Some(seconds);
            return Some(now.silence(silence));
        }
        None
    }

    /// The reasons for which frames are dropped now and were not in the minute before.
    fn reasons_that_begin(&mut self, now: &Report) -> Vec<&'static str> {
        let seconds = now.uptime_seconds;
        let mut begin = Vec::new();
        for (&reason, &number) in &now.dropped {
            let before = self.last.as_ref().and_then(|last| last.dropped.get(reason));
            if number > before.copied().unwrap_or(0) {
                let rose = self.rose_at.insert(reason, seconds);
                if rose.is_none_or(|at| seconds - at > MINUTE) {
                    begin.push(reason);
                }
            }
        }
        begin
    }
}

impl Report {
    /// Whether a number of the line differs from `last`, or from 0 if there is no `last`.
    fn moved_since(&self, last: Option<&Self>) -> bool {
        let totals = |report: &Self| {
            let workers = [
                report.packets_received,
                report.packets_matched,
                report.packets_sent,
                report.total_dropped(),
            ];
            (workers, report.passed(), report.missed())
        };
        match last {
            Some(last) => totals(self) != totals(last),
            None => totals(self) != ([0; 4], Named::new(), 0),
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            seconds: self.uptime_seconds,
            received: self.packets_received,
            matched: self.packets_matched,
            sent: self.packets_sent,
            dropped: self.total_dropped(),
        }
    }

    /// Totals, and rates per second since `last`.
    fn line(&self, last: Totals) -> String {
        let now = self.totals();
        let seconds = (now.seconds - last.seconds).max(0.001);
        let rate =
            |of: fn(&Totals) -> u64| (of(&now).saturating_sub(of(&last)) as f64 / seconds).round();
        format!(
            "received {} ({}/s), matched {} ({}/s), sent {} ({}/s), dropped {} ({}/s){}",
            self.packets_received,
            rate(|totals| totals.received),
            self.packets_matched,
            rate(|totals| totals.matched),
            self.packets_sent,
            rate(|totals| totals.sent),
            self.total_dropped(),
            rate(|totals| totals.dropped),
            self.reasons(),
        )
    }

    /// Says that nothing has arrived for `seconds`, and the totals.
    fn silence(&self, seconds: f64) -> String {
        format!(
            "nothing arrived for {seconds:.0} s; in all received {}, matched {}, sent {}, dropped {}{}",
            self.packets_received,
            self.packets_matched,
            self.packets_sent,
            self.total_dropped(),
            self.reasons(),
        )
    }

    /// The end of a line: why frames were dropped, and the frames that no worker has seen.
    fn reasons(&self) -> String {
        let mut text = String::new();
        if self.total_dropped() > 0 {
            text.push_str(": ");
            text.push_str(&occurred(&self.dropped));
        }
        let passed = self.passed();
        if !passed.is_empty() {
            let sum: u64 = passed.values().sum();
            text.push_str(&format!("; passed {sum}: {}", occurred(&passed)));
        }
        for interface in self.interfaces.iter().filter(|i| i.missed > 0) {
            text.push_str(&format!(
                "; the NIC of {} missed {}",
                interface.name, interface.missed
            ));
        }
        text
    }

    /// Frames that the kernel programs left to the Linux stack alone, by reason and summed over the
    /// interfaces; only reasons that occurred. Frames over a limit are not among them: they count
    /// as dropped, wherever they went.
    fn passed(&self) -> Named {
        let own = Counter::OwnFrame.name();
        let mut passed = Named::new();
        let counters = self
            .interfaces
            .iter()
            .flat_map(|interface| &interface.filter);
        for (&name, &number) in counters.filter(|&(_, &number)| number > 0) {
            let reason = name.strip_prefix("pass_");
            if let Some(reason) = reason.or_else(|| (name == own).then_some(own)) {
                *passed.entry(reason).or_default() += number;
            }
        }
        passed
    }

    /// Frames that NICs had no buffer for.
    fn missed(&self) -> u64 {
        self.interfaces.iter().map(|i| i.missed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::{FramePath, InterfaceReport};
    use crate::plan::{Backend, Mode};

    fn interface(name: &str, mode: Mode, missed: u64, filter: Named) -> InterfaceReport {
        InterfaceReport {
            name: name.into(),
            path: FramePath {
                backend: Backend::Xdp,
                mode: Some(mode),
                reason: String::new(),
                tx_method: None,
            },
            device_dropped: 0,
            missed,
            filter,
        }
    }

    fn report(uptime_seconds: f64, packets: u64, interfaces: Vec<InterfaceReport>) -> Report {
        Report {
            uptime_seconds,
            packets_received: packets,
            packets_matched: packets,
            packets_sent: packets,
            dropped: Named::new(),
            dropped_before_rules: Named::new(),
            interfaces,
            rules: Vec::new(),
            workers: Vec::new(),
        }
    }

    #[test]
    fn what_a_nic_missed_is_in_the_line_and_in_the_report_and_what_it_did_not_is_in_neither() {
        let filter =
            |vlan| Named::from([("received", 9), ("pass_vlan", vlan), ("pass_no_rule", 2)]);
        let report = report(
            1.0,
            10,
            vec![
                interface("eth7", Mode::ZeroCopy, 5, filter(5)),
                interface("eth8", Mode::ZeroCopy, 0, filter(0)),
            ],
        );
        let (line, whole) = (report.line(Totals::default()), report.to_string());
        assert!(
            line.ends_with("; passed 9: no_rule 4, vlan 5; the NIC of eth7 missed 5"),
            "{line}"
        );
        assert!(
            whole.contains("eth7: zero copy mode; missed by the NIC: 5; "),
            "{whole}"
        );
        assert!(whole.contains("eth8: zero copy mode; "), "{whole}");
    }

    #[test]
    fn every_counter_of_the_kernel_programs_has_its_place_in_the_line() {
        // Each has a number of its own, to tell them apart.
        let filter: Named = (1..)
            .zip(Counter::ALL)
            .map(|(n, c)| (c.name(), n))
            .collect();
        let line =
            report(1.0, 0, vec![interface("eth7", Mode::Copy, 0, filter)]).line(Totals::default());
        for (number, counter) in (1u64..).zip(Counter::ALL) {
            let name = counter.name();
            let (reason, passed) = match counter {
                // The parts of `received` are in the line; `redirected` is matched, `over_limit`
                // dropped.
                Counter::Received | Counter::Redirected | Counter::OverLimit => (name, false),
                _ => (name.trim_start_matches("pass_"), true),
            };
            let told = line.split([':', ',', ';']).map(str::trim);
            let told = told.filter(|part| *part == format!("{reason} {number}"));
            assert_eq!(told.count(), usize::from(passed), "{name} in: {line}");
        }
    }

    #[test]
    fn what_an_interface_saw_has_another_word_than_what_a_worker_received() {
        let filter = Named::from([("received", 117), ("redirected", 7), ("pass_vlan", 110)]);
        let seen = interface("eth7", Mode::Copy, 0, filter);
        let only_output = interface("eth8", Mode::Copy, 0, Named::new());
        let whole = report(1.0, 7, vec![seen, only_output]).to_string();
        let path = "copy mode (no fault: every rule works in it)";
        let expected = format!(
            "after 1.0 s: received 7, matched 7, sent 7, dropped 0\n\
             eth7: {path}; frames seen 117: pass_vlan 110, redirected 7\n\
             eth8: {path}\n"
        );
        assert_eq!(whole, expected);
    }

    #[test]
    fn silence_is_told_once_and_then_once_a_minute() {
        let mut lines = Lines::new(Pace::EverySecond);
        let mut told = Vec::new();
        for second in 1..=200 {
            // One datagram per second from the 11th to the 20th, and tagged frames in the 150th.
            let packets = u64::clamp(second, 10, 20) - 10;
            let tagged = if second < 150 { 0 } else { 3 };
            let filter = Named::from([("pass_vlan", tagged)]);
            let interfaces = vec![interface("eth7", Mode::Copy, 0, filter)];
            if let Some(line) = lines.after(report(second as f64, packets, interfaces)) {
                told.push((second, line));
            }
        }
        let at: Vec<u64> = told.iter().map(|(second, _)| *second).collect();
        let while_it_moved = 11..=20;
        let expected: Vec<u64> = [1].into_iter().chain(while_it_moved).collect();
        let expected = [expected, vec![21, 81, 141, 150, 151]].concat();
        assert_eq!(at, expected, "{told:#?}");
        let line = |second| {
            told.iter()
                .find(|(at, _)| *at == second)
                .map(|(_, l)| &l[..])
        };
        assert_eq!(
            line(1),
            Some("nothing arrived for 1 s; in all received 0, matched 0, sent 0, dropped 0")
        );
        assert_eq!(
            line(20),
            Some("received 10 (1/s), matched 10 (1/s), sent 10 (1/s), dropped 0 (0/s)")
        );
        assert_eq!(
            line(81),
            Some("nothing arrived for 61 s; in all received 10, matched 10, sent 10, dropped 0")
        );
        assert_eq!(
            line(150),
            Some(
                "received 10 (0/s), matched 10 (0/s), sent 10 (0/s), dropped 0 (0/s); passed 3: vlan 3"
            )
        );
    }

    #[test]
    fn between_two_summaries_there_is_a_line_for_what_begins_and_for_nothing_else() {
        let mut lines = Lines::new(Pace::Summary);
        let mut told = Vec::new();
        for second in 1..=400_u64 {
            // A feed from the 11th second to the 200th, of which some is lost in the 30th to 40th
            // and in the 170th; one datagram per 11 seconds from the 300th on.
            let mut report = report(second as f64, second.clamp(10, 200) * 100 - 1000, vec![]);
            report.packets_received += second.saturating_sub(300) / 11;
            let full = second.clamp(29, 40) - 29 + u64::from(second >= 170);
            report.dropped = Named::from([("ring_full", full), ("too_big", 0)]);
            if let Some(line) = lines.after(report) {
                told.push((second, line));
            }
        }
        let line = |second| {
            let mut told = told.iter();
            told.find(|(at, _)| *at == second)
                .map(|(_, line)| &line[..])
        };
        let at: Vec<u64> = told.iter().map(|(second, _)| *second).collect();
        let expected = [
            10, 11, 30, 60, 120, 170, 180, 210, 240, 300, 311, 321, 360, 377, 387,
        ];
        assert_eq!(at, expected, "{told:#?}");
        assert_eq!(
            line(11),
            Some(
                "frames arrive: received 100 (100/s), matched 100 (100/s), sent 100 (100/s), dropped 0 (0/s)"
            )
        );
        let dropped = line(30).unwrap();
        let expected = "frames are dropped now: ring_full; received 2000 (100/s)";
        assert!(dropped.starts_with(expected), "{dropped}");
        let minute = line(60).unwrap();
        assert!(
            minute.starts_with("in 60 s: received 5000 (83/s)"),
            "{minute}"
        );
        let silence = line(210).unwrap();
        assert!(
            silence.starts_with("nothing arrived for 10 s; in all received 19000"),
            "{silence}"
        );
        let silence = line(300).unwrap();
        assert!(
            silence.starts_with("nothing arrived for 100 s"),
            "{silence}"
        );
    }
}
