//! `cargo xtask charts`: what a benchmark found, as charts and as Markdown.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{
    bench, process,
    setup::{self, Purpose},
    workspace::Workspace,
};

/// Draws `results` into docs/performance and prints its tables; the exit code is that of
/// `relay-bench`.
pub fn run(ws: &Workspace, results: &Path) -> Result<ExitCode> {
    // Drawing needs none of the programs that were compared.
    setup::system(Purpose::Build)?;
    let mut charts = bench::program(ws)?;
    charts
        .arg("charts")
        .arg("--to")
        .arg(ws.root.join("docs/performance"))
        .arg(results);
    Ok(process::exit_code(process::status(&mut charts)?))
}
