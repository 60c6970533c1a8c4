//! Everything around a contender: the wires of a scenario, the generator and the sinks at their
//! ends.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context, Result};

use crate::{
    account::Balance,
    cpu,
    framing::Framing,
    generator::{Generator, Sent, Traffic},
    job::Job,
    scenario::Scenario,
    sink::{Expected, Sink},
    trial::Trial,
    wire::{Shape, Wires},
};

/// The CPU of the contender, and with it of the sinks: they run in its system calls.
pub const CONTENDER_CPU: u32 = 0;
/// The CPU of the generator, and of the input's interrupts.
pub const GENERATOR_CPU: usize = 1;

/// For how long traffic flows before it counts, in seconds.
const WARM_UP: f64 = 0.1;

/// One scenario, ready for a contender.
#[derive(Debug)]
pub struct Bed {
    /// What the contender has to do.
    pub job: Job,
    wires: Wires,
    generator: Generator,
    sink: Sink,
    flows: Vec<(Ipv4Addr, u16)>,
    senders: u16,
    framing: Framing,
    expected: Vec<Expected>,
    payload: usize,
    offered: u64,
    /// Nothing of the trial before can arrive any more.
    is_quiet: bool,
}

impl Bed {
    /// Makes the hosts and wires, and attaches the sinks. `programs` is the object of the
    /// benchmark's kernel programs.
    pub fn new(scenario: &Scenario, programs: &Path) -> Result<Self> {
        let wires = Wires::new(Shape {
            interfaces: scenario.interfaces,
            mtu: 1500,
            ipv6: scenario.framing == Framing::Ipv6,
        })?;
        let job = Job {
            framing: scenario.framing,
            ..scenario.load.job(&wires, CONTENDER_CPU)?
        };
        Ok(Self {
            generator: Generator::new(programs, &wires.source, GENERATOR_CPU)?,
            sink: Sink::attach(programs, &wires.sinks, scenario.next_hop)?,
            flows: scenario.load.traffic(&job),
            senders: scenario.load.senders,
            framing: scenario.framing,
            expected: Vec::new(),
            payload: scenario.payload,
            offered: 0,
            is_quiet: false,
            job,
            wires,
        })
    }

    /// Makes the sinks expect the copies in `delivered` of the flows with traffic.
    pub fn expect(&mut self, delivered: &Job) -> Result<()> {
        self.expected.clear();
        let senders = u32::from(self.senders);
        for (flow, rule) in (0..).zip(delivered.flows.iter().take(self.flows.len())) {
            for output in &rule.outputs {
                let mut wires = self.wires.outputs.iter();
                let wire = wires
                    .position(|end| end.interface == output.interface)
                    .with_context(|| format!("no wire leaves by {}", output.interface))?;
                self.expected.push(Expected {
                    wire,
                    group: output.group,
                    port: output.port,
                    flows: flow * senders..(flow + 1) * senders,
                    ipv6: self.framing == Framing::Ipv6,
                });
            }
        }
        self.sink.expect(&self.expected, self.payload)
    }

    /// Runs one trial: `rate` frames per second for some seconds. `processes` are the contender's.
    pub fn trial(&mut self, rate: u64, seconds: f64, processes: &[u32]) -> Result<Trial> {
        if !self.is_quiet {
            self.sink.drain()?;
        }
        self.send(rate, WARM_UP)?;
        self.sink.drain()?;
        let refused = self.wires.refused()?;
        let used = cpu_ns(processes)?;
        let sent = self.send(rate, seconds)?;
        let used = cpu_ns(processes)?.saturating_sub(used);
        self.is_quiet = self.sink.settle()?;
        let refused = self.wires.refused()?.saturating_sub(refused);
        let received = self.sink.read()?;
        Ok(Trial::new(&sent, &self.expected, received, refused, used))
    }

    /// Only sends.
    pub fn send(&mut self, rate: u64, seconds: f64) -> Result<Sent> {
        let sent = self.generator.run(&Traffic {
            rate,
            seconds,
            payload: self.payload,
            flows: self.flows.clone(),
            senders: self.senders,
            framing: self.framing,
        })?;
        self.offered += sent.frames;
        self.is_quiet = false;
        Ok(sent)
    }

    /// Waits until no frame is on its way any more. Stop a contender only after that: it could not
    /// account for frames that it still holds.
    pub fn drain(&mut self) -> Result<()> {
        self.sink.drain()
    }

    /// What went in and what came out since the wires were made.
    pub fn balance(&mut self) -> Result<Balance> {
        Ok(Balance {
            offered: self.offered,
            refused: self.wires.refused()?,
            outputs: (self.expected.len() / self.flows.len()) as u64,
            arrived: self.sink.arrived()?,
        })
    }
}

fn cpu_ns(processes: &[u32]) -> Result<u64> {
    processes.iter().map(|&id| cpu::process_ns(id)).sum()
}
