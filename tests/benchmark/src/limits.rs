//! The most that one core of this machine can do without a relay, see [`crate::ceiling`].

use std::path::Path;

use anyhow::{Context, Result};

use crate::{
    bed::Bed,
    ceiling::Ceiling,
    results::{CeilingResult, Spread},
    scenario,
};

/// Each measurement, in seconds.
const SECONDS: u32 = 2;
/// The scenario whose wires and payload are used: sixteen outputs on one wire to a plain host.
const ON: &str = "1-16";
/// More than the generator can do, in frames per second.
const FLOOD: u64 = 5_000_000;

/// All ceilings.
pub fn all() -> Vec<Ceiling> {
    let joined = [1, 2, 4, 8, 16, 32, 64];
    let mut all = vec![Ceiling::XdpTransmit, Ceiling::XdpReceive];
    all.extend(joined.map(|joined| Ceiling::Segmented { joined }));
    all
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

/// Measures one ceiling, in frames per second.
pub fn measure(ceiling: Ceiling, programs: &Path) -> Result<f64> {
    let scenarios = scenario::named(ON);
    let on = scenarios.first().context("no scenario for the ceilings")?;
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
