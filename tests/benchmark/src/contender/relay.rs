//! The relay as a contender.

use std::path::Path;

use anyhow::{Result, ensure};

use super::active::Active;
use crate::{
    drops::Drops,
    job::Job,
    relay::{Options, Relay},
};

pub(super) fn start(job: &Job, binary: &Path, options: &Options) -> Result<Box<dyn Active>> {
    Ok(Box::new(Relay::start(binary, job, options)?))
}

impl Active for Relay {
    fn pids(&self) -> Vec<u32> {
        vec![self.id()]
    }

    fn stop(self: Box<Self>) -> Result<Drops> {
        let stopped = (*self).stop()?;
        ensure!(
            stopped.status.success(),
            "the relay ended with {}; its log is:\n{}",
            stopped.status,
            stopped.log
        );
        let mut dropped = stopped.report.dropped;
        // Not of copies.
        dropped.remove("local_failed");
        Ok(dropped)
    }
}
