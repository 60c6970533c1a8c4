//! The relay's counters, for people and programs: log lines, the final report, its JSON.

pub mod log_line;
pub mod report;
pub mod snapshot;
