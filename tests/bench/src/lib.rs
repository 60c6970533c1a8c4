//! The benchmark: the relay and real peers, side by side on the same wires.

pub mod ceiling;
pub mod check;
pub mod contender;
pub mod job;
pub mod peer;
