//! One trial: traffic at a rate through a running contender, and the result.

use crate::{
    generator::Sent,
    histogram::Histogram,
    sink::{Expected, Received},
};

/// The result of a trial.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Frames per second that were really offered.
    pub offered_rate: f64,
    /// For how long, in seconds.
    pub seconds: f64,
    /// Frames that were offered.
    pub sent: u64,
    /// Copies that should have arrived.
    pub wanted: u64,
    /// Copies that arrived at each output, flow by flow and sender by sender, in the order of the
    /// job.
    pub received: Vec<u64>,
    /// Copies that should have arrived and did not.
    pub lost: u64,
    /// Copies that arrived out of order or twice.
    pub late: u64,
    /// Copies with a wrong content.
    pub bad: u64,
    /// Offered frames that the wire in front of the contender had no room for. They are lost too.
    pub refused: u64,
    /// Latencies from the generator to the sinks.
    pub latency: Histogram,
    /// CPU time of the contender's processes.
    pub cpu_ns: u64,
}

impl Trial {
    /// Joins the counts of both ends. `cpu_ns` is the CPU time of the contender's processes.
    pub fn new(
        sent: &Sent,
        expected: &[Expected],
        arrived: Received,
        refused: u64,
        cpu_ns: u64,
    ) -> Self {
        let mut trial = Self {
            offered_rate: sent.rate(),
            seconds: sent.seconds,
            sent: sent.frames,
            wanted: 0,
            received: Vec::new(),
            lost: 0,
            late: 0,
            bad: 0,
            refused,
            latency: arrived.latency,
            cpu_ns,
        };
        let flows = expected.iter().flat_map(|one| one.flows.clone());
        for (slot, flow) in arrived.slots.iter().zip(flows) {
            let wanted = sent.per_flow.get(flow as usize).copied();
            let wanted = wanted.unwrap_or_default();
            trial.wanted += wanted;
            trial.received.push(slot.received);
            trial.lost += wanted.saturating_sub(slot.received);
            trial.late += slot.late;
            trial.bad += slot.bad;
        }
        trial
    }

    /// Copies that arrived.
    pub fn copies(&self) -> u64 {
        self.received.iter().sum()
    }

    /// Copies per second that arrived.
    pub fn received_rate(&self) -> f64 {
        self.copies() as f64 / self.seconds
    }

    /// The part of the copies that should have arrived and did not.
    pub fn lost_part(&self) -> f64 {
        self.lost as f64 / self.wanted.max(1) as f64
    }

    /// CPU time per copy that arrived, in nanoseconds.
    pub fn cpu_ns_per_copy(&self) -> f64 {
        self.cpu_ns as f64 / self.copies().max(1) as f64
    }

    /// Whether every copy arrived once, in order and as it should be.
    pub fn is_exact(&self) -> bool {
        self.lost == 0 && self.late == 0 && self.bad == 0 && self.copies() == self.wanted
    }
}
