//! `relay-bench compare`: every contender in every scenario, round by round, and then what is
//! compared in pairs.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use crate::{
    bed, before, cell,
    contender::{Contender, RELAY_BEFORE},
    limits,
    machine::Machine,
    pairs,
    results::{BesidePlain, Results, Spread},
    rounds::{self, Part, failed},
    scenario::Scenario,
    unmatched::{self, Kind},
    watched,
};

/// What to do.
#[derive(Debug)]
pub struct Comparison {
    /// The relay's binary.
    pub relay: PathBuf,
    /// Another build of it to compare with.
    pub before: Option<PathBuf>,
    /// The names of the contenders to measure; all if absent.
    pub contenders: Option<Vec<String>>,
    /// The object of the benchmark's kernel programs.
    pub programs: PathBuf,
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// Whether to measure the machine's limits.
    pub ceilings: bool,
    /// Whether to measure the price of frames that no rule takes.
    pub unmatched: bool,
    /// Whether to measure the price of being watched.
    pub watched: bool,
    /// How often everything is measured.
    pub rounds: usize,
    /// For how long, in seconds, a rate has to be without loss.
    pub confirm_seconds: f64,
}

/// Runs the comparison, and prints one line of progress for each step.
pub fn run(comparison: &Comparison) -> Result<Results> {
    let machine = Machine::here()?;
    ensure!(
        machine.cores > bed::GENERATOR_CPU,
        "the benchmark needs two CPUs, one for the generator and one for a contender; this machine \
         has {}",
        machine.cores
    );
    println!(
        "{}, kernel {}, {} CPUs, load {} before the start",
        machine.cpu, machine.kernel, machine.cores, machine.load_before
    );
    let mut failures = Vec::new();
    let mut contenders = contenders(comparison)?;
    contenders.retain(|contender| match contender.missing() {
        None => true,
        Some(missing) => {
            failures.push(format!("{} was left out: {missing}", contender.name()));
            false
        }
    });
    let mut results = Results {
        machine,
        rounds: comparison.rounds,
        confirm_seconds: comparison.confirm_seconds,
        ceilings: Vec::new(),
        unmatched: Vec::new(),
        watched: Vec::new(),
        scenarios: Vec::new(),
        failures,
    };
    if comparison.unmatched {
        unmatched(comparison, &mut results);
    }
    let part = |scenario| Part {
        scenario,
        cast: contenders
            .iter()
            .filter(|one| one.is_in(scenario))
            .collect(),
        ceilings: match comparison.ceilings {
            true => limits::of(scenario),
            false => Vec::new(),
        },
    };
    let parts: Vec<_> = comparison.scenarios.iter().map(part).collect();
    if comparison.watched {
        watched(comparison, &mut results);
    }
    rounds::run(comparison, &parts, &mut results)?;
    let Results {
        scenarios,
        failures,
        ..
    } = &mut results;
    for (Part { scenario, cast, .. }, result) in parts.iter().zip(scenarios) {
        result.pairs = pairs(comparison, scenario, cast, failures);
        result.beside_plain = beside_plain(comparison, scenario, cast, failures);
        if let Some(ratios) = before::Ratios::of(result) {
            println!("{}: relay / {RELAY_BEFORE}: {ratios}", scenario.name);
        }
    }
    Ok(results)
}

/// The contenders that were asked for. The other build of the relay comes right after the relay, so
/// that both are measured within seconds of each other in every round.
fn contenders(comparison: &Comparison) -> Result<Vec<Contender>> {
    let mut all = Contender::all(&comparison.relay);
    if let Some(binary) = comparison.before.clone() {
        ensure!(
            binary.is_file(),
            "there is no {} to compare with: give the path of a build of the relay",
            binary.display()
        );
        all.insert(1, Contender::RelayBefore { binary });
    }
    let Some(wanted) = &comparison.contenders else {
        return Ok(all);
    };
    let names: Vec<String> = all.iter().map(Contender::name).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        bail!(
            "there is no contender `{unknown}`: there are {}",
            names.join(", ")
        );
    }
    all.retain(|contender| wanted.contains(&contender.name()));
    Ok(all)
}

fn unmatched(comparison: &Comparison, results: &mut Results) {
    results.unmatched = Kind::ALL.iter().map(unmatched::empty).collect();
    for round in 1..=comparison.rounds {
        for (kind, result) in Kind::ALL.iter().zip(&mut results.unmatched) {
            let what = format!("unmatched, round {round}, {}", result.name);
            let programs = &comparison.programs;
            let (pairs, seconds) = (unmatched::PAIRS, unmatched::SECONDS);
            match unmatched::measure(kind, &comparison.relay, programs, pairs, seconds) {
                Ok(pairs) => {
                    unmatched::add(result, pairs);
                    println!("{what}: {} of XDP_PASS", cell::ratios(result.ratio));
                }
                Err(error) => failed(&what, &error, &mut results.failures),
            }
        }
    }
}

fn watched(comparison: &Comparison, results: &mut Results) {
    for scenario in watched::scenarios() {
        let what = format!("watched, {}", scenario.name);
        match watched::measure(&scenario, &comparison.relay, &comparison.programs) {
            Ok(result) => {
                let ratio = cell::ratios(Some(result.loss_free));
                println!("{what}: {ratio} of the rate without loss of all off");
                results.watched.push(result);
            }
            Err(error) => failed(&what, &error, &mut results.failures),
        }
    }
}

/// The ratio of both builds, where another one was given.
fn pairs(
    comparison: &Comparison,
    scenario: &Scenario,
    contenders: &[&Contender],
    failures: &mut Vec<String>,
) -> Option<Spread> {
    let named = |name| contenders.iter().find(|one| one.name() == name);
    let (relay, before) = (named(before::RELAY)?, named(RELAY_BEFORE)?);
    let what = format!("{}, pairs with {RELAY_BEFORE}", scenario.name);
    let ratio = pairs::ratio((scenario, relay), (scenario, before), &comparison.programs);
    ratio.map_err(|error| failed(&what, &error, failures)).ok()
}

/// The ratios of the relay in a scenario to itself in the plain one, for each way that it is asked
/// to run.
fn beside_plain(
    comparison: &Comparison,
    scenario: &Scenario,
    contenders: &[&Contender],
    failures: &mut Vec<String>,
) -> Vec<BesidePlain> {
    let Some(plain) = scenario.plain() else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for relay in contenders {
        if !matches!(relay, Contender::Relay { .. }) {
            continue;
        }
        let contender = relay.name();
        let what = format!(
            "{} beside {}, in turns, {contender}",
            scenario.name, plain.name
        );
        let programs = &comparison.programs;
        match pairs::ratio((scenario, relay), (&plain, relay), programs) {
            Ok(ratio) => {
                println!("{what}: {}", cell::ratios(Some(ratio)));
                all.push(BesidePlain { contender, ratio });
            }
            Err(error) => failed(&what, &error, failures),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(before: Option<&str>, wanted: Option<&[&str]>) -> Result<Vec<String>> {
        let comparison = Comparison {
            relay: "relay".into(),
            before: before.map(PathBuf::from),
            contenders: wanted.map(|names| names.iter().map(ToString::to_string).collect()),
            programs: PathBuf::new(),
            scenarios: Vec::new(),
            ceilings: false,
            unmatched: false,
            watched: false,
            rounds: 1,
            confirm_seconds: 1.0,
        };
        Ok(contenders(&comparison)?
            .iter()
            .map(Contender::name)
            .collect())
    }

    #[test]
    fn the_build_before_is_measured_right_after_the_relay() {
        let all = names(Some("/proc/self/exe"), None).unwrap();
        assert_eq!(all[..2], ["relay", RELAY_BEFORE]);
        assert!(
            !names(None, None)
                .unwrap()
                .contains(&RELAY_BEFORE.to_owned())
        );
        let error = names(Some("/nowhere"), None).unwrap_err().to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }

    #[test]
    fn only_those_that_were_asked_for_are_measured() {
        assert_eq!(
            names(None, Some(&["socat", "relay"])).unwrap(),
            ["relay", "socat"]
        );
        let error = names(None, Some(&["rely"])).unwrap_err().to_string();
        assert!(
            error.contains("`rely`") && error.contains("relay-io-uring"),
            "{error}"
        );
    }
}
