//! `cargo xtask mutants`: changes the code, one expression at a time, and looks whether a test
//! notices.
//!
//! `.cargo/mutants.toml` says which files, and which changes no test can notice, each with the reason.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{process, setup, workspace::Workspace};

/// Makes the changes that the configuration allows, or of those only the ones whose names match the
/// regular expression `matching`: a name begins with the file.
pub fn run(ws: &Workspace, matching: Option<&str>) -> Result<ExitCode> {
    let cargo_mutants = setup::cargo_mutants(ws)?;
    let mut command = Command::new(cargo_mutants);
    process::without_own_environment(&mut command)
        .current_dir(&ws.root)
        .env_remove("CARGO_TARGET_DIR")
        .args(["mutants", "--output"])
        .arg(&ws.target);
    if let Some(matching) = matching {
        command.args(["--re", matching]);
    }
    Ok(process::exit_code(process::status(&mut command)?))
}
