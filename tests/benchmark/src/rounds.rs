//! The rounds of a comparison. Each measures everything once, all contenders of all scenarios and
//! the ceilings among them, so that other work of the machine meets all of them alike, and a ratio
//! within a round is one of neighbours.
//!
//! Every other round goes backwards: what is measured right after something else in one round is
//! measured right before it in the next.

use std::time::Instant;

use anyhow::{Error, Result, anyhow};

use crate::{
    ceiling::Ceiling,
    compare::Comparison,
    contender::Contender,
    limits,
    measure::{Measures, Outcome, measure},
    results::{CeilingResult, ContenderResult, Results, ScenarioResult, Summary},
    scenario::Scenario,
};

/// A scenario, who takes part, and what they are compared with.
#[derive(Debug)]
pub struct Part<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// Those of its cast that were asked for.
    pub cast: Vec<&'a Contender>,
    /// Its ceilings, if ceilings were asked for.
    pub ceilings: Vec<Ceiling>,
}

/// One measurement, by positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A ceiling of no scenario.
    Limit(usize),
    /// A ceiling on a scenario's wires.
    Ceiling { part: usize, ceiling: usize },
    /// A contender in a scenario.
    Contender { part: usize, contender: usize },
}

/// Everything that a round measures, in the order of that round.
fn steps(round: usize, limits: usize, parts: &[Part<'_>]) -> Vec<Step> {
    let mut steps: Vec<_> = (0..limits).map(Step::Limit).collect();
    for (part, Part { cast, ceilings, .. }) in parts.iter().enumerate() {
        steps.extend((0..ceilings.len()).map(|ceiling| Step::Ceiling { part, ceiling }));
        steps.extend((0..cast.len()).map(|contender| Step::Contender { part, contender }));
    }
    if round.is_multiple_of(2) {
        steps.reverse();
    }
    steps
}

/// An empty result of a scenario.
fn empty(part: &Part<'_>) -> ScenarioResult {
    let contender = |contender: &&Contender| ContenderResult {
        name: contender.name(),
        reference: !contender.is_relay(),
        cannot: None,
        rounds: Vec::new(),
        summary: Summary::default(),
    };
    ScenarioResult {
        scenario: *part.scenario,
        contenders: part.cast.iter().map(contender).collect(),
        ceilings: limits::results(&part.ceilings),
        pairs: None,
        beside_plain: Vec::new(),
    }
}

/// Measures all rounds, and prints one line for each measurement.
pub fn run(comparison: &Comparison, parts: &[Part<'_>], results: &mut Results) -> Result<()> {
    let limits = match comparison.ceilings {
        true => limits::all(),
        false => Vec::new(),
    };
    results.ceilings = limits::results(&limits);
    results.scenarios = parts.iter().map(empty).collect();
    let on = limits::scenario()?;
    for round in 1..=comparison.rounds {
        let started = Instant::now();
        for step in steps(round, limits.len(), parts) {
            let failures = &mut results.failures;
            match step {
                Step::Limit(at) => {
                    let (limit, result) = (limits[at], &mut results.ceilings[at]);
                    one_ceiling(comparison, round, &on, limit, result, failures);
                }
                Step::Ceiling { part, ceiling } => {
                    let result = &mut results.scenarios[part].ceilings[ceiling];
                    let Part {
                        scenario, ceilings, ..
                    } = &parts[part];
                    let ceiling = ceilings[ceiling];
                    one_ceiling(comparison, round, scenario, ceiling, result, failures);
                }
                Step::Contender { part, contender } => {
                    let result = &mut results.scenarios[part].contenders[contender];
                    let Part { scenario, cast, .. } = &parts[part];
                    one_contender(
                        comparison,
                        round,
                        scenario,
                        cast[contender],
                        result,
                        failures,
                    );
                }
            }
        }
        println!("round {round}: {} s", started.elapsed().as_secs());
    }
    for scenario in &mut results.scenarios {
        for result in &mut scenario.contenders {
            result.summary = Summary::of(&result.rounds);
        }
    }
    Ok(())
}

fn one_ceiling(
    comparison: &Comparison,
    round: usize,
    scenario: &Scenario,
    ceiling: Ceiling,
    result: &mut CeilingResult,
    failures: &mut Vec<String>,
) {
    let what = format!("{}, round {round}, ceiling {}", scenario.name, result.name);
    match limits::measure(ceiling, scenario, &comparison.programs) {
        Ok(rate) => {
            println!("{what}: {:.0} kpps", rate / 1e3);
            limits::add(result, rate);
        }
        Err(error) => failed(&what, &error, failures),
    }
}

fn one_contender(
    comparison: &Comparison,
    round: usize,
    scenario: &Scenario,
    contender: &Contender,
    result: &mut ContenderResult,
    failures: &mut Vec<String>,
) {
    if result.cannot.is_some() {
        return;
    }
    let what = format!("{}, round {round}, {}", scenario.name, result.name);
    let started = Instant::now();
    let programs = &comparison.programs;
    let seconds = comparison.confirm_seconds;
    let known = result.rounds.last().and_then(|last| last.loss_free_in);
    match measure(scenario, contender, programs, seconds, known) {
        Ok(Outcome::Measured(measures)) => {
            let seconds = started.elapsed().as_secs();
            println!("{what}: {} ({seconds} s)", shortly(&measures));
            if let Some(error) = unaccounted(&measures) {
                failed(&what, &error, failures);
            }
            result.rounds.push(*measures);
        }
        Ok(Outcome::Cannot(why)) => {
            println!("{what}: it cannot do this: {why}");
            result.cannot = Some(why);
        }
        Err(error) => failed(&what, &error, failures),
    }
}

fn unaccounted(measures: &Measures) -> Option<Error> {
    let copies = measures.unaccounted.filter(|copies| *copies != 0)?;
    Some(anyhow!(
        "{copies} copies are unaccounted for: what arrived and what its report has as dropped is \
         not what was offered"
    ))
}

/// Prints a failure, and keeps it for the end.
pub fn failed(what: &str, error: &Error, failures: &mut Vec<String>) {
    let failure = format!("{what}: {error:#}");
    println!("FAILED: {failure}");
    failures.push(failure);
}

fn shortly(measures: &Measures) -> String {
    match (measures.loss_free_in, measures.loss_free_out) {
        (Some(frames), Some(copies)) => format!(
            "{:.1} kpps in and {:.1} kpps out without loss",
            frames / 1e3,
            copies / 1e3
        ),
        _ => "latency only".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn each_round_measures_everything_once_and_the_second_goes_backwards() {
        let (scenarios, all) = (scenario::named("1-1"), Contender::all("relay".as_ref()));
        let part = |cast: &[usize], ceilings: Vec<Ceiling>| Part {
            scenario: &scenarios[0],
            cast: cast.iter().map(|&at| &all[at]).collect(),
            ceilings,
        };
        let parts = [
            part(&[0, 1], vec![Ceiling::XdpReceive]),
            part(&[0], Vec::new()),
        ];
        let first = steps(1, 1, &parts);
        let contender = |part, contender| Step::Contender { part, contender };
        let expected = [
            Step::Limit(0),
            Step::Ceiling {
                part: 0,
                ceiling: 0,
            },
            contender(0, 0),
            contender(0, 1),
            contender(1, 0),
        ];
        assert_eq!(first, expected);
        let mut second = steps(2, 1, &parts);
        assert_ne!(second, first);
        second.reverse();
        assert_eq!(second, first);
        assert_eq!(steps(3, 1, &parts), first);
    }
}
