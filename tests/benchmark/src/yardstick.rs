//! What the relay's rate in a scenario is compared with: every other contender, and rates of no
//! contender.

use crate::{
    ceiling::Ceiling,
    contender::RELAY_BEFORE,
    results::{Results, ScenarioResult, Spread},
};

/// The name of the relay on io_uring.
const IO_URING: &str = "relay-io-uring";
/// The scenario with the same wires and load as the ceiling of receiving.
const RECEIVES: &str = "1-1";
/// The same for transmitting.
const TRANSMITS: &str = "1-16";

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

/// The yardsticks of this scenario that were measured.
pub fn others(results: &Results, result: &ScenarioResult) -> Vec<Yardstick> {
    let scenario = &result.scenario;
    let mut found = Vec::new();
    let ceiling = match scenario.name {
        RECEIVES => Some(Ceiling::XdpReceive),
        TRANSMITS => Some(Ceiling::XdpTransmit),
        _ => None,
    };
    if let Some(name) = ceiling.map(|ceiling| ceiling.name()) {
        let measured = results.ceilings.iter().find(|one| one.name == name);
        found.extend(measured.and_then(|one| {
            Some(Yardstick {
                name: format!("ceiling {name}"),
                rate: one.rate?,
            })
        }));
    }
    if let Some(plain) = scenario.plain() {
        let mut all = results.scenarios.iter();
        let plain_result = all.find(|one| one.scenario == plain);
        found.extend(plain_result.and_then(relay).map(|rate| Yardstick {
            name: format!("relay in {}", plain.name),
            rate,
        }));
    }
    found
}

fn relay(result: &ScenarioResult) -> Option<Spread> {
    let mut contenders = result.contenders.iter();
    let relay = contenders.find(|one| !one.reference && one.name != RELAY_BEFORE)?;
    relay.summary.loss_free_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::Machine,
        results::{CeilingResult, ContenderResult, Summary},
        scenario,
    };

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
            pairs: None,
            beside_plain: Vec::new(),
        }
    }

    fn results(scenarios: Vec<ScenarioResult>) -> Results {
        let ceiling = |name: &str, rate| CeilingResult {
            name: name.into(),
            rounds: vec![rate],
            rate: Spread::of(vec![rate]),
        };
        Results {
            machine: Machine::here().unwrap(),
            rounds: 1,
            confirm_seconds: 1.0,
            ceilings: vec![ceiling("xdp-tx", 20.0), ceiling("xdp-rx", 40.0)],
            unmatched: Vec::new(),
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
        assert_eq!(ratio("1-1"), ("ceiling xdp-rx".into(), Some(0.1)));
        assert_eq!(ratio("1-16"), ("ceiling xdp-tx".into(), Some(0.2)));
        assert_eq!(ratio("rules-100"), ("relay in 1-1".into(), Some(0.5)));
        assert_eq!(ratio("1-16-vlan"), ("relay in 1-16".into(), Some(0.4)));
        assert!(others(&all, &result("1-64", 1.0)).is_empty());
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut none = results(Vec::new());
        none.ceilings.clear();
        assert!(others(&none, &result("1-1", 1.0)).is_empty());
        assert!(others(&none, &result("rules-100", 1.0)).is_empty());
        assert_eq!(relay_to(&result("1-1", 1.0), None), None);
    }
}
