//! The benchmark: the relay and real peers, side by side on the same wires.

pub mod ceiling;
pub mod check;
pub mod contender;
pub mod cpu;
pub mod generator;
pub mod histogram;
pub mod job;
pub mod load;
pub mod peer;
pub mod programs;
pub mod relay;
pub mod sink;
pub mod template;
pub mod trial;
pub mod wire;
