//! How long frames of each input are in the relay, gathered from what the workers sample.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    datapath::Latency,
    observe::snapshot::{LatencyBucket, LatencyStatus, Quantiles},
    plan::Backend,
};

/// How long samples are gathered until they count as the last half minute's.
const HALF: Duration = Duration::from_secs(30);
/// The bounds of the buckets, in nanoseconds.
const BOUNDS: [u64; 19] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];
/// Digits of a time that are kept: its error is below 1 %, and a histogram has 30 KB.
const DIGITS: u8 = 2;

/// The latencies of all inputs, by the interface's name.
#[derive(Debug, Default)]
pub struct Latencies {
    inputs: BTreeMap<String, Input>,
    /// When the last half minute began.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Input {
    missed: u64,
    /// In nanoseconds.
    sum: u64,
    all: Histogram<u64>,
    now: Histogram<u64>,
    before: Histogram<u64>,
    buckets: [u64; BOUNDS.len()],
}

impl Latencies {
    /// Notes one latency of an input.
    pub fn note(&mut self, interface: &str, latency: Latency) {
        if !self.inputs.contains_key(interface) {
            let Some(new) = Input::new() else {
                return;
            };
            self.inputs.insert(interface.to_owned(), new);
        }
        if let Some(input) = self.inputs.get_mut(interface) {
            input.note(latency.nanoseconds);
        }
    }

    /// Begins another half minute, if the last one is over.
    pub fn turn(&mut self, now: Instant) {
        match self.since {
            Some(since) if now.saturating_duration_since(since) < HALF => return,
            Some(since) => {
                let long_ago = now.saturating_duration_since(since) >= 2 * HALF;
                for input in self.inputs.values_mut() {
                    std::mem::swap(&mut input.now, &mut input.before);
                    input.now.reset();
                    if long_ago {
                        input.before.reset();
                    }
                }
            }
            None => {}
        }
        self.since = Some(now);
    }

    /// Forgets interfaces that nobody wants.
    pub fn keep(&mut self, wanted: &BTreeSet<String>) {
        self.inputs.retain(|name, _| wanted.contains(name));
    }

    /// What is known of an input; `None` if that is nothing.
    pub fn of(&self, interface: &str, backend: Backend) -> Option<LatencyStatus> {
        let input = self.inputs.get(interface)?;
        let source = match backend {
            Backend::Xdp => "xdp program",
            Backend::IoUring => "socket filter",
        };
        let mut recent = input.now.clone();
        // They have the same bounds.
        let _ = recent.add(&input.before);
        let buckets = BOUNDS.iter().zip(input.buckets);
        Some(LatencyStatus {
            source: source.to_owned(),
            samples: input.all.len(),
            missed: input.missed,
            sum_seconds: seconds(input.sum),
            all: quantiles(&input.all),
            recent: quantiles(&recent),
            buckets: buckets
                .map(|(&bound, samples)| LatencyBucket {
                    up_to_seconds: seconds(bound),
                    samples,
                })
                .collect(),
        })
    }
}

impl Input {
    /// `None` if the library refuses the bounds, which it does not.
    fn new() -> Option<Self> {
        let histogram = || Histogram::new_with_bounds(1, u32::MAX.into(), DIGITS).ok();
        Some(Self {
            missed: 0,
            sum: 0,
            all: histogram()?,
            now: histogram()?,
            before: histogram()?,
            buckets: [0; BOUNDS.len()],
        })
    }

    fn note(&mut self, nanoseconds: Option<u32>) {
        let Some(nanoseconds) = nanoseconds.map(u64::from) else {
            self.missed += 1;
            return;
        };
        self.sum = self.sum.saturating_add(nanoseconds);
        self.all.saturating_record(nanoseconds);
        self.now.saturating_record(nanoseconds);
        for (bound, samples) in BOUNDS.iter().zip(&mut self.buckets) {
            *samples += u64::from(nanoseconds <= *bound);
        }
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn quantiles(of: &Histogram<u64>) -> Option<Quantiles> {
    if of.is_empty() {
        return None;
    }
    let quantile = |share| seconds(of.value_at_quantile(share).min(of.max()));
    Some(Quantiles {
        p50_seconds: quantile(0.5),
        p90_seconds: quantile(0.9),
        p99_seconds: quantile(0.99),
        p999_seconds: quantile(0.999),
        p9999_seconds: quantile(0.9999),
        max_seconds: seconds(of.max()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(latencies: &mut Latencies, nanoseconds: Option<u32>) {
        let latency = Latency {
            interface: 3,
            nanoseconds,
        };
        latencies.note("in0", latency);
    }

    fn close(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.01
    }

    #[test]
    fn samples_become_quantiles_and_buckets() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.of("in0", Backend::Xdp), None);
        for number in 1..=1000 {
            note(&mut latencies, Some(number * 1000));
        }
        note(&mut latencies, None);
        let status = latencies.of("in0", Backend::Xdp).unwrap();
        assert_eq!((status.samples, status.missed), (1000, 1));
        assert_eq!(&status.source, "xdp program");
        assert!(close(status.sum_seconds, 0.5005), "{status:?}");
        let all = status.all.unwrap();
        assert!(close(all.p50_seconds, 500e-6), "{all:?}");
        assert!(close(all.p99_seconds, 990e-6), "{all:?}");
        assert!(close(all.p9999_seconds, 1e-3), "{all:?}");
        assert!(close(all.max_seconds, 1e-3), "{all:?}");
        assert_eq!(status.recent, status.all);
        let up_to = |bound: f64| {
            let mut buckets = status.buckets.iter();
            let bucket = buckets.find(|one| close(one.up_to_seconds, bound));
            bucket.map(|one| one.samples)
        };
        assert_eq!(up_to(1e-6), Some(1));
        assert_eq!(up_to(500e-6), Some(500));
        assert_eq!(up_to(1.0), Some(1000));
    }

    #[test]
    fn recent_ones_are_of_the_last_half_to_whole_minute() {
        let mut latencies = Latencies::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        latencies.turn(at(0));
        note(&mut latencies, Some(u32::MAX));
        let highest = |latencies: &Latencies| {
            let status = latencies.of("in0", Backend::IoUring)?;
            status.recent.map(|recent| recent.max_seconds.ceil() as u64)
        };
        latencies.turn(at(29));
        assert_eq!(highest(&latencies), Some(5));
        latencies.turn(at(31));
        note(&mut latencies, Some(1000));
        assert_eq!(highest(&latencies), Some(5));
        latencies.turn(at(62));
        assert_eq!(highest(&latencies), Some(1));
        latencies.turn(at(500));
        assert_eq!(highest(&latencies), None);
        let status = latencies.of("in0", Backend::IoUring).unwrap();
        assert_eq!((status.samples, status.recent), (2, None));
        latencies.keep(&BTreeSet::new());
        assert_eq!(latencies.of("in0", Backend::IoUring), None);
    }
}
