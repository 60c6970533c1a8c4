//! The nightly toolchain of rustup, for what no other has: sanitizers, coverage for fuzzers, Miri.
//!
//! It is not installed by itself: which nightly a machine has is its owner's choice, and an update
//! may bring another one.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Its name.
const NIGHTLY: &str = "nightly";

/// Makes cargo and whatever it starts use it.
pub fn use_in(command: &mut Command) -> &mut Command {
    process::without_own_environment(command)
        .env("RUSTUP_TOOLCHAIN", NIGHTLY)
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTDOC")
}

/// Checks that there is a compiler.
pub fn compiler() -> Result<()> {
    check(
        Command::new("rustc").arg("--version"),
        "fuzzing needs a nightly compiler",
        "rustup toolchain install nightly --profile minimal",
    )
}

/// Checks that there is Miri.
pub fn miri() -> Result<()> {
    check(
        Command::new("cargo").args(["miri", "--version"]),
        "this needs Miri",
        "rustup component add miri rust-src --toolchain nightly",
    )
}

fn check(command: &mut Command, what: &str, remedy: &str) -> Result<()> {
    let found = use_in(command).output();
    let is_nightly = |output: &std::process::Output| {
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains(NIGHTLY)
    };
    let (program, arguments) = (command.get_program(), command.get_args());
    if found.is_ok_and(|output| is_nightly(&output)) {
        return Ok(());
    }
    let line: Vec<_> = std::iter::once(program).chain(arguments).collect();
    let line: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
    bail!(
        "{what}, and `{}` finds none: run `{remedy}`",
        line.join(" ")
    )
}
