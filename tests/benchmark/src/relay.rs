//! The relay as a contender: it runs with a rule file of the job, pinned to the job's CPU.

use std::{fmt::Write as _, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result};
use relay_tests::{
    relay::{RelayProcess, RuleFile, Stopped},
    rules::{Rule, to_toml},
    scrape::MetricsSocket,
};

use crate::{
    contender::command,
    framing::{Framing, VLAN, group6},
    job::Job,
    scraper::Scraper,
};

/// How the relay is asked to run; where a field is `None`, it chooses by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The flag `--backend`.
    pub backend: Option<String>,
    /// The key `transmit` of its output interfaces.
    pub transmit: Option<String>,
    /// Whether all that operators can watch is on: a monitor and `silence` for every rule, and
    /// metrics that are scraped once per second.
    pub watched: bool,
}

/// The relay at work on a job.
#[derive(Debug)]
pub struct Relay {
    process: RelayProcess,
    scraper: Option<Scraper>,
    _file: RuleFile,
}

impl Relay {
    /// Starts it and waits until it forwards.
    pub fn start(binary: &Path, job: &Job, options: &Options) -> Result<Self> {
        let mut text = rule_file(job, options.transmit.as_deref());
        let metrics = options.watched.then(MetricsSocket::new);
        if let Some(metrics) = &metrics {
            let keys = "\nmonitor = \"rtp\"\nsilence = \"1s\"\ninput = ";
            text = text.replace("\ninput = ", keys) + &metrics.table("");
        }
        let file = RuleFile::new(&text)?;
        let mut command = command::pinned(job, binary)?;
        command.args(["run", "--json"]);
        // On a veth the relay takes a VLAN rule to io_uring, unless it is asked for XDP: there the
        // tag may lie beside the bytes. The generator's frames have it in the bytes.
        let tagged = (job.framing == Framing::Tagged).then_some("xdp");
        if let Some(backend) = options.backend.as_deref().or(tagged) {
            command.args(["--backend", backend]);
        }
        command.arg(file.path());
        let process = RelayProcess::start_of_any_age(binary, command)
            .with_context(|| format!("starting {}", binary.display()))?;
        let scraper = metrics.map(|metrics| Scraper::start(metrics, job.cpu));
        Ok(Self {
            process,
            scraper: scraper.transpose()?,
            _file: file,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it and returns its report.
    pub fn stop(self) -> Result<Stopped> {
        if let Some(scraper) = self.scraper {
            scraper.stop()?;
        }
        self.process.stop()
    }
}

fn rule_file(job: &Job, transmit: Option<&str>) -> String {
    let rules: Vec<Rule> = (0..)
        .zip(&job.flows)
        .map(|(n, flow)| rule(job, n, flow))
        .collect();
    let mut text = to_toml(&rules);
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "[[interfaces]]\nname = \"{}\"\ncpus = [{}]\noffloads = \"manage\"",
        job.input, job.cpu
    );
    let Some(transmit) = transmit else {
        return text;
    };
    let outputs = job.flows.iter().flat_map(|flow| &flow.outputs);
    let mut names: Vec<&str> = outputs.map(|output| output.interface.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let _ = writeln!(
            text,
            "\n[[interfaces]]\nname = \"{name}\"\ntransmit = \"{transmit}\""
        );
    }
    text
}

fn rule(job: &Job, n: usize, flow: &crate::job::Flow) -> Rule {
    let (group, port) = (flow.group, flow.port);
    let mut rule = Rule::new(format!("feed-{n}"), &job.input, group, port);
    rule.takes = match job.framing {
        Framing::Ipv4 => flow.takes.clone(),
        Framing::Tagged => Some(format!("group = \"{group}\", port = {port}, vlan = {VLAN}")),
        Framing::Ipv6 => Some(six(group, port)),
    };
    flow.outputs.iter().fold(rule, |rule, output| {
        let (group, port) = (output.group, output.port);
        match job.framing {
            Framing::Ipv4 | Framing::Tagged if !group.is_multicast() => {
                let host = format!("address = \"{group}\", port = {port}");
                rule.output_that_goes(&output.interface, &host)
            }
            Framing::Ipv4 | Framing::Tagged => rule.output(&output.interface, group, port),
            Framing::Ipv6 => rule.output_that_goes(&output.interface, &six(group, port)),
        }
    })
}

/// The keys of the IPv6 group that `group` stands for.
fn six(group: Ipv4Addr, port: u16) -> String {
    format!("group = \"{}\", port = {port}", group6(group))
}
