//! The relay against another build of it: what a change costs or gains.
//!
//! Both run in turns within one run of the benchmark, and each round is compared with itself: other
//! work of the machine makes rounds differ by more than most changes do.

use std::fmt;

use crate::{
    cell,
    contender::RELAY_BEFORE,
    measure::Measures,
    results::{ContenderResult, Results, ScenarioResult, Spread},
};

/// What tables call the relay.
pub const RELAY: &str = "relay";

/// Numbers of the relay divided by those of the other build, round by round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratios {
    /// Copies out under overload, of pairs of short trials; above 1 is better.
    pub overload: Option<Spread>,
    /// Copies out without loss; above 1 is better.
    pub rate: Option<Spread>,
    /// CPU time per copy; below 1 is better.
    pub cpu: Option<Spread>,
    /// Median latency at the low rate; below 1 is better.
    pub latency: Option<Spread>,
}

impl Ratios {
    /// The ratios of a scenario, `None` unless both were measured in it.
    pub fn of(result: &ScenarioResult) -> Option<Self> {
        let rounds = |name| -> Option<&Vec<Measures>> {
            let one: &ContenderResult = result.contenders.iter().find(|one| one.name == name)?;
            Some(&one.rounds)
        };
        let (relay, before) = (rounds(RELAY)?, rounds(RELAY_BEFORE)?);
        let ratio = |value: fn(&Measures) -> Option<f64>| {
            let pairs = relay.iter().zip(before);
            Spread::of(
                pairs
                    .filter_map(|(relay, before)| Some(value(relay)? / value(before)?))
                    .collect(),
            )
        };
        if result.pairs.is_none() && (relay.is_empty() || before.is_empty()) {
            return None;
        }
        Some(Self {
            overload: result.pairs,
            rate: ratio(|measures| measures.loss_free_out),
            cpu: ratio(|measures| measures.cpu_ns_per_copy),
            latency: ratio(|measures| Some(measures.latency_low?.p50)),
        })
    }

    fn cells(&self) -> [String; 4] {
        [self.overload, self.rate, self.cpu, self.latency].map(cell::ratios)
    }
}

impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [overload, rate, cpu, latency] = self.cells();
        write!(
            f,
            "copies out under overload {overload}, without loss {rate}, CPU per copy {cpu}, median latency {latency}"
        )
    }
}

/// A table with one row per scenario, its head first; `None` where there was no other build.
pub fn rows(results: &Results) -> Option<Vec<Vec<String>>> {
    let head = [
        "relay / relay-before",
        "copies out under overload",
        "copies out without loss",
        "CPU per copy",
        "median latency",
    ];
    let row = |result: &ScenarioResult| {
        let name = [result.scenario.name.to_owned()];
        Some(
            name.into_iter()
                .chain(Ratios::of(result)?.cells())
                .collect(),
        )
    };
    let rows: Vec<Vec<String>> = results.scenarios.iter().filter_map(row).collect();
    let head = head.map(str::to_owned).to_vec();
    (!rows.is_empty()).then(|| std::iter::once(head).chain(rows).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{results::Summary, scenario};

    fn result(rates: &[(&str, &[f64])]) -> ScenarioResult {
        let measures = |rate: &f64| Measures {
            loss_free_out: Some(*rate),
            ..Measures::default()
        };
        let contenders = rates.iter().map(|(name, rates)| ContenderResult {
            name: (*name).into(),
            reference: false,
            cannot: None,
            rounds: rates.iter().map(measures).collect(),
            summary: Summary::default(),
        });
        ScenarioResult {
            scenario: scenario::named("1-1")[0],
            contenders: contenders.collect(),
            ceilings: Vec::new(),
            pairs: None,
            beside_plain: Vec::new(),
        }
    }

    #[test]
    fn each_round_is_compared_with_itself() {
        // The machine was half as fast in the second round.
        let both = result(&[
            (RELAY, &[110.0, 60.0, 90.0]),
            (RELAY_BEFORE, &[100.0, 50.0, 100.0]),
        ]);
        let ratios = Ratios::of(&both).unwrap();
        let expected = Spread {
            median: 1.1,
            min: 0.9,
            max: 1.2,
        };
        assert_eq!(ratios.rate, Some(expected));
        assert_eq!(ratios.cpu, None);
        let text = ratios.to_string();
        assert!(text.contains("1.10 (0.90..1.20)"), "{text}");
    }

    #[test]
    fn without_another_build_there_is_no_ratio() {
        assert_eq!(Ratios::of(&result(&[(RELAY, &[1.0])])), None);
        assert_eq!(
            Ratios::of(&result(&[(RELAY, &[1.0]), (RELAY_BEFORE, &[])])),
            None
        );
    }
}
