//! The relay as a contender: a rule file out of the job, and its own report.

use std::{fmt::Write as _, path::Path};

use anyhow::{Result, ensure};
use relay_tests::{
    relay::RelayProcess,
    rules::{Rule, to_toml},
};

use super::{Active, Drops, command};
use crate::job::Job;

struct Relay {
    process: RelayProcess,
    _scratch: command::Scratch,
}

pub(super) fn start(job: &Job, binary: &Path, transmit: Option<&str>) -> Result<Box<dyn Active>> {
    let scratch = command::Scratch::new()?;
    let file = scratch.write("relay.toml", &rule_file(job, transmit))?;
    let mut command = command::pinned(job, binary)?;
    command.args(["run", "--json"]).arg(file);
    Ok(Box::new(Relay {
        process: RelayProcess::start_command(command)?,
        _scratch: scratch,
    }))
}

/// One rule a flow, the worker pinned, and the way out where one is asked for.
fn rule_file(job: &Job, transmit: Option<&str>) -> String {
    let rules: Vec<Rule> = job
        .flows
        .iter()
        .enumerate()
        .map(|(number, flow)| {
            let rule = Rule::new(format!("flow-{number}"), &job.input, flow.group, flow.port);
            flow.outputs.iter().fold(rule, |rule, output| {
                rule.output(&output.interface, output.group, output.port)
            })
        })
        .collect();
    let mut text = to_toml(&rules);
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "[[interfaces]]\nname = \"{}\"\ncpus = [{}]",
        job.input, job.cpu
    );
    if let Some(transmit) = transmit {
        for name in job.output_interfaces() {
            let _ = writeln!(
                text,
                "\n[[interfaces]]\nname = \"{name}\"\ntransmit = \"{transmit}\""
            );
        }
    }
    text
}

impl Active for Relay {
    fn pids(&self) -> Vec<u32> {
        vec![self.process.id()]
    }

    fn stop(self: Box<Self>) -> Result<Drops> {
        let stopped = self.process.stop()?;
        ensure!(
            stopped.status.success(),
            "the relay ended with {}; its log is:\n{}",
            stopped.status,
            stopped.log
        );
        Ok(stopped.report.dropped)
    }
}
