//! The status as JSON, made once per snapshot and shared by all clients that ask for it.

use std::sync::{Arc, Weak};

use serde::Serialize;

use crate::observe::snapshot::Snapshot;

/// A text above this size counts against [`MOST_LARGE`].
const LARGE: usize = 1 << 20;
/// Large texts in memory, the newest of each kind included.
const MOST_LARGE: usize = 6;

/// What to show of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Status,
    /// The rules.
    Rules,
}

/// The texts of the last snapshot, and which texts of former ones clients still read.
#[derive(Debug, Default)]
pub struct StatusTexts {
    of: Option<Arc<Snapshot>>,
    status: Option<Arc<Vec<u8>>>,
    rules: Option<Arc<Vec<u8>>>,
    large: Vec<Weak<Vec<u8>>>,
}

impl StatusTexts {
    /// The JSON of a part of `snapshot`.
    pub fn of(&mut self, snapshot: &Arc<Snapshot>, part: Part) -> Arc<Vec<u8>> {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, snapshot)) {
            self.of = Some(Arc::clone(snapshot));
            self.status = None;
            self.rules = None;
        }
        let kept = match part {
            Part::Status => &mut self.status,
            Part::Rules => &mut self.rules,
        };
        if let Some(text) = kept {
            return Arc::clone(text);
        }
        let text = Arc::new(match part {
            Part::Status => json(snapshot.as_ref()),
            Part::Rules => json(&snapshot.rules),
        });
        *kept = Some(Arc::clone(&text));
        self.large.retain(|weak| weak.strong_count() > 0);
        if text.len() > LARGE {
            self.large.push(Arc::downgrade(&text));
        }
        text
    }

    /// The oldest large text, if there are too many: its readers are the slowest.
    pub fn excess(&mut self) -> Option<Arc<Vec<u8>>> {
        self.large.retain(|weak| weak.strong_count() > 0);
        if self.large.len() <= MOST_LARGE {
            return None;
        }
        self.large.remove(0).upgrade()
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // A snapshot's maps have strings for keys, and writing to a vector cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}
