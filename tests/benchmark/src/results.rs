//! All results: every round of every contender, and the medians over the rounds.

use serde::{Deserialize, Serialize};

use crate::{
    machine::Machine,
    measure::{Latency, Measures},
    scenario::Scenario,
};

/// What `--json` writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// The machine.
    pub machine: Machine,
    /// How often everything was measured.
    pub rounds: usize,
    /// For how long, in seconds, a rate had to be without loss.
    pub confirm_seconds: f64,
    /// The machine's limits, if they were measured.
    pub ceilings: Vec<CeilingResult>,
    /// The price of frames that no rule takes, if it was measured.
    #[serde(default)]
    pub unmatched: Vec<UnmatchedResult>,
    /// The price of being watched, if it was measured.
    #[serde(default)]
    pub watched: Vec<WatchedResult>,
    /// By scenario.
    pub scenarios: Vec<ScenarioResult>,
    /// What could not be measured and should have been, one sentence each.
    pub failures: Vec<String>,
}

/// One of the machine's limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CeilingResult {
    /// What was measured.
    pub name: String,
    /// Frames per second, by round.
    pub rounds: Vec<f64>,
    /// Over the rounds.
    pub rate: Option<Spread>,
}

/// Frames that no rule takes, past one set of rules ([`crate::unmatched`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnmatchedResult {
    /// The frames and the rules.
    pub name: String,
    /// Of all rounds.
    pub pairs: Vec<UnmatchedPair>,
    /// The relay's rates divided by those of `XDP_PASS`: the median of all pairs, and as its bounds
    /// those of the middle half of them.
    pub ratio: Option<Spread>,
}

/// A scenario with all that operators can watch, beside the same without ([`crate::watched`]): the
/// median of all pairs, and as its bounds those of the middle half of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WatchedResult {
    /// The scenario.
    pub name: String,
    /// Copies out without loss.
    pub loss_free: Spread,
    /// Copies out under overload.
    pub overload: Spread,
}

/// What the input passed on to the stack in two turns, one right after the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UnmatchedPair {
    /// With the relay, in frames per second.
    pub relay: f64,
    /// With a program that only returns `XDP_PASS`, in frames per second.
    pub pass: f64,
}

/// One scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// What was set up.
    pub scenario: Scenario,
    /// By contender.
    pub contenders: Vec<ContenderResult>,
    /// The machine's limits that it is compared with, on its own wires, in the same rounds, if they
    /// were measured.
    #[serde(default)]
    pub ceilings: Vec<CeilingResult>,
    /// Copies out under overload of the relay divided by those of another build, where there was
    /// one ([`crate::pairs`]).
    #[serde(default)]
    pub pairs: Option<Spread>,
    /// What the scenario costs beside the [plain one](Scenario::plain), where there is one.
    #[serde(default)]
    pub beside_plain: Vec<BesidePlain>,
}

/// A scenario beside the plain one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BesidePlain {
    /// How the relay was asked to run, on both sides.
    pub contender: String,
    /// Copies out under overload divided by those in the plain scenario ([`crate::pairs`]).
    pub ratio: Spread,
}

/// One contender in one scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContenderResult {
    /// Its name.
    pub name: String,
    /// Whether it is not the relay, but what the relay is compared with.
    pub reference: bool,
    /// Why it cannot do this job, if so.
    pub cannot: Option<String>,
    /// By round.
    pub rounds: Vec<Measures>,
    /// Over the rounds.
    pub summary: Summary,
}

/// A number over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one; the mean of the middle two if the rounds are even.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` without values.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values.get(values.len() / 2)?;
        let lower = values.get((values.len() - 1) / 2)?;
        Some(Self {
            median: lower.midpoint(*upper),
            min,
            max,
        })
    }
}

/// Latencies over the rounds, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencySpread {
    /// Of the medians of datagrams.
    pub p50: Spread,
    /// Of the 99th percentiles.
    pub p99: Spread,
    /// Of the 99.9th.
    pub p999: Spread,
}

/// The same as [`Measures`], over the rounds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// The highest rate of input without loss.
    pub loss_free_in: Option<Spread>,
    /// Copies out at that rate.
    pub loss_free_out: Option<Spread>,
    /// The generator was the limit in some round.
    pub limited_by_generator: bool,
    /// Copies out under overload.
    pub overload_out: Option<Spread>,
    /// CPU time per copy.
    pub cpu_ns_per_copy: Option<Spread>,
    /// At the low rate.
    pub latency_low: Option<LatencySpread>,
    /// The same, stalls set aside.
    #[serde(default)]
    pub latency_low_aside: Option<LatencySpread>,
    /// The share of the time that the machine's stalls took.
    #[serde(default)]
    pub stalls: Option<Spread>,
    /// The p99 that they alone make.
    #[serde(default)]
    pub stalls_p99: Option<Spread>,
    /// At half of the loss-free rate.
    pub latency_half: Option<LatencySpread>,
    /// Copies that neither arrived nor were counted as lost, in the round with most of them.
    pub unaccounted: Option<i64>,
}

impl Summary {
    /// The summary of some rounds.
    pub fn of(rounds: &[Measures]) -> Self {
        let spread = |value: fn(&Measures) -> Option<f64>| {
            Spread::of(rounds.iter().filter_map(value).collect())
        };
        Self {
            loss_free_in: spread(|m| m.loss_free_in),
            loss_free_out: spread(|m| m.loss_free_out),
            limited_by_generator: rounds.iter().any(|m| m.limited_by_generator),
            overload_out: spread(|m| m.overload_out),
            cpu_ns_per_copy: spread(|m| m.cpu_ns_per_copy),
            latency_low: latency(rounds, |m| m.latency_low),
            latency_low_aside: latency(rounds, |m| m.latency_low_aside),
            stalls: spread(|m| Some(m.stalls?.share)),
            stalls_p99: spread(|m| Some(m.stalls?.p99)),
            latency_half: latency(rounds, |m| m.latency_half),
            unaccounted: rounds
                .iter()
                .filter_map(|m| m.unaccounted)
                .max_by_key(|n| n.unsigned_abs()),
        }
    }
}

fn latency(rounds: &[Measures], which: fn(&Measures) -> Option<Latency>) -> Option<LatencySpread> {
    let spread = |value: fn(Latency) -> f64| {
        Spread::of(rounds.iter().filter_map(which).map(value).collect())
    };
    Some(LatencySpread {
        p50: spread(|l| l.p50)?,
        p99: spread(|l| l.p99)?,
        p999: spread(|l| l.p999)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |values: &[f64]| Spread::of(values.to_vec());
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(of(&[3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(of(&[4.0, 1.0]), spread(2.5, 1.0, 4.0));
        assert_eq!(of(&[7.0]), spread(7.0, 7.0, 7.0));
        assert_eq!(of(&[]), None);
    }
}
