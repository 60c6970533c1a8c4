//! Log lines of what a host, a segment or a client can make happen again and again.
//!
//! None of them may fill the log, and none may get lost without a word. So the first event about a
//! subject, such as the link of one interface, is one line at once; further ones within ten seconds
//! are counted, and become one line when these are over, also if nothing follows: the main loop
//! calls [`tick`] once per second. Lines and sums add up to what happened.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use log::{Level, log, log_enabled};

use self::sums::{Sum, Sums};

mod sums;
#[cfg(test)]
mod tests;

/// What happened in all threads.
static SUMS: Mutex<Sums> = Mutex::new(Sums::new());

/// One event, which becomes a line or is counted.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    target: &'a str,
    level: Level,
    /// What happens, as a noun: "link".
    kind: &'static str,
    rule: &'a str,
    interface: &'a str,
    /// Tells subjects of one kind apart where rule and interface do not: a destination.
    which: &'a str,
    turn: &'static str,
    text: &'a str,
}

impl<'a> Event<'a> {
    /// An event of the module `target`; `kind` is a noun, and the same for all turns of a thing.
    #[must_use]
    pub const fn new(target: &'a str, level: Level, kind: &'static str, text: &'a str) -> Self {
        Self {
            target,
            level,
            kind,
            rule: "",
            interface: "",
            which: "",
            turn: "",
            text,
        }
    }

    /// It is about this rule.
    #[must_use]
    pub const fn rule(self, rule: &'a str) -> Self {
        Self { rule, ..self }
    }

    /// It is about this interface.
    #[must_use]
    pub const fn interface(self, interface: &'a str) -> Self {
        Self { interface, ..self }
    }

    /// Tells it from others of its kind.
    #[must_use]
    pub const fn which(self, which: &'a str) -> Self {
        Self { which, ..self }
    }

    /// It is a subject of its own, which has this text: only the same text again is a repetition.
    #[must_use]
    pub const fn by_text(self) -> Self {
        self.which(self.text)
    }

    /// Which of the states that its subject can have begins: the first of each is a line at once.
    #[must_use]
    pub const fn turn(self, turn: &'static str) -> Self {
        Self { turn, ..self }
    }

    /// Writes it to the log, or counts it. Debug lines are never counted.
    pub fn say(&self) {
        if !log_enabled!(target: self.target, self.level) {
            return;
        }
        // Held while the line is written, so that lines of two threads keep their order.
        let mut sums = lock();
        if self.level >= Level::Debug || sums.admit(Instant::now(), self) {
            write(
                self.target,
                self.level,
                self.rule,
                self.interface,
                self.text,
            );
        }
    }
}

/// Writes the sums that are due.
pub fn tick() {
    let mut sums = lock();
    let due = sums.due(Instant::now());
    due.iter().for_each(Sum::write);
}

/// Writes all sums: nothing follows.
pub fn finish() {
    let mut sums = lock();
    let all = sums.all(Instant::now());
    all.iter().for_each(Sum::write);
}

impl Sum {
    fn write(&self) {
        write(
            &self.target,
            self.level,
            &self.rule,
            &self.interface,
            &self.text,
        );
    }
}

/// Fields that do not apply are empty, and then the log has none of that name.
fn write(target: &str, level: Level, rule: &str, interface: &str, text: &str) {
    match (rule.is_empty(), interface.is_empty()) {
        (true, true) => log!(target: target, level, "{text}"),
        (false, true) => log!(target: target, level, rule = rule; "{text}"),
        (true, false) => log!(target: target, level, interface = interface; "{text}"),
        (false, false) => {
            log!(target: target, level, rule = rule, interface = interface; "{text}");
        }
    }
}

/// A thread that panicked with the lock left the sums whole: every change is one step.
fn lock() -> MutexGuard<'static, Sums> {
    SUMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A logger that makes one event of each line, for what is written in a kernel program.
#[derive(Debug, Clone, Copy)]
pub struct Logger {
    /// What these lines are about, as a noun.
    pub kind: &'static str,
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        log::logger().enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = fmt::format(*record.args());
        Event::new(record.target(), record.level(), self.kind, &text)
            .by_text()
            .say();
    }

    fn flush(&self) {
        log::logger().flush();
    }
}
