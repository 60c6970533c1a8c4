//! The highest rate without loss, found by trials.

use anyhow::{Result, ensure};

/// The first rate that is tried, in frames per second.
const FIRST: u64 = 40_000;
/// The lowest rate that is tried, in frames per second.
const LOWEST: u64 = 500;
/// The factor of the first steps of a search without an earlier result.
const FAR: f64 = 2.0;
/// The factor of the first steps from the result of an earlier search.
const NEAR: f64 = 1.25;
/// The highest rate that is tried, in frames per second.
const HIGHEST: u64 = 20_000_000;
/// How close the bounds are when the search ends, as a ratio.
const STEP: f64 = 1.03;
/// How often a rate is tried before it counts as too high for the contender or the generator: a
/// burst of other work on the machine is a limit of neither. The last, longer trial gets one
/// attempt.
const ATTEMPTS: usize = 2;
/// A trial that loses more than this part of all copies needs no second attempt.
const HOPELESS: f64 = 0.1;
/// A generator that offers less than this part of the rate that was asked for is at its limit.
const OFFERED: f64 = 0.9;
/// How far below the rate that was found the longer trial begins: a rate without loss for half a
/// second often has loss within ten.
const MARGIN: f64 = 1.05;
/// How often the search steps back before it gives up, each time further: to less than a third of
/// the rate that it found.
const STEPS_BACK: usize = 8;

/// The result of a trial at one rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Nothing was lost, and nothing arrived out of order or wrong.
    pub exact: bool,
    /// The part of all copies that was lost.
    pub lost: f64,
    /// Frames per second that were really offered.
    pub offered: f64,
}

impl Step {
    fn is_short_of(&self, rate: u64) -> bool {
        self.offered < rate as f64 * OFFERED
    }
}

/// The result of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Frames per second; 0 if there was loss at every rate.
    pub rate: u64,
    /// The generator, and not the contender, set the limit.
    pub by_generator: bool,
}

/// Raises or lowers a rate until it has bounds, and bisects between them. `known` is what an
/// earlier search found.
pub fn search(known: Option<f64>, mut run: impl FnMut(u64) -> Result<Step>) -> Result<Found> {
    let (mut low, mut high) = (None, None);
    let (mut rate, factor) = known.map_or((FIRST, FAR), |rate| (rate as u64, NEAR));
    while (LOWEST..=HIGHEST).contains(&rate) {
        let step = attempt(rate, &mut run)?;
        if !step.exact {
            high = Some(rate);
        } else if step.is_short_of(rate) {
            // What was really offered: the longer trials step back from there.
            return Ok(Found {
                rate: step.offered as u64,
                by_generator: true,
            });
        } else {
            low = Some(rate);
        }
        rate = match (low, high) {
            (Some(low), None) => (low as f64 * factor) as u64,
            (None, Some(high)) => (high as f64 / factor) as u64,
            (Some(low), Some(high)) if high as f64 / low as f64 > STEP => {
                (low as f64 * high as f64).sqrt() as u64
            }
            _ => break,
        };
    }
    Ok(Found {
        rate: low.unwrap_or(0),
        by_generator: rate > HIGHEST,
    })
}

fn attempt(rate: u64, run: &mut impl FnMut(u64) -> Result<Step>) -> Result<Step> {
    let mut last = run(rate)?;
    for _ in 1..ATTEMPTS {
        if (last.exact && !last.is_short_of(rate)) || last.lost > HOPELESS {
            break;
        }
        last = run(rate)?;
    }
    Ok(last)
}

/// Steps back from just below `rate` until one trial is exact; returns that trial, by `run`, and
/// the rate.
pub fn confirm<T>(rate: u64, mut run: impl FnMut(u64) -> Result<(bool, T)>) -> Result<(u64, T)> {
    let (mut now, mut step) = (rate as f64 / MARGIN, MARGIN);
    for _ in 0..STEPS_BACK {
        let asked = now as u64;
        if let (true, trial) = run(asked)? {
            return Ok((asked, trial));
        }
        now /= step;
        step *= MARGIN;
        ensure!(
            now as u64 >= LOWEST,
            "not even {LOWEST} frames per second are without loss"
        );
    }
    anyhow::bail!(
        "{rate} frames per second were once without loss, but no rate from that down to {now:.0} \
         was in the longer trial: has the machine other work?"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A contender that keeps up to a limit, behind a generator with a limit of its own.
    fn limits(contender: u64, generator: u64) -> impl FnMut(u64) -> Result<Step> {
        move |rate| {
            let offered = rate.min(generator);
            Ok(Step {
                exact: offered <= contender,
                lost: 1.0 - (contender as f64 / offered as f64).min(1.0),
                offered: offered as f64,
            })
        }
    }

    #[test]
    fn the_limit_is_found_to_three_per_cent() {
        for limit in [700, 9_999, 10_000, 123_456, 3_000_000] {
            for known in [None, Some(20_000.0), Some(limit as f64 * 1.02)] {
                let found = search(known, limits(limit, u64::MAX)).unwrap();
                assert!(!found.by_generator);
                let ratio = limit as f64 / found.rate as f64;
                assert!((1.0..=1.031).contains(&ratio), "{limit}: {found:?}");
            }
        }
    }

    #[test]
    fn a_search_from_a_known_rate_takes_five_rates() {
        for limit in [90_000, 105_000, 120_000] {
            let (mut rates, mut steady) =
                (std::collections::BTreeSet::new(), limits(limit, u64::MAX));
            let found = search(Some(100_000.0), |rate| {
                rates.insert(rate);
                steady(rate)
            });
            assert!(found.unwrap().rate > limit * 97 / 100);
            assert!(rates.len() <= 5, "{limit}: {rates:?}");
        }
    }

    #[test]
    fn only_a_rate_that_is_close_is_tried_twice() {
        let (mut rates, mut steady) = (Vec::new(), limits(100_000, u64::MAX));
        search(Some(95_000.0), |rate| {
            rates.push(rate);
            steady(rate)
        })
        .unwrap();
        let times =
            |wanted: &dyn Fn(u64) -> bool| rates.iter().filter(|rate| wanted(**rate)).count();
        assert_eq!(times(&|rate| rate > 112_000), 1, "{rates:?}");
        let close: Vec<_> = rates
            .iter()
            .filter(|&&rate| (100_001..111_000).contains(&rate))
            .collect();
        assert!(!close.is_empty());
        for rate in close {
            assert_eq!(times(&|other| other == *rate), 2, "{rates:?}");
        }
    }

    #[test]
    fn a_contender_that_always_loses_has_no_rate() {
        assert_eq!(search(None, limits(10, u64::MAX)).unwrap().rate, 0);
    }

    #[test]
    fn the_generators_limit_is_told_from_the_contenders() {
        let found = search(None, limits(u64::MAX, 1_000_000)).unwrap();
        assert!(found.by_generator);
        assert_eq!(found.rate, 1_000_000);
    }

    #[test]
    fn a_stray_loss_and_a_stray_pause_do_not_end_the_search() {
        let (mut calls, mut steady) = (0, limits(100_000, u64::MAX));
        let found = search(None, |rate| {
            calls += 1;
            let step = steady(rate)?;
            Ok(Step {
                exact: step.exact && calls != 3,
                lost: step.lost,
                offered: if calls == 5 { 0.0 } else { step.offered },
            })
        });
        assert!(found.unwrap().rate > 97_000);
    }

    #[test]
    fn a_rate_that_does_not_last_is_stepped_back_from() {
        let (rate, trial) = confirm(1000, |rate| Ok((rate < 940, rate))).unwrap();
        assert_eq!(rate, trial);
        assert!((900..940).contains(&rate));
        assert!(confirm(100_000, |_| Ok((false, ()))).is_err());
    }
}
