//! Scrapes a relay's metrics once per second, as a Prometheus does.
//!
//! It runs on the relay's CPU: on the generator's it would run between two trials alone. So what
//! the client costs counts as the relay's.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{sched::sched_setaffinity, unistd::Pid};
use relay_tests::scrape::MetricsSocket;

use crate::contender::command;

const EVERY: Duration = Duration::from_secs(1);

/// A thread that scrapes.
#[derive(Debug)]
pub struct Scraper {
    end: mpsc::Sender<()>,
    thread: JoinHandle<Result<()>>,
    metrics: Arc<MetricsSocket>,
}

impl Scraper {
    /// Begins to scrape a relay that is ready.
    pub fn start(metrics: MetricsSocket, cpu: u32) -> Result<Self> {
        let (end, ended) = mpsc::channel();
        let metrics = Arc::new(metrics);
        let cpus = command::only(cpu)?;
        let of = Arc::clone(&metrics);
        let thread = thread::spawn(move || {
            sched_setaffinity(Pid::from_raw(0), &cpus).context("pinning the scraper")?;
            loop {
                of.scrape()?;
                if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return Ok(());
                }
            }
        });
        Ok(Self {
            end,
            thread,
            metrics,
        })
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// A scrape failed, or the relay did not understand what it should have monitored.
    pub fn stop(self) -> Result<()> {
        drop(self.end);
        let scraped = self.thread.join();
        scraped.map_err(|_| anyhow!("the scraper panicked"))??;
        let series = self.metrics.scrape()?;
        let label = "{rule=\"feed-0\"}";
        let received = series.value(&format!("relay_rule_received_packets_total{label}"))?;
        let strange = series.value(&format!("relay_feed_not_understood_packets_total{label}"))?;
        let sources = series.value(&format!("relay_feed_sources{label}"))?;
        ensure!(
            received == 0.0 || (strange == 0.0 && sources > 0.0),
            "the monitor did not see the feed: {series:#?}"
        );
        Ok(())
    }
}
