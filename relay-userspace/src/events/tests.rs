use std::time::{Duration, Instant};

use log::Level::{self, Info, Warn};

use super::{
    Event,
    sums::{MOST_SUBJECTS, Sum, Sums},
};

const TARGET: &str = "relay::test";

/// The log at a time in milliseconds.
struct Log {
    start: Instant,
    sums: Sums,
    lines: Vec<String>,
}

impl Log {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            sums: Sums::new(),
            lines: Vec::new(),
        }
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds)
    }

    fn say(&mut self, milliseconds: u64, event: &Event<'_>) {
        if self.sums.admit(self.at(milliseconds), event) {
            self.lines.push(event.text.to_owned());
        }
    }

    /// The sums that are due, which are in the log from then on.
    fn tick(&mut self, milliseconds: u64) -> Vec<Sum> {
        let due = self.sums.due(self.at(milliseconds));
        self.lines.extend(due.iter().map(|sum| sum.text.clone()));
        due
    }

    /// What was written since the last call.
    fn lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

fn link<'a>(interface: &'a str, level: Level, turn: &'static str, text: &'a str) -> Event<'a> {
    Event::new(TARGET, level, "link", text)
        .interface(interface)
        .turn(turn)
}

fn silence<'a>(rule: &'a str, text: &'a str) -> Event<'a> {
    Event::new(TARGET, Warn, "silence", text).rule(rule)
}

/// How many events a line stands for.
fn stands_for(line: &str) -> u64 {
    let number = line
        .split(": and ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    number.map_or(1, |number| number.replace(',', "").parse().unwrap())
}

#[test]
fn the_first_is_a_line_and_the_others_are_one_when_ten_seconds_are_over() {
    let mut log = Log::new();
    for number in 0..4212 {
        log.say(number, &silence("feed", "rule feed is silent"));
    }
    assert_eq!(log.lines(), ["rule feed is silent"]);
    assert_eq!(log.tick(9_999), []);
    let sum = log.tick(10_000);
    let expected = Sum {
        target: TARGET.into(),
        level: Warn,
        rule: "feed".into(),
        interface: String::new(),
        text: "silence of rule feed: and 4,211 more in 10 s; the last: rule feed is silent".into(),
    };
    assert_eq!(sum, [expected]);
    // Nothing follows: the window ends without a line, and the next event is a first one.
    log.lines();
    assert_eq!(log.tick(20_000), []);
    log.say(20_001, &silence("feed", "again"));
    assert_eq!(log.lines(), ["again"]);
}

#[test]
fn an_event_that_follows_later_is_a_line_also_before_the_next_tick() {
    let mut log = Log::new();
    log.say(0, &silence("feed", "one"));
    log.say(10_000, &silence("feed", "two"));
    log.say(10_001, &silence("feed", "three"));
    assert_eq!(log.lines(), ["one", "two"]);
    log.tick(20_000);
    assert_eq!(log.lines(), ["three"], "a single one says all by itself");
}

#[test]
fn the_first_of_each_turn_is_a_line_and_the_last_line_says_how_it_is_now() {
    let mut log = Log::new();
    let lost = link("out0", Warn, "lost", "out0 has lost its carrier");
    let back = link("out0", Info, "back", "out0 has its carrier again");
    let gone = link("out0", Warn, "gone", "out0 has gone");
    for number in 0..60 {
        log.say(number, &lost);
        log.say(number, &back);
    }
    assert_eq!(log.lines(), [lost.text, back.text]);
    let sum = log.tick(10_000);
    assert_eq!(sum[0].level, Warn, "the most severe of them");
    assert_eq!(
        log.lines(),
        ["link of out0: and 118 more in 10 s; the last: out0 has its carrier again"]
    );
    // What the sum says is not a first one, another turn is.
    log.say(10_100, &back);
    log.say(10_200, &lost);
    log.say(10_300, &lost);
    log.say(10_400, &gone);
    assert_eq!(log.lines(), [lost.text, gone.text]);
    log.tick(20_000);
    let unsaid = "link of out0: and 2 more in 10 s";
    assert_eq!(log.lines(), [unsaid], "the log has what came last");
}

#[test]
fn what_goes_on_for_an_hour_is_few_lines_that_add_up() {
    let mut log = Log::new();
    let mut happened = 0;
    for second in 0..3600_u64 {
        for part in 0..7 {
            let event = match part % 2 {
                0 => link("out0", Warn, "lost", "out0 has lost its carrier"),
                _ => link("out0", Info, "back", "out0 has its carrier again"),
            };
            log.say(1000 * second + 100 * part, &event);
            happened += 1;
        }
        log.tick(1000 * second + 999);
    }
    log.tick(4_000_000);
    let lines = log.lines();
    assert!((361..=3 * 361).contains(&lines.len()), "{}", lines.len());
    assert_eq!(
        lines.iter().map(|line| stands_for(line)).sum::<u64>(),
        happened
    );
}

#[test]
fn subjects_do_not_mix_and_those_that_find_no_place_are_one_sum() {
    let mut log = Log::new();
    let rules: Vec<String> = (0..10_000)
        .map(|number| format!("rule-{number:05}"))
        .collect();
    for rule in &rules {
        log.say(0, &silence(rule, rule));
        log.say(1, &silence(rule, rule));
    }
    assert_eq!(log.lines(), rules[..MOST_SUBJECTS]);
    log.say(2, &link("out0", Info, "up", "out0 is up"));
    assert_eq!(log.lines(), ["out0 is up"], "another kind");
    log.tick(10_000);
    let lines = log.lines();
    assert_eq!(lines.len(), MOST_SUBJECTS + 1);
    assert_eq!(
        lines.last().map(|line| &line[..]),
        Some("silence, others than those above: and 19,936 more in 10 s; the last: rule-09999")
    );
    let sum: u64 = lines.iter().map(|line| stands_for(line)).sum();
    assert_eq!(sum + MOST_SUBJECTS as u64, 20_000);
    // The places are free again once nothing repeats.
    log.tick(20_000);
    log.say(20_001, &silence("rule-09999", "rule-09999"));
    assert_eq!(log.lines(), ["rule-09999"]);
}

#[test]
fn at_the_end_everything_is_said_and_a_text_without_end_is_cut() {
    let mut log = Log::new();
    let long = "ä".repeat(1 << 20);
    for _ in 0..3 {
        log.say(0, &silence("feed\n", &long));
    }
    let all = log.sums.all(log.at(1));
    let [sum] = &all[..] else { panic!("{all:?}") };
    assert!(
        sum.text
            .starts_with("silence of rule feed\\n: and 2 more in 1 s; the last: ä")
    );
    assert!(sum.text.len() < 1100, "{}", sum.text.len());
}

#[test]
fn what_tells_subjects_apart_is_in_the_sum_unless_the_last_text_begins_with_it() {
    let mut log = Log::new();
    let route = |text| Event::new(TARGET, Info, "route", text).which("to 203.0.113.9");
    for _ in 0..3 {
        log.say(0, &route("it leads through out1 now"));
        log.say(1, &Event::new(TARGET, Info, "note", "a text").by_text());
    }
    log.lines();
    log.tick(10_001);
    assert_eq!(
        log.lines(),
        [
            "route to 203.0.113.9: and 2 more in 10 s; the last: it leads through out1 now",
            "note: and 2 more in 10 s; the last: a text",
        ]
    );
}
