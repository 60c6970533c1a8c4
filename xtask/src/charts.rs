//! `cargo xtask charts`: what a benchmark found, as charts and as Markdown.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{
    process,
    setup::{self, Purpose},
    workspace::Workspace,
};

/// Draws `results` into docs/performance and prints its tables; the exit code is that of `relay-bench`.
pub fn run(ws: &Workspace, results: &Path) -> Result<ExitCode> {
    setup::system(Purpose::Bench)?;
    process::run(
        ws.cargo()
            .args(["build", "--release", "--locked", "--package", "relay-bench"]),
    )?;
    let mut charts = Command::new(ws.release("relay-bench"));
    process::without_own_environment(&mut charts)
        .arg("charts")
        .arg("--to")
        .arg(ws.root.join("docs/performance"))
        .arg(results);
    Ok(process::exit_code(process::status(&mut charts)?))
}
