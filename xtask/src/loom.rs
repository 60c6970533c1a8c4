//! `cargo xtask loom`: the models of what a worker and control share, once for every order that the
//! steps of the threads may have.

use std::process::ExitCode;

use anyhow::Result;

use crate::{process, workspace::Workspace};

/// Runs them.
pub fn run(ws: &Workspace) -> Result<ExitCode> {
    let mut cargo = ws.cargo();
    cargo
        .env("CARGO_TARGET_DIR", ws.target.join("loom"))
        .env("RUSTFLAGS", "--cfg loom")
        .args(["test", "--locked", "--lib", "--package", "relay-userspace"])
        .args(["--", "loom_tests"]);
    process::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
