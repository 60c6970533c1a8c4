//! The benchmark: the relay and real peers, side by side on the same wires.

pub mod account;
pub mod bed;
pub mod capacity;
pub mod ceiling;
pub mod check;
pub mod compare;
pub mod contender;
pub mod cpu;
pub mod generator;
pub mod histogram;
pub mod job;
pub mod limits;
pub mod load;
pub mod machine;
pub mod measure;
pub mod peer;
pub mod programs;
pub mod relay;
pub mod results;
pub mod scenario;
pub mod sink;
pub mod table;
pub mod template;
pub mod trial;
pub mod wire;
pub mod yardstick;
