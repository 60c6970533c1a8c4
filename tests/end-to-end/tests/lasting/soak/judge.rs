//! Whether what a relay holds stays flat.
//!
//! Judged are the moments "at home": all interfaces are there, the same rules run, nothing is under
//! way. Descriptors, threads and map entries must be the same at all of them. Memory is what the
//! allocator keeps, which varies and reaches its size in steps, so it is judged by medians: the last
//! two thirds of a life are cut into quarters, and
//!
//! - the median of the last quarter may be above that of the first by 2 % and one step of the
//!   allocator, [`STEP`], at most, and
//! - it must not have risen by more than [`NOISE`] in every quarter: what leaks rises in each, a step
//!   comes once.

use relay_tests::soak::{Life, Sample};

/// In KiB: the allocator grows its arenas by 4 MiB at a time.
const STEP: u64 = 4 << 10;
/// In KiB: what differs between two moments with the same rules.
const NOISE: u64 = 512;
/// Fewer moments say nothing of memory: two in each quarter of two thirds.
pub const FEWEST: usize = 12;

/// What is to be said of a life; an error if it grew.
pub fn judge(life: &Life) -> Result<String, String> {
    let at_home: Vec<&Sample> = life.samples.iter().filter(|one| one.at_home).collect();
    let Some((first, rest)) = at_home.split_first() else {
        return Ok("never at home".to_owned());
    };
    for sample in rest {
        let holds = |of: &Sample| (of.descriptors, of.threads, of.map_entries);
        if holds(sample) != holds(first) {
            return Err(format!(
                "descriptors, threads and map entries were {:?} at {:.0} s, and {:?} at {:.0} s",
                holds(first),
                first.at,
                holds(sample),
                sample.at
            ));
        }
    }
    let entries = first.map_entries.unwrap_or(0);
    let same = format!(
        "{} times at home, each time {} descriptors, {} threads, {entries} map entries",
        at_home.len(),
        first.descriptors,
        first.threads,
    );
    if at_home.len() < FEWEST {
        return Ok(format!("{same}; too short to judge memory"));
    }
    let resident = flat("memory", &at_home, |one| one.resident_kib)?;
    let locked = flat("locked memory", &at_home, |one| one.locked_kib)?;
    Ok(format!("{same}; {resident}; {locked}"))
}

/// Judges one kind of memory.
fn flat(what: &str, at_home: &[&Sample], of: impl Fn(&Sample) -> u64) -> Result<String, String> {
    let judged = at_home.get(at_home.len() / 3..).unwrap_or_default();
    let quarter = |number: usize| {
        let end = |number: usize| judged.len() * number / 4;
        let part = judged.get(end(number)..end(number + 1));
        median(part.unwrap_or_default().iter().map(|one| of(one)).collect())
    };
    let medians = [0, 1, 2, 3].map(quarter);
    let [first, .., last] = medians;
    let said = format!("{what} {medians:?} KiB, the medians of four quarters");
    let rises = medians.windows(2).all(|pair| match pair {
        [one, next] => *next > one + NOISE,
        _ => false,
    });
    if rises || last > first + first / 50 + STEP {
        return Err(format!("{said}: it grows"));
    }
    Ok(said)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// A life of as many moments at home as `memory` has numbers.
fn life(memory: &[u64]) -> Life {
    let sample = |(at, kib): (usize, &u64)| Sample {
        at: at as f64,
        resident_kib: *kib,
        locked_kib: 64,
        descriptors: 40,
        threads: 5,
        map_entries: Some(30),
        at_home: true,
    };
    Life {
        began: 0.0,
        ended: String::new(),
        samples: memory.iter().enumerate().map(sample).collect(),
    }
}

#[test]
fn what_stays_flat_passes_and_what_grows_does_not() {
    let growing = |per_moment: u64| {
        (0..60)
            .map(|at| 20_000 + at * per_moment)
            .collect::<Vec<_>>()
    };
    let noisy: Vec<u64> = (0..60).map(|at| 20_000 + at * 7 % 400).collect();
    let steps: Vec<u64> = (0..60)
        .map(|at| if at < 40 { 20_000 } else { 24_000 })
        .collect();
    let warming_up: Vec<u64> = (0..60).map(|at| (at * 2_000).min(30_000)).collect();
    for flat in [growing(0), growing(10), noisy, steps, warming_up] {
        assert!(judge(&life(&flat)).is_ok(), "{:?}", judge(&life(&flat)));
    }
    for grows in [growing(60), growing(1_000)] {
        assert!(judge(&life(&grows)).is_err(), "{:?}", judge(&life(&grows)));
    }
    let short = judge(&life(&growing(1_000)[..FEWEST - 1]));
    assert!(short.is_ok_and(|said| said.contains("too short")));
}

#[test]
fn one_descriptor_more_is_one_too_many() {
    let mut one = life(&[20_000; 30]);
    if let Some(last) = one.samples.last_mut() {
        last.descriptors += 1;
    }
    assert!(judge(&one).is_err_and(|why| why.contains("descriptors")));
}
