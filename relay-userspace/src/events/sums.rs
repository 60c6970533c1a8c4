//! Counts events that repeat, in windows of ten seconds per subject: pure, the caller has the
//! clock.
//!
//! Memory and lines are bounded: of each kind so many subjects are known at once, and what happens
//! to others meanwhile is one sum of the kind.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use log::Level;

use super::Event;

/// How long events about one subject are counted until their sum is said.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The most subjects of one kind that have lines of their own in that time.
pub const MOST_SUBJECTS: usize = 32;
/// The most bytes of a text that are kept for a sum, and of what tells subjects apart.
const MOST_BYTES: usize = 1000;
const MOST_KEY_BYTES: usize = 300;

/// What repeats: a kind, and which of it. Without rule, interface and the rest it is all other
/// subjects of the kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    kind: &'static str,
    others: bool,
    rule: String,
    interface: String,
    which: String,
}

impl Subject {
    fn of(event: &Event<'_>) -> Self {
        Self {
            kind: event.kind,
            others: false,
            rule: cut(event.rule, MOST_KEY_BYTES),
            interface: cut(event.interface, MOST_KEY_BYTES),
            which: cut(event.which, MOST_KEY_BYTES),
        }
    }

    /// All of the kind that have no place of their own.
    const fn others(kind: &'static str) -> Self {
        Self {
            kind,
            others: true,
            rule: String::new(),
            interface: String::new(),
            which: String::new(),
        }
    }
}

/// What happened to a subject since its window began.
#[derive(Debug)]
struct Window {
    began: Instant,
    /// The turns that the log has, each from a line of its own or as the last of the sum before.
    turns: Vec<&'static str>,
    /// Events that the log has not.
    held: u64,
    /// The most severe level of them.
    level: Level,
    /// When the last event was.
    at: Instant,
    /// The last event, unless the log has it.
    last: Option<Last>,
    target: String,
}

#[derive(Debug)]
struct Last {
    turn: &'static str,
    text: String,
}

impl Window {
    fn new(now: Instant, target: &str) -> Self {
        Self {
            began: now,
            turns: Vec::new(),
            held: 0,
            level: Level::Debug,
            at: now,
            last: None,
            target: target.to_owned(),
        }
    }

    fn hold(&mut self, now: Instant, event: &Event<'_>) {
        self.held += 1;
        self.level = self.level.min(event.level);
        self.at = now;
        self.last = Some(Last {
            turn: event.turn,
            text: cut(event.text, MOST_BYTES),
        });
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= WINDOW
    }
}

/// The line of what was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    pub target: String,
    pub level: Level,
    pub rule: String,
    pub interface: String,
    pub text: String,
}

/// The windows that are open.
#[derive(Debug, Default)]
pub struct Sums {
    windows: BTreeMap<Subject, Window>,
    /// How many subjects of each kind have one.
    of_kind: BTreeMap<&'static str, usize>,
}

impl Sums {
    /// Nothing has happened.
    pub const fn new() -> Self {
        Self {
            windows: BTreeMap::new(),
            of_kind: BTreeMap::new(),
        }
    }

    /// Takes an event. True if it is a line now, else it will be in a sum.
    pub fn admit(&mut self, now: Instant, event: &Event<'_>) -> bool {
        let subject = Subject::of(event);
        if let Some(window) = self.windows.get_mut(&subject) {
            if window.held == 0 && window.is_over(now) {
                *window = Window::new(now, event.target);
            }
            let is_new = !window.turns.contains(&event.turn);
            if is_new {
                window.turns.push(event.turn);
                (window.at, window.last) = (now, None);
            } else {
                window.hold(now, event);
            }
            return is_new;
        }
        let known = self.of_kind.entry(event.kind).or_default();
        if *known < MOST_SUBJECTS {
            *known += 1;
            let mut window = Window::new(now, event.target);
            window.turns.push(event.turn);
            self.windows.insert(subject, window);
            return true;
        }
        let window = self.windows.entry(Subject::others(event.kind));
        let window = window.or_insert_with(|| Window::new(now, event.target));
        window.hold(now, event);
        false
    }

    /// The sums of windows that are over, in the order of their last events.
    pub fn due(&mut self, now: Instant) -> Vec<Sum> {
        self.close(now, |window| window.is_over(now))
    }

    /// All sums.
    pub fn all(&mut self, now: Instant) -> Vec<Sum> {
        self.close(now, |_| true)
    }

    fn close(&mut self, now: Instant, is_over: impl Fn(&Window) -> bool) -> Vec<Sum> {
        let mut sums = Vec::new();
        let of_kind = &mut self.of_kind;
        self.windows.retain(|subject, window| {
            if !is_over(window) {
                return true;
            }
            if window.held == 0 {
                if let Some(known) = of_kind.get_mut(subject.kind).filter(|_| !subject.others) {
                    *known = known.saturating_sub(1);
                }
                return false;
            }
            sums.push((window.at, sum(now, subject, window)));
            // What goes on is summed again, and not a line first.
            window.turns = window
                .last
                .take()
                .map(|last| last.turn)
                .into_iter()
                .collect();
            (window.began, window.held, window.level) = (now, 0, Level::Debug);
            true
        });
        sums.sort_by_key(|(at, _)| *at);
        sums.into_iter().map(|(_, sum)| sum).collect()
    }
}

/// The line of a window.
fn sum(now: Instant, subject: &Subject, window: &Window) -> Sum {
    let text = match &window.last {
        // A single one says all by itself.
        Some(last) if window.held == 1 => last.text.clone(),
        last => {
            let seconds = now.saturating_duration_since(window.began).as_secs().max(1);
            let number = grouped(window.held);
            let mut text = format!("{}: and {number} more in {seconds} s", name(subject, last));
            if let Some(last) = last {
                text += "; the last: ";
                text += &last.text;
            }
            text
        }
    };
    Sum {
        target: window.target.clone(),
        level: window.level,
        rule: subject.rule.clone(),
        interface: subject.interface.clone(),
        text,
    }
}

/// What a sum is about: kind, and of what. What tells it from others is left out where the last
/// text begins with it.
fn name(subject: &Subject, last: &Option<Last>) -> String {
    let mut name = subject.kind.to_owned();
    if subject.others {
        name += ", others than those above";
    }
    let which = &subject.which;
    let is_said = last
        .as_ref()
        .is_some_and(|last| last.text.starts_with(which));
    if !which.is_empty() && !is_said {
        name += &format!(" {which}");
    }
    // A rule's name may have any characters.
    let (rule, interface) = (subject.rule.escape_debug(), &subject.interface);
    match (subject.rule.is_empty(), interface.is_empty()) {
        (true, true) => {}
        (false, true) => name += &format!(" of rule {rule}"),
        (true, false) => name += &format!(" of {interface}"),
        (false, false) => name += &format!(" of rule {rule} on {interface}"),
    }
    name
}

/// A number as people read it: 4,211.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn cut(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    text.get(..end).unwrap_or_default().to_owned()
}
