//! What a line of the log looks like: text for people, JSON for programs, and for the journal an
//! entry of its own or, where standard error does not lead there, text with its priority in front.
//!
//! A line carries the rule or the interface that it is about. In JSON and in the journal these are
//! fields of their own; in text the message names them.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use clap::ValueEnum;
use jiff::Timestamp;
use log::{
    Level, Record,
    kv::{self, Key, Value, VisitSource},
};
use serde::Serialize;

use super::journal;

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Time, level, module and message
    #[default]
    Text,
    /// One JSON object per line: time, level, target, message, and rule or interface where known
    Json,
    /// For the journal: its fields, or for another standard error a priority and the message
    Journal,
    /// For the journal itself: an entry with fields.
    #[value(skip)]
    Entry,
}

/// One line in JSON.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'a str,
    target: &'a str,
    message: &'a str,
    /// What it is about: `rule`, `interface`.
    #[serde(flatten)]
    about: BTreeMap<String, String>,
}

impl LogFormat {
    /// Writes `record` as one line, in JSON or for the journal; text is env_logger's own.
    ///
    /// # Errors
    ///
    /// The writer's.
    pub fn write(self, to: &mut impl Write, record: &Record<'_>) -> io::Result<()> {
        let mut about = About::default();
        // This visitor never fails.
        let _ = record.key_values().visit(&mut about);
        let message = record.args().to_string();
        to.write_all(&self.line(record.level(), record.target(), &message, about.0))
    }

    /// A text that is no line of the log: why the relay ended, a panic, lines that were lost.
    #[must_use]
    pub fn say(self, text: &str) -> Vec<u8> {
        match self {
            Self::Text => format!("{text}\n").into_bytes(),
            Self::Json | Self::Journal | Self::Entry => {
                self.line(Level::Error, "relay", text, BTreeMap::new())
            }
        }
    }

    fn line(
        self,
        level: Level,
        target: &str,
        message: &str,
        about: BTreeMap<String, String>,
    ) -> Vec<u8> {
        let priority = priority(level);
        if self == Self::Entry {
            let number = priority.to_string();
            let fields = [
                ("MESSAGE", message),
                ("PRIORITY", &number),
                ("SYSLOG_IDENTIFIER", "relay"),
                ("TARGET", target),
            ];
            let about = about.iter().map(|(key, value)| (&key[..], &value[..]));
            return journal::entry(fields.into_iter().chain(about));
        }
        if self == Self::Json {
            let line = Line {
                time: format!("{:.3}", Timestamp::now()),
                level: level.as_str(),
                target,
                message,
                about,
            };
            // It never fails: all keys and values are strings.
            let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
            bytes.push(b'\n');
            return bytes;
        }
        let lines = message.lines().map(|line| format!("<{priority}>{line}\n"));
        lines.collect::<String>().into_bytes()
    }
}

/// The priority of sd-daemon(3), which is that of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Collects the key-values of a record.
#[derive(Default)]
struct About(BTreeMap<String, String>);

impl<'a> VisitSource<'a> for About {
    fn visit_pair(&mut self, key: Key<'a>, value: Value<'a>) -> Result<(), kv::Error> {
        let value = value.to_string();
        // An error that may be about an interface, and is about none.
        if !value.is_empty() {
            self.0.insert(key.to_string(), value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, level: Level, message: &str) -> String {
        let about = [("interface", "in0")];
        let mut bytes = Vec::new();
        let args = format_args!("{message}");
        let record = Record::builder()
            .level(level)
            .target("relay::daemon")
            .key_values(&about)
            .args(args)
            .build();
        format.write(&mut bytes, &record).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_in_json_is_one_object_with_what_it_is_about() {
        let text = line(LogFormat::Json, Level::Warn, "in0 is \"down\"\n  at all");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["level"], "WARN");
        assert_eq!(object["target"], "relay::daemon");
        assert_eq!(object["message"], "in0 is \"down\"\n  at all");
        assert_eq!(object["interface"], "in0");
        let time: Timestamp = object["time"].as_str().unwrap().parse().unwrap();
        assert!(Timestamp::now().duration_since(time).as_secs() < 60);
        let said = LogFormat::Json.say("relay: no\nnot at all");
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["message"], "relay: no\nnot at all");
        assert_eq!(said["level"], "ERROR");
    }

    #[test]
    fn an_entry_of_the_journal_has_what_it_is_about_as_fields() {
        assert_eq!(
            line(LogFormat::Entry, Level::Warn, "in0 is down"),
            "MESSAGE=in0 is down\nPRIORITY=4\nSYSLOG_IDENTIFIER=relay\nTARGET=relay::daemon\n\
             INTERFACE=in0\n"
        );
    }

    #[test]
    fn every_line_for_the_journal_has_its_priority() {
        let levels = [
            (Level::Error, 3),
            (Level::Warn, 4),
            (Level::Info, 6),
            (Level::Debug, 7),
            (Level::Trace, 7),
        ];
        for (level, priority) in levels {
            let text = line(LogFormat::Journal, level, "one\ntwo");
            assert_eq!(text, format!("<{priority}>one\n<{priority}>two\n"));
        }
        assert_eq!(LogFormat::Journal.say("relay: no"), b"<3>relay: no\n");
        assert_eq!(LogFormat::Text.say("relay: no"), b"relay: no\n");
    }
}
