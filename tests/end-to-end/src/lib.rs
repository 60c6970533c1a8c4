//! The network testbed of the end-to-end tests: hosts, wires, senders and receivers made of network
//! namespaces, veth pairs and real sockets.
//!
//! Nothing here shares code with the relay. What a test believes about forwarding it has counted at
//! the receivers; the relay's own counters are then compared with that. Everything a test makes is
//! private to it, so tests run in parallel without meeting, and is removed when it goes out of
//! scope, also by a panic. What a killed run left behind is named `relay-*`: `cargo xtask clean-net`
//! removes it.

pub mod backend;
pub mod background;
pub mod bpf;
pub mod capture;
pub mod flap;
pub mod frames;
pub mod inspect;
pub mod lab;
pub mod methods;
pub mod netns;
pub mod payload;
pub mod process;
pub mod raw;
pub mod receiver;
pub mod relay;
pub mod report;
pub mod rules;
pub mod scenario;
pub mod sender;
pub mod stacked;
pub mod sys;
pub mod tally;
pub mod tap;
pub mod topology;
pub mod unprivileged;
pub mod veth;
