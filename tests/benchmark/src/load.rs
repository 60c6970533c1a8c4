//! From numbers to a job: how many flows, outputs of each, and rules.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Result, ensure};
use relay_tests::rules::output_destination;
use serde::{Deserialize, Serialize};

use crate::{
    framing::Framing,
    job::{Flow, Job, Output},
    wire::{Wires, host},
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
    /// Senders of each of them, with an address and a source port each.
    #[serde(default = "one")]
    pub senders: u16,
    /// Rules; those beyond the flows get no traffic, and have one output each.
    pub rules: usize,
    /// What the rules match.
    #[serde(default)]
    pub matches: Matches,
    /// Where copies go.
    #[serde(default)]
    pub to: To,
}

/// Of results that were written before there was a choice.
fn one() -> u16 {
    1
}

/// Where the copies of a job go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// To groups, each to one of its own.
    #[default]
    Groups,
    /// To the hosts on the link of the wire, each to a port of its own.
    Hosts,
}

/// What the rules of a job match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Matches {
    /// One group and one port each.
    #[default]
    Exact,
    /// In turn: a range of ports in a prefix of 24 bits, one group and one port, the same from one
    /// source, and any port in a prefix of 28 bits. The first one has the traffic: of frames that a
    /// rule takes, it costs the most look-ups.
    Mixed,
    /// One group and one port each, and the relay's own host gets the datagrams as well.
    Local,
}

impl Matches {
    /// The group of rule number `rule`, or the first one of its prefix, and the keys of its input
    /// where it takes more or less than that group and [`PORT`]. Of the groups in a prefix, the
    /// relay joins none: the sinks need no membership.
    fn of_rule(self, rule: usize, source: Ipv4Addr) -> (Ipv4Addr, Option<String>) {
        let one =
            |block: u8, n: usize| Ipv4Addr::new(239, block, (n / 250) as u8, (n % 250) as u8 + 1);
        match self {
            Self::Exact => return (one(1, rule), None),
            Self::Local => {
                let group = one(1, rule);
                let keys = format!("group = \"{group}\", port = {PORT}, local = true");
                return (group, Some(keys));
            }
            Self::Mixed => {}
        }
        let n = rule / 4;
        let prefix = |first: u8, len: usize| {
            let bits = (n << (32 - len)) as u32;
            Ipv4Addr::from_bits(Ipv4Addr::new(239, first, 0, 0).to_bits() + bits)
        };
        match rule % 4 {
            0 => {
                let group = prefix(32, 24);
                let ports = format!("{PORT}-{}", PORT + 9);
                (
                    group,
                    Some(format!(
                        "group = \"{group}/24\", port = \"{ports}\", join = false"
                    )),
                )
            }
            1 => (one(1, n), None),
            2 => {
                let group = one(2, n);
                let keys = format!("group = \"{group}\", port = {PORT}, source = \"{source}\"");
                (group, Some(keys))
            }
            _ => {
                let group = prefix(128, 28);
                (
                    group,
                    Some(format!(
                        "group = \"{group}/28\", port = \"any\", join = false"
                    )),
                )
            }
        }
    }
}

impl Load {
    /// The job, with the outputs spread over all wires of outputs.
    pub fn job(&self, wires: &Wires, cpu: u32) -> Result<Job> {
        ensure!(self.outputs > 0 && self.flows > 0, "no output, or no flow");
        ensure!(self.senders > 0, "no sender");
        ensure!(
            (self.flows..=MAX_RULES).contains(&self.rules),
            "{} rules for {} flows: there can be as many as flows to {MAX_RULES}",
            self.rules,
            self.flows
        );
        let (mut flows, mut next) = (Vec::new(), 0);
        for rule in 0..self.rules {
            let copies = if rule < self.flows { self.outputs } else { 1 };
            let outputs = wires.outputs.iter().enumerate().cycle().take(copies);
            let outputs = outputs.map(|(number, wire)| {
                let (group, port) = output_destination(next);
                let group = match self.to {
                    To::Groups => group,
                    To::Hosts => host(number, next),
                };
                next += 1;
                Output {
                    interface: wire.interface.clone(),
                    group,
                    port,
                }
            });
            let outputs = outputs.collect();
            let (group, takes) = self.matches.of_rule(rule, wires.source.address);
            flows.push(Flow {
                group,
                port: PORT,
                takes,
                outputs,
            });
        }
        ensure!(
            next <= MAX_RULES,
            "{next} outputs: there can be {MAX_RULES}"
        );
        Ok(Job {
            namespace: Arc::clone(&wires.relay),
            cpu,
            framing: Framing::Ipv4,
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
