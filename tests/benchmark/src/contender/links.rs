//! What the interfaces of a contender dropped while it ran.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result};
use relay_tests::netns::Namespace;
use serde::Deserialize;

use crate::{drops::Drops, job::Job};

/// The drop counters of a job's interfaces when the contender started.
#[derive(Debug)]
pub struct Links {
    namespace: Arc<Namespace>,
    input: String,
    outputs: BTreeSet<String>,
    before: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    input_rx: u64,
    output_tx: u64,
}

/// One entry of `ip --json --statistics link show`.
#[derive(Debug, Deserialize)]
struct Link {
    ifname: String,
    stats64: Stats,
}

#[derive(Debug, Deserialize)]
struct Stats {
    rx: Direction,
    tx: Direction,
}

#[derive(Debug, Deserialize)]
struct Direction {
    dropped: u64,
}

impl Links {
    /// Reads the counters for the first time.
    pub fn new(job: &Job) -> Result<Self> {
        let mut links = Self {
            namespace: Arc::clone(&job.namespace),
            input: job.input.clone(),
            outputs: job
                .output_interfaces()
                .into_iter()
                .map(Into::into)
                .collect(),
            before: Counts::default(),
        };
        links.before = links.read()?;
        Ok(links)
    }

    /// What was dropped since.
    pub fn drops(&self) -> Result<Drops> {
        let now = self.read()?;
        Ok(Drops::from([
            (
                "input_interface_dropped".to_owned(),
                now.input_rx.saturating_sub(self.before.input_rx),
            ),
            (
                "output_interfaces_dropped".to_owned(),
                now.output_tx.saturating_sub(self.before.output_tx),
            ),
        ]))
    }

    fn read(&self) -> Result<Counts> {
        let text = self.namespace.ip("--json --statistics link show")?;
        let links: Vec<Link> =
            serde_json::from_str(&text).context("reading the statistics of the interfaces")?;
        let mut counts = Counts::default();
        for link in links {
            if link.ifname == self.input {
                counts.input_rx += link.stats64.rx.dropped;
            }
            if self.outputs.contains(&link.ifname) {
                counts.output_tx += link.stats64.tx.dropped;
            }
        }
        Ok(counts)
    }
}
