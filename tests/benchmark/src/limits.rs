//! The most that one core of this machine can do without a relay, see [`crate::ceiling`].

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    bed::Bed,
    ceiling::Ceiling,
    results::{CeilingResult, Spread},
    scenario::{self, Scenario},
    sink::NextHop,
};

/// Each measurement, in seconds.
const SECONDS: u32 = 1;
/// The scenario on whose wires all ceilings are measured, with its payload: sixteen outputs on one
/// wire to a plain host.
const ON: &str = "1-16";
/// Payloads of the longest GSO packet of 1000 byte datagrams.
const MOST_JOINED: u32 = 64;
/// More than the generator can do, in frames per second.
const FLOOD: u64 = 5_000_000;

/// All ceilings.
pub fn all() -> Vec<Ceiling> {
    let joined = [1, 4, 16, MOST_JOINED];
    let mut all = vec![Ceiling::XdpTransmit, Ceiling::XdpReceive];
    all.extend(joined.map(|joined| Ceiling::Segmented { joined }));
    all
}

/// The scenario on whose wires [all] ceilings are measured.
///
/// # Errors
///
/// There is none, which is a mistake in this program.
pub fn scenario() -> Result<Scenario> {
    let scenarios = scenario::named(ON);
    let first = scenarios.first().copied();
    first.context("no scenario for the ceilings")
}

/// The ceilings that a scenario is compared with, and that are measured on its own wires in each
/// round: receiving where there is one output, else transmitting, in GSO packets where the next hop
/// takes them whole. None for a scenario that is compared with a plain one, and for those that
/// differ from the ceiling in more than one thing.
pub fn of(scenario: &Scenario) -> Vec<Ceiling> {
    let is_plain_wire = scenario.interfaces == 1 && scenario.payload == 1000;
    if scenario.cast.is_relay() || !is_plain_wire {
        return Vec::new();
    }
    match (scenario.load.outputs, scenario.next_hop) {
        (1, _) => vec![Ceiling::XdpReceive],
        (16.., NextHop::Host) => vec![Ceiling::Segmented {
            joined: MOST_JOINED,
        }],
        (16.., NextHop::Xdp) => vec![Ceiling::XdpTransmit],
        _ => Vec::new(),
    }
}

/// An empty result for each.
pub fn results(ceilings: &[Ceiling]) -> Vec<CeilingResult> {
    let empty = |ceiling: &Ceiling| CeilingResult {
        name: ceiling.name(),
        rounds: Vec::new(),
        rate: None,
    };
    ceilings.iter().map(empty).collect()
}

/// Measures one ceiling on the wires of a scenario, in frames per second.
pub fn measure(ceiling: Ceiling, on: &Scenario, programs: &Path) -> Result<f64> {
    let mut bed = Bed::new(on, programs)?;
    bed.expect(&bed.job.clone())?;
    let measuring = ceiling.start(&bed.job, on.payload, SECONDS)?;
    if ceiling == Ceiling::XdpReceive {
        // Its time starts with the first frame, and traffic must run until its end.
        let frames_for = f64::from(SECONDS) + 0.5;
        bed.send(FLOOD, frames_for)?;
    }
    let measured = measuring.finish()?;
    Ok(measured.frames as f64 / measured.seconds)
}

/// Adds what one round found.
pub fn add(result: &mut CeilingResult, rate: f64) {
    result.rounds.push(rate);
    result.rate = Spread::of(result.rounds.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_has_the_ceiling_of_its_direction() {
        let names = |scenario: &str| {
            let ceilings = of(&scenario::named(scenario)[0]);
            ceilings.iter().map(Ceiling::name).collect::<Vec<_>>()
        };
        assert_eq!(names("1-1"), ["xdp-rx"]);
        assert_eq!(names("1-16"), ["segmented-tx (64 joined)"]);
        assert_eq!(names("1-16-2senders"), names("1-16"));
        assert_eq!(names("1-16-xdp"), ["xdp-tx"]);
        for none in ["1-4", "1-16-4if", "1-16-64B", "1-16-vlan", "1-1000"] {
            assert!(names(none).is_empty(), "{none}");
        }
    }
}
