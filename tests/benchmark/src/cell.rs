//! Numbers as the cells of a table.

use crate::results::{LatencySpread, Spread};

/// A ratio of two numbers.
pub fn ratio(times: Option<f64>) -> String {
    times.map_or("-".to_owned(), |times| format!("{times:.2}"))
}

/// The median, and the least and most if they differ, in a unit.
pub fn range(spread: Option<Spread>, unit: f64) -> String {
    let number = |value: f64| {
        let value = value / unit;
        let digits = usize::from(value < 100.0);
        format!("{value:.digits$}")
    };
    spread.map_or("-".to_owned(), |spread| {
        let median = number(spread.median);
        if spread.min < spread.max {
            format!("{median} ({}..{})", number(spread.min), number(spread.max))
        } else {
            median
        }
    })
}

/// Ratios over the rounds: the median, and the least and most if they differ.
pub fn ratios(spread: Option<Spread>) -> String {
    match spread {
        None => "-".to_owned(),
        Some(Spread { median, min, max }) if min < max => {
            format!("{median:.2} ({min:.2}..{max:.2})")
        }
        Some(Spread { median, .. }) => format!("{median:.2}"),
    }
}

/// p50, p99 and p99.9 in microseconds.
pub fn latency(spread: Option<LatencySpread>) -> [String; 3] {
    let of = |which: fn(LatencySpread) -> Spread| range(spread.map(which), 1.0);
    [of(|all| all.p50), of(|all| all.p99), of(|all| all.p999)]
}

/// A part of a whole, in per cent.
pub fn per_cent(share: Option<Spread>) -> String {
    let times = |spread: Spread| Spread {
        median: spread.median * 100.0,
        min: spread.min * 100.0,
        max: spread.max * 100.0,
    };
    range(share.map(times), 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_shows_its_bounds_only_if_it_has_some() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(range(spread(&[1500.0]), 1e3), "1.5");
        assert_eq!(range(spread(&[1e5, 2e5, 4e5]), 1e3), "200 (100..400)");
        assert_eq!(range(None, 1.0), "-");
        assert_eq!(per_cent(spread(&[0.01, 0.0125, 0.02])), "1.2 (1.0..2.0)");
    }
}
