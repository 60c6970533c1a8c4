//! From numbers to a job: how many flows, outputs of each, and rules.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Result, ensure};
use relay_tests::rules::output_destination;
use serde::{Deserialize, Serialize};

use crate::{
    job::{Flow, Job, Output},
    wire::Wires,
};

/// The destination port of every flow.
const PORT: u16 = 5001;
/// The most rules: groups and ports of their outputs must differ.
const MAX_RULES: usize = 50_000;

/// How large a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Copies of each datagram.
    pub outputs: usize,
    /// Flows with traffic.
    pub flows: usize,
    /// Rules; those beyond the flows get no traffic, and have one output each.
    pub rules: usize,
}

impl Load {
    /// The job, with the outputs spread over all wires of outputs.
    pub fn job(&self, wires: &Wires, cpu: u32) -> Result<Job> {
        ensure!(self.outputs > 0 && self.flows > 0, "no output, or no flow");
        ensure!(
            (self.flows..=MAX_RULES).contains(&self.rules),
            "{} rules for {} flows: there can be as many as flows to {MAX_RULES}",
            self.rules,
            self.flows
        );
        let (mut flows, mut next) = (Vec::new(), 0);
        for rule in 0..self.rules {
            let copies = if rule < self.flows { self.outputs } else { 1 };
            let outputs = wires.outputs.iter().cycle().take(copies).map(|wire| {
                let (group, port) = output_destination(next);
                next += 1;
                Output {
                    interface: wire.interface.clone(),
                    group,
                    port,
                }
            });
            flows.push(Flow {
                outputs: outputs.collect(),
                group: Ipv4Addr::new(239, 1, (rule / 250) as u8, (rule % 250) as u8 + 1),
                port: PORT,
            });
        }
        ensure!(
            next <= MAX_RULES,
            "{next} outputs: there can be {MAX_RULES}"
        );
        Ok(Job {
            namespace: Arc::clone(&wires.relay),
            cpu,
            input: wires.input.interface.clone(),
            flows,
        })
    }

    /// Group and port of the flows with traffic.
    pub fn traffic(&self, job: &Job) -> Vec<(Ipv4Addr, u16)> {
        let flows = job.flows.iter().take(self.flows);
        flows.map(|flow| (flow.group, flow.port)).collect()
    }
}
