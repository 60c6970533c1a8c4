//! The relay beside another build of it, or in one scenario beside another one, in pairs of short
//! trials: what a change, or what a scenario has more, costs under overload.
//!
//! The rounds of a comparison lie a minute apart, and the speed of a shared machine changes by more
//! than most changes of the relay do within that time. Here both sides are up at once, each on
//! wires of its own, and the same overload is offered to one and then to the other, half a second
//! each. The side without traffic sleeps.
//!
//! Two equal sides are not equally fast: what was started first sends a few per cent less, and so
//! does what has been searched for its limit. So the search has a side of its own, both sides are
//! started anew several times, and which is started first changes from start to start.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bed::Bed,
    capacity::{self, Step},
    contender::{Contender, Running},
    measure::OVERLOAD,
    results::Spread,
    scenario::Scenario,
};

/// How often both sides are started. Which is first changes from start to start.
const STARTS: usize = 4;
/// Pairs of trials per start. Which begins changes from pair to pair.
const PAIRS: usize = 8;
/// Searches for the limit of each side per start.
const SEARCHES: usize = 4;
/// A trial, in seconds.
const SECONDS: f64 = 0.5;

/// What is on one side.
pub type What<'a> = (&'a Scenario, &'a Contender);

/// Copies out under overload of `one`, divided by those of `other`: the median of all pairs, and as
/// its bounds those of the middle half of them.
///
/// # Errors
///
/// A side cannot be started, or an account is wrong.
pub fn ratio(one: What<'_>, other: What<'_>, programs: &Path) -> Result<Spread> {
    let rate = overload(one, programs)?;
    let mut ratios = Vec::with_capacity(STARTS * PAIRS);
    for start in 0..STARTS {
        let start = if start % 2 == 0 {
            let one = Side::start(one, programs)?;
            (one, Side::start(other, programs)?)
        } else {
            let other = Side::start(other, programs)?;
            (Side::start(one, programs)?, other)
        };
        measure(start, rate, &mut ratios)?;
    }
    middle_half(ratios).context("no pair was measured")
}

/// Ratios of one side to the other, as those of [`ratio`].
#[derive(Debug, Clone, Copy)]
pub struct Both {
    /// Copies out without loss.
    pub loss_free: Spread,
    /// Copies out under overload.
    pub overload: Spread,
}

/// Copies out of `one`, divided by those of `other`, under overload and without loss. For the
/// latter each side searches its limit, one right after the other, from near the one before.
///
/// # Errors
///
/// A side cannot be started, or an account is wrong.
pub fn both(one: What<'_>, other: What<'_>, programs: &Path) -> Result<Both> {
    let overload = ratio(one, other, programs)?;
    let mut ratios = Vec::with_capacity(STARTS * SEARCHES);
    for start in 0..STARTS {
        let (mut one, mut other) = match start % 2 {
            0 => {
                let one = Side::start(one, programs)?;
                (one, Side::start(other, programs)?)
            }
            _ => {
                let other = Side::start(other, programs)?;
                (Side::start(one, programs)?, other)
            }
        };
        let (mut of_one, mut of_other) = (one.limit(None)?, other.limit(None)?);
        for search in 0..SEARCHES {
            // Both begin at the same rate, another one each time: results have steps.
            let begin = (of_one * of_other).sqrt() * (1.0 + 0.01 * search as f64);
            if search % 2 == 0 {
                of_one = one.limit(Some(begin))?;
                of_other = other.limit(Some(begin))?;
            } else {
                of_other = other.limit(Some(begin))?;
                of_one = one.limit(Some(begin))?;
            }
            println!("without loss: {of_one:.0} and {of_other:.0} frames per second");
            ratios.push(of_one / of_other);
        }
        one.stop()?;
        other.stop()?;
    }
    Ok(Both {
        loss_free: middle_half(ratios).context("no pair was measured")?,
        overload,
    })
}

/// The overload, in frames per second: what is offered to both sides.
fn overload(what: What<'_>, programs: &Path) -> Result<u64> {
    let mut side = Side::start(what, programs)?;
    let found = side.limit(None)?;
    side.stop()?;
    Ok(found as u64 * OVERLOAD)
}

/// Adds the ratios of the pairs of one start.
fn measure((mut one, mut other): (Side, Side), rate: u64, ratios: &mut Vec<f64>) -> Result<()> {
    for pair in 0..PAIRS {
        let (of_one, of_other) = if pair % 2 == 0 {
            let of_one = one.out(rate)?;
            (of_one, other.out(rate)?)
        } else {
            let of_other = other.out(rate)?;
            (one.out(rate)?, of_other)
        };
        ratios.push(of_one / of_other);
    }
    one.stop()?;
    other.stop()
}

/// The median, with the bounds of the middle half.
pub(crate) fn middle_half(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let quarter = values.len() / 4;
    Spread::of(values.get(quarter..values.len() - quarter)?.to_vec())
}

/// One side at work, on wires of its own.
struct Side {
    name: String,
    bed: Bed,
    running: Running,
}

impl Side {
    fn start((scenario, contender): What<'_>, programs: &Path) -> Result<Self> {
        let name = contender.name();
        let mut bed = Bed::new(scenario, programs)?;
        if let Err(why) = contender.can(&bed.job) {
            bail!("{name} cannot do this: {why}");
        }
        bed.expect(&contender.delivered(&bed.job))?;
        let running = contender.start(&bed.job)?;
        Ok(Self { name, bed, running })
    }

    /// The highest rate without loss, in frames per second, searched from near `known`.
    fn limit(&mut self, known: Option<f64>) -> Result<f64> {
        let found = capacity::search(known, |rate| {
            let trial = self.bed.trial(rate, SECONDS, &[])?;
            Ok(Step {
                exact: trial.is_exact(),
                lost: trial.lost_part(),
                offered: trial.offered_rate,
            })
        })?;
        ensure!(found.rate > 0, "there was loss at every rate");
        Ok(found.rate as f64)
    }

    /// Copies per second that come out while `rate` frames per second are offered.
    fn out(&mut self, rate: u64) -> Result<f64> {
        let out = self.bed.trial(rate, SECONDS, &[])?.received_rate();
        ensure!(out > 0.0, "{} sent nothing", self.name);
        Ok(out)
    }

    fn stop(mut self) -> Result<()> {
        self.bed.drain()?;
        let lost = self.running.stop()?;
        let unaccounted = self.bed.balance()?.unaccounted(&lost.own);
        ensure!(
            unaccounted == 0,
            "{}: {unaccounted} copies are unaccounted for",
            self.name
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_the_machine_disturbed_moves_neither_the_median_nor_its_bounds() {
        let values = vec![1.25, 9.0, 1.125, 0.1, 1.0, 1.375, 1.5, 0.5];
        let expected = Spread {
            median: 1.1875,
            min: 1.0,
            max: 1.375,
        };
        assert_eq!(middle_half(values), Some(expected));
        assert_eq!(middle_half(Vec::new()), None);
    }
}
