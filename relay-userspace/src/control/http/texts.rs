//! The texts of the last snapshot, made once and shared by all clients that ask for them.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use hyper::body::Bytes;

use crate::observe::{exposition::Format, metrics, snapshot::Snapshot};

/// The most texts in memory that clients still read, those of the last snapshot included.
const MOST: usize = 12;

/// What to show of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Its metrics.
    Metrics(Format),
    /// All of it as JSON.
    Status,
}

impl Part {
    /// The type of the text.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Metrics(format) => format.content_type(),
            Self::Status => "application/json",
        }
    }
}

/// The texts of the last snapshot, and which of former ones are still read.
#[derive(Default)]
pub struct Texts {
    of: Option<Arc<Snapshot>>,
    made: HashMap<Part, Arc<Vec<u8>>>,
    alive: Vec<Weak<Vec<u8>>>,
}

/// Bytes that belong to everybody who reads them.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Texts {
    /// A part of `snapshot`; `None` if too many texts of former ones are still read.
    pub fn of(&mut self, snapshot: &Arc<Snapshot>, part: Part, outputs: bool) -> Option<Bytes> {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, snapshot)) {
            self.of = Some(Arc::clone(snapshot));
            self.made.clear();
        }
        if let Some(text) = self.made.get(&part) {
            return Some(Bytes::from_owner(Shared(Arc::clone(text))));
        }
        self.alive.retain(|text| text.strong_count() > 0);
        if self.alive.len() >= MOST {
            return None;
        }
        let text = Arc::new(match part {
            Part::Metrics(format) => metrics::text(snapshot, format, outputs).into_bytes(),
            // A snapshot's maps have strings for keys, and writing to a vector cannot fail.
            Part::Status => serde_json::to_vec(snapshot.as_ref()).unwrap_or_default(),
        });
        self.alive.push(Arc::downgrade(&text));
        self.made.insert(part, Arc::clone(&text));
        Some(Bytes::from_owner(Shared(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::snapshot;

    #[test]
    fn a_text_is_made_once_per_snapshot_and_there_are_never_more_than_so_many() {
        let part = Part::Metrics(Format::Text);
        let mut texts = Texts::default();
        let mut read = Vec::new();
        for number in 0..MOST {
            let snapshot = Arc::new(snapshot(0));
            let text = texts.of(&snapshot, part, true).unwrap();
            let again = texts.of(&snapshot, part, true).unwrap();
            assert_eq!(text.as_ptr(), again.as_ptr(), "{number}");
            read.push(text);
        }
        let snapshot = Arc::new(snapshot(0));
        assert_eq!(texts.of(&snapshot, part, true), None);
        read.remove(3);
        let text = texts.of(&snapshot, part, true).unwrap();
        assert!(text.starts_with(b"# HELP relay_info"), "{text:?}");
    }
}
