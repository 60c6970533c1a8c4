//! What the client of a tap is told in words: what its records name, and what was counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What records name by its position: where frames come in, or leave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapInterface {
    /// The interface's name; empty while the kernel's routing has none for an output.
    pub name: String,
    /// Which output of the rule, counted from 1.
    pub output: Option<u32>,
    /// Of what, for people.
    pub label: String,
}

/// What was counted while a tap was on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Why it ended.
    pub reason: String,
    /// How long it was on.
    pub seconds: f64,
    /// Frames that matched the rule.
    pub matched: u64,
    /// The outputs that it showed.
    pub outputs: Vec<OutputSummary>,
    /// What the kernel program passed, by its counters.
    pub passed: BTreeMap<String, u64>,
    /// Frames that came in and are in no record.
    pub lost_in: u64,
    /// Frames that left, or should have, and are in no record.
    pub lost_out: u64,
}

/// What was counted of an output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputSummary {
    /// Its position among the interfaces of the tap.
    pub at: u16,
    /// Copies that left.
    pub sent: u64,
    /// Copies that did not, by reason.
    pub dropped: BTreeMap<String, u64>,
}
