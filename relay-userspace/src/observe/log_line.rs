//! The log's line per second: totals and rates while something moves, and one line when nothing
//! does.
//!
//! Every frame that arrives on an input is in the line under one word: `received`, the reason why
//! it was dropped in front of the workers, or the reason why it was passed to the Linux stack. So a
//! feed that no rule takes, the commonest first mistake, does not look like silence. A relay
//! without traffic does not fill the log: it reports silence once, and again once per minute.

use relay_common::abi::Counter;

use super::report::{Named, Report, occurred};

/// Seconds after which silence is reported again.
const REMIND_AFTER: f64 = 60.0;

/// Decides which reports become lines.
#[derive(Debug, Default)]
pub struct Lines {
    last: Option<Report>,
    /// The uptime at the last change of the numbers, in seconds.
    changed_at: f64,
    /// The uptime when silence was last reported, in seconds; `None` if numbers have changed since.
    told_at: Option<f64>,
}

impl Lines {
    /// The line for `now`, the report that follows the previous call's. `None` if there is nothing
    /// to log.
    pub fn after(&mut self, now: Report) -> Option<String> {
        let seconds = now.uptime_seconds;
        let line = if now.moved_since(self.last.as_ref()) {
            self.changed_at = seconds;
            self.told_at = None;
            Some(now.line(self.last.as_ref()))
        } else if self.told_at.is_none_or(|at| seconds - at >= REMIND_AFTER) {
            self.told_at = Some(seconds);
            Some(now.silence(seconds - self.changed_at))
        } else {
            None
        };
        self.last = Some(now);
        line
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

    /// Totals, and rates per second since `last`.
    fn line(&self, last: Option<&Self>) -> String {
        let seconds = self.uptime_seconds - last.map_or(0.0, |last| last.uptime_seconds);
        let rate = |of: fn(&Self) -> u64| {
            let more = of(self).saturating_sub(last.map_or(0, of));
            (more as f64 / seconds.max(0.001)).round()
        };
        format!(
            "received {} ({}/s), matched {} ({}/s), sent {} ({}/s), dropped {} ({}/s){}",
            self.packets_received,
            rate(|report| report.packets_received),
            self.packets_matched,
            rate(|report| report.packets_matched),
            self.packets_sent,
            rate(|report| report.packets_sent),
            self.total_dropped(),
            rate(Self::total_dropped),
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
        let (line, whole) = (report.line(None), report.to_string());
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
        let line = report(1.0, 0, vec![interface("eth7", Mode::Copy, 0, filter)]).line(None);
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
        let mut lines = Lines::default();
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
}
