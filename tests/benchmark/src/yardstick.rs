//! What the relay's rate in a scenario is compared with: every other contender, and rates of no
//! contender.

use crate::{
    cell,
    contender::RELAY_BEFORE,
    measure::Measures,
    results::{CeilingResult, ContenderResult, Results, ScenarioResult, Spread},
    scenario::Scenario,
};

/// The name of the relay on io_uring.
const IO_URING: &str = "relay-io-uring";

/// A rate to compare with that is not of a contender of this scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Yardstick {
    /// What it is.
    pub name: String,
    /// Frames per second, to compare with copies out.
    pub rate: Spread,
}

/// The relay's copies out without loss divided by `rate`, both medians of the rounds.
pub fn relay_to(result: &ScenarioResult, rate: Option<Spread>) -> Option<f64> {
    Some(relay(result)?.median / rate?.median)
}

/// The same for the relay on io_uring.
pub fn io_uring_to(result: &ScenarioResult, rate: Option<Spread>) -> Option<f64> {
    let mut all = result.contenders.iter();
    let io_uring = all.find(|one| one.name == IO_URING)?;
    Some(io_uring.summary.loss_free_out?.median / rate?.median)
}

/// The yardsticks of this scenario that were measured: the relay in the plain scenario, or in the
/// same one with one sender.
pub fn others(results: &Results, result: &ScenarioResult) -> Vec<Yardstick> {
    let scenario = &result.scenario;
    let plain = scenario.plain().or_else(|| scenario.of_one_sender());
    let of = |plain: Scenario| {
        let mut all = results.scenarios.iter();
        let plain_result = all.find(|one| one.scenario == plain)?;
        Some(Yardstick {
            name: format!("relay in {}", plain.name),
            rate: relay(plain_result)?,
        })
    };
    plain.and_then(of).into_iter().collect()
}

/// A table of every build of the relay beside the ceiling of each scenario, its head first; `None`
/// where no ceiling was measured. A ratio is one of a round, and the table has the medians.
pub fn beside_ceilings(results: &Results) -> Option<Vec<Vec<String>>> {
    let head = [
        "scenario",
        "ceiling",
        "kpps",
        "contender",
        "without loss, of it",
        "under overload, of it",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for result in &results.scenarios {
        let relays = result.contenders.iter().filter(|one| !one.reference);
        for relay in relays.filter(|one| !one.rounds.is_empty()) {
            for ceiling in &result.ceilings {
                rows.push(vec![
                    result.scenario.name.to_owned(),
                    ceiling.name.clone(),
                    cell::range(ceiling.rate, 1e3),
                    relay.name.clone(),
                    cell::ratios(of_ceiling(relay, ceiling, |round| round.loss_free_out)),
                    cell::ratios(of_ceiling(relay, ceiling, |round| round.overload_out)),
                ]);
            }
        }
    }
    (rows.len() > 1).then_some(rows)
}

/// Copies out divided by the ceiling, round by round. `None` if something is missing in a round:
/// then it is not known which belong together.
fn of_ceiling(
    relay: &ContenderResult,
    ceiling: &CeilingResult,
    out: fn(&Measures) -> Option<f64>,
) -> Option<Spread> {
    let out: Option<Vec<f64>> = relay.rounds.iter().map(out).collect();
    let out = out.filter(|out| out.len() == ceiling.rounds.len())?;
    let pairs = out.iter().zip(&ceiling.rounds);
    Spread::of(pairs.map(|(out, ceiling)| out / ceiling).collect())
}

fn relay(result: &ScenarioResult) -> Option<Spread> {
    let mut contenders = result.contenders.iter();
    let relay = contenders.find(|one| !one.reference && one.name != RELAY_BEFORE)?;
    relay.summary.loss_free_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::Machine, results::Summary, scenario};

    fn result(name: &str, rate: f64) -> ScenarioResult {
        let one = |reference, rate| ContenderResult {
            name: "x".into(),
            reference,
            cannot: None,
            rounds: Vec::new(),
            summary: Summary {
                loss_free_out: Spread::of(vec![rate]),
                ..Summary::default()
            },
        };
        ScenarioResult {
            scenario: scenario::named(name)[0],
            contenders: vec![one(true, 2.0), one(false, rate)],
            ceilings: Vec::new(),
            pairs: None,
            beside_plain: Vec::new(),
        }
    }

    fn ceiling(name: &str, rounds: &[f64]) -> CeilingResult {
        CeilingResult {
            name: name.into(),
            rounds: rounds.to_vec(),
            rate: Spread::of(rounds.to_vec()),
        }
    }

    fn round(loss_free: f64) -> Measures {
        Measures {
            loss_free_out: Some(loss_free),
            overload_out: Some(loss_free * 2.0),
            ..Measures::default()
        }
    }

    fn results(scenarios: Vec<ScenarioResult>) -> Results {
        Results {
            machine: Machine::here().unwrap(),
            rounds: 1,
            confirm_seconds: 1.0,
            ceilings: Vec::new(),
            unmatched: Vec::new(),
            watched: Vec::new(),
            scenarios,
            failures: Vec::new(),
        }
    }

    #[test]
    fn the_relay_is_compared_with_what_fits() {
        let all = results(vec![result("1-1", 8.0), result("1-16", 10.0)]);
        let ratio = |name: &str| {
            let result = result(name, 4.0);
            let others = others(&all, &result);
            let [one] = &others[..] else {
                panic!("{others:?}");
            };
            (one.name.clone(), relay_to(&result, Some(one.rate)))
        };
        assert_eq!(ratio("rules-100"), ("relay in 1-1".into(), Some(0.5)));
        assert_eq!(ratio("1-16-vlan"), ("relay in 1-16".into(), Some(0.4)));
        assert_eq!(ratio("1-16-2senders"), ("relay in 1-16".into(), Some(0.4)));
        for none in ["1-1", "1-16", "1-64"] {
            assert!(others(&all, &result(none, 1.0)).is_empty(), "{none}");
        }
    }

    #[test]
    fn a_ceiling_is_compared_with_in_its_own_round() {
        let mut one = result("1-16", 1.0);
        // The machine was half as fast in the second round.
        one.contenders[1].rounds = [8.0, 5.0, 9.0].map(round).to_vec();
        one.ceilings = vec![ceiling("segmented", &[10.0, 5.0, 10.0])];
        let rows = beside_ceilings(&results(vec![one.clone()])).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1][4..], ["0.90 (0.80..1.00)", "1.80 (1.60..2.00)"]);
        // Nobody knows which round is missing.
        one.contenders[1].rounds.pop();
        let rows = beside_ceilings(&results(vec![one.clone()])).unwrap();
        assert_eq!(rows[1][4..], ["-", "-"]);
        one.ceilings.clear();
        assert_eq!(beside_ceilings(&results(vec![one])), None);
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let none = results(Vec::new());
        assert!(others(&none, &result("rules-100", 1.0)).is_empty());
        assert_eq!(relay_to(&result("1-1", 1.0), None), None);
    }
}
