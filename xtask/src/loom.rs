//! `cargo xtask loom`: the models of what a worker and control share, once for every order that the
//! steps of the threads may have.

use std::process::ExitCode;

use anyhow::Result;

use crate::{process, workspace::Workspace};

/// Runs them.
pub fn run(ws: &Workspace) -> Result<ExitCode> {
    let mut cargo = ws.cargo();
    cargo
        .args(["test", "--locked", "--lib", "--package", "relay-userspace"])
        .args(["--features", "loom", "--", "loom_tests"]);
    process::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}
