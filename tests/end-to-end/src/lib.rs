//! The network testbed of the end-to-end tests: hosts, wires, senders and receivers made of network
//! namespaces, veth pairs and real sockets.
//!
//! Nothing here shares code with the relay. A test counts at the receivers what was forwarded, and
//! compares the relay's own counters with that. Everything that a test makes is its own, so tests
//! run in parallel without meeting, and is removed when it goes out of scope, also by a panic.
//! Namespaces that a killed run left behind are named `relay-*`: `cargo xtask clean-net` removes
//! them.
//!
//! Many tests have the number of a scenario in their names: `f` for forwarding, `m` for matching,
//! `o` for operating, `x` for faults, `l` for loops. `cargo xtask test f9` runs those of one
//! scenario, here checksums.

pub mod abuse;
pub mod backend;
pub mod background;
pub mod bpf;
pub mod capture;
pub mod counters;
pub mod encapsulation;
pub mod events;
pub mod flap;
pub mod frames;
pub mod headers;
pub mod holdings;
pub mod inspect;
pub mod ipv6;
pub mod lab;
pub mod looped;
pub mod malformed;
pub mod methods;
pub mod netns;
pub mod output_keys;
pub mod payload;
pub mod process;
pub mod raw;
pub mod receiver;
pub mod relay;
pub mod report;
pub mod rules;
pub mod scenario;
pub mod scrape;
pub mod sender;
pub mod soak;
pub mod stacked;
pub mod sys;
pub mod tagged;
pub mod tally;
pub mod tap;
pub mod tapping;
pub mod topology;
pub mod unicast;
pub mod unprivileged;
pub mod verbs;
pub mod veth;
