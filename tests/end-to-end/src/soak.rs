//! What a soak run has measured: the test writes it, `relay-bench soak` draws it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;

/// A run on one backend.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The backend.
    pub backend: Backend,
    /// What all random choices follow from.
    pub seed: u64,
    /// How long it was to run.
    pub minutes: f64,
    /// How long it ran.
    pub seconds: f64,
    /// The running kernel.
    pub kernel: String,
    /// How often each kind of action was taken.
    pub actions: BTreeMap<String, u64>,
    /// Frames that were sent, by what sent them, and what became of them.
    pub frames: BTreeMap<String, u64>,
    /// Quiet points at which the accounts were settled.
    pub settled: u64,
    /// Every relay process.
    pub lives: Vec<Life>,
    /// What is said of each life at the end, in words.
    pub verdicts: Vec<String>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// One relay process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Life {
    /// Seconds from the beginning of the run to the start of the process.
    pub began: f64,
    /// How it ended.
    pub ended: String,
    /// In order of time.
    pub samples: Vec<Sample>,
}

/// What a relay holds at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds from the beginning of the run.
    pub at: f64,
    /// Memory in RAM that no file backs, in KiB.
    pub resident_kib: u64,
    /// Memory that may not leave RAM, in KiB.
    pub locked_kib: u64,
    /// Open descriptors; a socket with two of them counts once.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Entries of the maps of its kernel programs; absent where they changed while they were read.
    pub map_entries: Option<usize>,
    /// All interfaces are there, the first rules run, and nothing is under way, so that all numbers
    /// must be those of every other such moment.
    pub at_home: bool,
}
