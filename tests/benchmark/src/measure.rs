//! What is measured of one contender in one scenario, in one round.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    bed::{Bed, CONTENDER_CPU, GENERATOR_CPU},
    capacity::{self, Step},
    contender::Contender,
    drops::Drops,
    histogram::Histogram,
    scenario::Scenario,
    stalls::{Stalls, Watch},
    trial::Trial,
};

/// The rate of the first latency, in frames per second: far below the limit of any contender.
pub const LOW_RATE: u64 = 10_000;
/// How many times the loss-free rate is offered to measure the output under overload.
pub const OVERLOAD: u64 = 3;
/// The trials of the search, in seconds.
const SEARCH_SECONDS: f64 = 0.3;
/// The trials at the low rate: how many, and each in seconds. Before and after each of them, an idle
/// loop watches for stalls.
const LOW_TRIALS: usize = 2;
const LOW_SECONDS: f64 = 0.8;
const WATCH: Duration = Duration::from_millis(400);
/// The other trials, in seconds.
const TRIAL_SECONDS: f64 = 1.0;

/// Latencies from the generator to the sinks, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the datagrams are not above it.
    pub p50: f64,
    /// 99 of 100 datagrams are not above it.
    pub p99: f64,
    /// 999 of 1000 datagrams are not above it.
    pub p999: f64,
}

impl Latency {
    /// `None` if nothing arrived.
    pub fn of(histogram: &Histogram) -> Option<Self> {
        Self::set_aside(histogram, 0.0)
    }

    /// Of what is left when the slowest datagrams are set aside, as large a share of all of them as
    /// `share` says.
    pub fn set_aside(histogram: &Histogram, share: f64) -> Option<Self> {
        let us = |per_mille| Some(histogram.per_mille(per_mille * (1.0 - share))? as f64 / 1e3);
        Some(Self {
            p50: us(500.0)?,
            p99: us(990.0)?,
            p999: us(999.0)?,
        })
    }
}

/// The numbers. Rates are in frames per second.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measures {
    /// The highest rate of input without loss; `None` where the contender shares a core with the
    /// generator.
    pub loss_free_in: Option<f64>,
    /// Copies out at that rate.
    pub loss_free_out: Option<f64>,
    /// The generator, and not the contender, was the limit.
    pub limited_by_generator: bool,
    /// Copies out while three times that rate is offered.
    pub overload_out: Option<f64>,
    /// Nanoseconds of CPU time of the contender's processes per copy, at the loss-free rate.
    pub cpu_ns_per_copy: Option<f64>,
    /// At [`LOW_RATE`], of all datagrams.
    pub latency_low: Option<Latency>,
    /// The same, [stalls set aside](crate::stalls).
    #[serde(default)]
    pub latency_low_aside: Option<Latency>,
    /// The stalls of the CPU that the contender works on, seen between the trials at that rate.
    #[serde(default)]
    pub stalls: Option<Stalls>,
    /// At half of the loss-free rate.
    pub latency_half: Option<Latency>,
    /// Everything that was dropped over all trials, the overload too, by the place that counted it.
    pub drops: Drops,
    /// Copies, over all trials, that neither arrived nor were counted as lost: 0 unless something
    /// is wrong. `None` for a contender that counts nothing.
    pub unaccounted: Option<i64>,
}

/// The result of a contender.
#[derive(Debug)]
pub enum Outcome {
    /// It did the job.
    Measured(Box<Measures>),
    /// It cannot do this job; with the reason.
    Cannot(String),
}

/// Starts the contender on wires of its own, and measures. `confirm_seconds` is how long there must
/// be no loss at the loss-free rate; `known` is that rate as an earlier round found it.
pub fn measure(
    scenario: &Scenario,
    contender: &Contender,
    programs: &Path,
    confirm_seconds: f64,
    known: Option<f64>,
) -> Result<Outcome> {
    let mut bed = Bed::new(scenario, programs)?;
    if let Err(why) = contender.can(&bed.job) {
        return Ok(Outcome::Cannot(why));
    }
    bed.expect(&contender.delivered(&bed.job))?;
    let running = contender.start(&bed.job)?;
    let pids = running.pids();
    let mut run = |rate, seconds| bed.trial(rate, seconds, &pids);
    let mut measures = Measures::default();
    low(&mut measures, contender, &mut run)?;
    if contender.has_own_core() {
        capacity(&mut measures, confirm_seconds, known, &mut run)?;
        if pids.is_empty() {
            measures.cpu_ns_per_copy = None;
        }
    }
    bed.drain()?;
    let lost = running.stop()?;
    let balance = bed.balance()?;
    measures.unaccounted = contender.is_relay().then(|| balance.unaccounted(&lost.own));
    measures.drops = lost.all();
    Ok(Outcome::Measured(Box::new(measures)))
}

/// The latency at the low rate, and the stalls of the CPU that the contender works on.
fn low(
    measures: &mut Measures,
    contender: &Contender,
    run: &mut impl FnMut(u64, f64) -> Result<Trial>,
) -> Result<()> {
    let cpu = if contender.has_own_core() {
        CONTENDER_CPU as usize
    } else {
        GENERATOR_CPU
    };
    let (mut latencies, mut watch) = (Histogram::default(), Watch::default());
    watch.look(cpu, WATCH)?;
    for _ in 0..LOW_TRIALS {
        latencies.merge(&run(LOW_RATE, LOW_SECONDS)?.latency);
        watch.look(cpu, WATCH)?;
    }
    let stalls = watch.stalls();
    measures.latency_low = Latency::of(&latencies);
    measures.latency_low_aside =
        stalls.and_then(|stalls| Latency::set_aside(&latencies, stalls.share));
    measures.stalls = stalls;
    Ok(())
}

fn capacity(
    measures: &mut Measures,
    confirm_seconds: f64,
    known: Option<f64>,
    run: &mut impl FnMut(u64, f64) -> Result<Trial>,
) -> Result<()> {
    let found = capacity::search(known, |rate| {
        let trial = run(rate, SEARCH_SECONDS)?;
        Ok(Step {
            exact: trial.is_exact(),
            lost: trial.lost_part(),
            offered: trial.offered_rate,
        })
    })?;
    let (rate, best) = capacity::confirm(found.rate, |rate| {
        // Most rates that fail do so soon, which a short trial shows in less time.
        let mut trial = run(rate, TRIAL_SECONDS)?;
        if trial.is_exact() && confirm_seconds > TRIAL_SECONDS {
            trial = run(rate, confirm_seconds)?;
        }
        Ok((trial.is_exact(), trial))
    })
    .context("confirming the highest rate without loss")?;
    measures.loss_free_in = Some(best.offered_rate);
    measures.loss_free_out = Some(best.received_rate());
    measures.limited_by_generator = found.by_generator;
    measures.cpu_ns_per_copy = Some(best.cpu_ns_per_copy());
    measures.latency_half = Latency::of(&run(rate / 2, TRIAL_SECONDS)?.latency);
    measures.overload_out = Some(run(rate * OVERLOAD, TRIAL_SECONDS)?.received_rate());
    Ok(())
}
