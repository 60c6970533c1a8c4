//! Latencies of many datagrams, and their percentiles.

use crate::programs::abi::{BUCKETS, Latencies, bucket};

/// How many datagrams had which latency. Errors are below 1/32.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
        }
    }
}

impl Histogram {
    /// Adds what one CPU counted.
    pub fn add(&mut self, counted: &Latencies) {
        for (sum, count) in self.buckets.iter_mut().zip(&counted.buckets) {
            *sum += count;
        }
    }

    /// Adds the datagrams of another one.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += count;
        }
    }

    /// How many datagrams there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The latency, in nanoseconds, that `per_mille` of a thousand datagrams do not exceed; `None`
    /// without datagrams.
    pub fn per_mille(&self, per_mille: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = ((count as f64 * per_mille / 1000.0).ceil() as u64).max(1);
        let mut seen = 0;
        let index = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(upper_end(index))
    }
}

/// The largest latency of a bucket, found with the function that chooses buckets.
fn upper_end(index: usize) -> u64 {
    let (mut low, mut high) = (0_u64, 1 << 40);
    // The smallest value of a later bucket.
    while low < high {
        let middle = low.midpoint(high);
        if bucket(middle) > index {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let mut latencies = Latencies {
            buckets: [0; BUCKETS],
        };
        for &value in values {
            latencies.buckets[bucket(value)] += 1;
        }
        let mut histogram = Histogram::default();
        histogram.add(&latencies);
        histogram
    }

    #[test]
    fn buckets_grow_with_the_latency_and_cover_everything() {
        let mut last = 0;
        for value in (0..5_000).chain((13..63).map(|bits| 1 << bits)) {
            let index = bucket(value);
            assert!(index >= last && index - last <= 32, "{value}");
            last = index;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket((1 << 40) - 1), BUCKETS - 1);
    }

    #[test]
    fn a_percentile_is_right_to_a_32nd() {
        for value in [0, 31, 32, 33, 1_000, 123_456, 7_000_000_000] {
            let found = of(&[value]).per_mille(500.0).unwrap();
            assert!(
                found >= value && found - value <= value / 32,
                "{value}: {found}"
            );
        }
    }

    #[test]
    fn percentiles_count_datagrams() {
        let mut values = vec![10; 990];
        values.extend([20; 9]);
        values.push(30);
        let histogram = of(&values);
        assert_eq!(histogram.per_mille(500.0), Some(10));
        assert_eq!(histogram.per_mille(990.0), Some(10));
        assert_eq!(histogram.per_mille(999.0), Some(20));
        assert_eq!(histogram.per_mille(1000.0), Some(30));
        assert_eq!(of(&[]).per_mille(500.0), None);
    }
}
