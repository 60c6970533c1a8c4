//! The counters of a worker's rules and outputs, as control reads them.

use crate::datapath::{
    monitor::Health,
    slots::OutputIdentity,
    stats::{Dropped, OutputStats, WorkerStats},
};

/// The counters of one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputCounters {
    /// What the output is known by.
    pub output: OutputIdentity,
    /// Copies that the device took.
    pub sent: u64,
    /// Copies that did not leave, by reason, in the order of [`Dropped::ALL`].
    pub drops: [u64; Dropped::COUNT],
}

impl OutputCounters {
    /// What a worker has counted for `output`, which has this slot.
    pub(super) fn read(stats: &WorkerStats, output: &OutputIdentity, slot: u32) -> Self {
        let stats = stats.outputs.get(slot as usize);
        Self {
            output: output.clone(),
            sent: stats.map_or(0, |stats| stats.sent.get()),
            drops: stats.map_or([0; Dropped::COUNT], OutputStats::drops_by_reason),
        }
    }
}

/// The counters of one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowCounters {
    /// Frames that matched.
    pub matched: u64,
    /// Bytes of UDP payload in them.
    pub bytes: u64,
    /// Frames that matched and were not given back to the Linux stack.
    pub local_failed: u64,
    /// What its monitor knows, if it has one.
    pub health: Option<Health>,
    /// Its outputs, in the plan's order.
    pub outputs: Vec<OutputCounters>,
}

impl FlowCounters {
    /// The counters of one of its outputs.
    #[must_use]
    pub fn output(&self, output: &OutputIdentity) -> Option<&OutputCounters> {
        self.outputs.iter().find(|one| one.output == *output)
    }
}

/// The last numbers of a rule that a worker no longer has, or of some of its outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// The rule's name.
    pub rule: String,
    /// Frames that matched it; `None` if the worker still has the rule, without these outputs.
    pub matched: Option<u64>,
    /// Bytes of UDP payload in them; 0 if the worker still has the rule.
    pub bytes: u64,
    /// Frames that were not given back to the Linux stack; 0 if the worker still has the rule.
    pub local_failed: u64,
    /// What its monitor knew; `None` if the worker still has the rule, or if it had none.
    pub health: Option<Health>,
    /// The outputs that are gone.
    pub outputs: Vec<OutputCounters>,
}
