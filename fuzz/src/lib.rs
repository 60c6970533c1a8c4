//! Fuzz targets: what must hold for any bytes, one module per target.
//!
//! A target is a plain function from bytes to nothing that panics where something does not hold.
//! libFuzzer drives it through a program in `fuzz_targets` (`cargo xtask fuzz`), which needs a
//! nightly compiler. `tests/replay.rs` runs it on the committed corpus with any compiler, so
//! whatever a fuzzer has found once stays found.
//!
//! | target | input | what must hold |
//! |---|---|---|
//! | [`decode`] | a frame | the decoder says what etherparse says, and reads nothing outside |
//! | [`rewrite`] | a rule and a datagram | every header field of the copy is as documented, as etherparse reads it |
//! | [`rule_file`] | the text of a rule file | every mistake has a place; what has none can be written, planned and explained |
//! | [`control`] | what a client sends | the inbox cuts it at its ends; what can be read means the same written again |
//! | [`gso_split`] | received packets | cut apart, joined and cut again, they are the same datagrams in the same order |
//! | [`plans`] | changes of what is matched, and of rules | tables find what a linear search finds; slots are never shared |

// A target reports by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod control;
pub mod decode;
mod frames;
pub mod gso_split;
mod hosts;
pub mod plans;
pub mod rewrite;
pub mod rule_file;

/// A target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("decode", decode::run),
    ("rewrite", rewrite::run),
    ("rule_file", rule_file::run),
    ("control", control::run),
    ("gso_split", gso_split::run),
    ("plans", plans::run),
];
