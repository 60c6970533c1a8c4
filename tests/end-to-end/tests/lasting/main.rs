//! A relay runs for months: after any changes, however many, it holds what its rules need, and
//! nothing else.
//!
//! The long form of these tests takes minutes: `cargo xtask ci --nightly` runs it, with
//! `RELAY_TESTS_LONG` set. `cargo xtask soak` runs [`soak`] alone, for as long as it is asked to.

mod endurance;
mod kernel_maps;
mod model;
mod probe;
mod random_changes;
mod soak;
mod system;
mod universe;

/// Whether to run for minutes.
fn is_long() -> bool {
    std::env::var_os("RELAY_TESTS_LONG").is_some()
}
