//! How long frames of an input are in the relay.

use serde::{Deserialize, Serialize};

/// How long some of an input's frames were in the relay: from when `source` saw them until their
/// copies were handed to the kernel. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// What took the time of arrival: `xdp program`, as the driver's receive loop runs it, or
    /// `socket filter`, as the kernel's stack does.
    pub source: String,
    /// Frames whose time was taken, since the relay was ready.
    pub samples: u64,
    /// Frames whose time was to be taken, and that did not reach the worker, or of which others are
    /// exact copies.
    pub missed: u64,
    /// The sum of all times.
    pub sum_seconds: f64,
    /// Of all samples.
    pub all: Option<Quantiles>,
    /// Of those of the last half to whole minute.
    pub recent: Option<Quantiles>,
    /// How many samples were not above a bound, for ascending bounds.
    pub buckets: Vec<LatencyBucket>,
}

/// Times that a share of the samples was not above, to 1 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of them.
    pub p50_seconds: f64,
    /// 90 %.
    pub p90_seconds: f64,
    /// 99 %.
    pub p99_seconds: f64,
    /// 99.9 %.
    pub p999_seconds: f64,
    /// 99.99 %.
    pub p9999_seconds: f64,
    /// All of them.
    pub max_seconds: f64,
}

/// Samples up to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyBucket {
    /// The bound.
    pub up_to_seconds: f64,
    /// How many samples.
    pub samples: u64,
}
