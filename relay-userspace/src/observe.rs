//! The relay's counters, for people and programs: log lines, the final report, its JSON, metrics.

pub mod exposition;
pub mod log_line;
pub mod metrics;
pub mod pcapng;
pub mod report;
pub mod snapshot;
