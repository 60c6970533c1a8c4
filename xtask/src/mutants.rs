//! `cargo xtask mutants`: changes the code, one expression at a time, and looks whether a test
//! notices.
//!
//! `.cargo/mutants.toml` says which files, and which changes no test can notice, each with the reason.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{process, setup, workspace::Workspace};

/// Changes the files that the configuration names, or of those only the ones that match `file`.
pub fn run(ws: &Workspace, file: Option<&str>) -> Result<ExitCode> {
    let cargo_mutants = setup::cargo_mutants(ws)?;
    let mut command = Command::new(cargo_mutants);
    process::without_own_environment(&mut command)
        .current_dir(&ws.root)
        .env_remove("CARGO_TARGET_DIR")
        .args(["mutants", "--output"])
        .arg(&ws.target);
    if let Some(file) = file {
        command.args(["--file", file]);
    }
    Ok(process::exit_code(process::status(&mut command)?))
}
