//! One trial: traffic at a rate through a contender that runs, and what came of it.

use anyhow::{Result, ensure};

use crate::{
    cpu,
    generator::{Generator, Traffic},
    histogram::Histogram,
    job::Job,
    sink::{Expected, Sink},
    wire::Wires,
};

/// For how long traffic flows before it counts, in seconds.
const WARM_UP: f64 = 0.2;

/// What came of it.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Frames a second that were really offered.
    pub offered_rate: f64,
    /// For how long, in seconds.
    pub seconds: f64,
    /// Frames that were offered.
    pub sent: u64,
    /// Copies that should have arrived.
    pub wanted: u64,
    /// Copies that arrived at each output, flow by flow, in the order of the job.
    pub received: Vec<u64>,
    /// Copies that should have arrived and did not.
    pub lost: u64,
    /// Copies that arrived out of order or again.
    pub late: u64,
    /// Copies with a wrong content.
    pub bad: u64,
    /// Frames, of those offered, that the wire in front of the contender had no room for. They are lost too.
    pub refused: u64,
    /// From the generator to the sinks.
    pub latency: Histogram,
    /// CPU time of the contender's processes.
    pub cpu_ns: u64,
}

impl Trial {
    /// Copies that arrived.
    pub fn copies(&self) -> u64 {
        self.received.iter().sum()
    }

    /// Copies a second that arrived.
    pub fn received_rate(&self) -> f64 {
        self.copies() as f64 / self.seconds
    }

    /// CPU time for one copy that arrived, in nanoseconds.
    pub fn cpu_ns_per_copy(&self) -> f64 {
        self.cpu_ns as f64 / self.copies().max(1) as f64
    }

    /// Whether every copy arrived once, in order and as it should be.
    pub fn is_exact(&self) -> bool {
        self.lost == 0 && self.late == 0 && self.bad == 0 && self.copies() == self.wanted
    }
}

/// The two ends around a contender.
#[derive(Debug)]
pub struct Ends {
    /// Where the traffic comes from.
    pub generator: Generator,
    /// Where it goes.
    pub sink: Sink,
}

/// Where the copies of the first `flows` rules of a job arrive.
pub fn expected(job: &Job, wires: &Wires, flows: usize) -> Result<Vec<Expected>> {
    let mut slots = Vec::new();
    for (flow, rule) in (0..).zip(job.flows.iter().take(flows)) {
        for output in &rule.outputs {
            let named = |end: &relay_tests::veth::Endpoint| end.interface == output.interface;
            let wire = wires.outputs.iter().position(named);
            ensure!(wire.is_some(), "no wire leaves by {}", output.interface);
            slots.push(Expected {
                wire: wire.unwrap_or_default(),
                group: output.group,
                port: output.port,
                flow,
            });
        }
    }
    Ok(slots)
}

impl Ends {
    /// Runs one trial. `expected` is what the traffic's flows lead to, `processes` are the contender's.
    pub fn trial(
        &mut self,
        wires: &Wires,
        traffic: &Traffic,
        expected: &[Expected],
        processes: &[u32],
    ) -> Result<Trial> {
        self.sink.expect(expected, traffic.payload)?;
        let warm_up = Traffic {
            seconds: WARM_UP,
            ..traffic.clone()
        };
        self.generator.run(&warm_up)?;
        self.sink.settle()?;
        self.sink.reset()?;
        let refused = wires.refused()?;
        let used = cpu_ns(processes)?;
        let sent = self.generator.run(traffic)?;
        let used = cpu_ns(processes)?.saturating_sub(used);
        self.sink.settle()?;
        let refused = wires.refused()?.saturating_sub(refused);
        let arrived = self.sink.read()?;
        let mut trial = Trial {
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
            cpu_ns: used,
        };
        for (slot, one) in arrived.slots.iter().zip(expected) {
            let wanted = sent.per_flow.get(one.flow as usize).copied();
            let wanted = wanted.unwrap_or_default();
            trial.wanted += wanted;
            trial.received.push(slot.received);
            trial.lost += wanted.saturating_sub(slot.received);
            trial.late += slot.late;
            trial.bad += slot.bad;
        }
        Ok(trial)
    }
}

fn cpu_ns(processes: &[u32]) -> Result<u64> {
    processes.iter().map(|&id| cpu::process_ns(id)).sum()
}
