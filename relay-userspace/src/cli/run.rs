//! `relay run`: relays until a signal ends it, and prints the final report.

use std::{io, path::Path};

use super::output::print_or_give_up;
use crate::{
    config,
    daemon::{self, Outcome, RunError},
    observe::report::Report,
    plan::Backend,
};

/// Runs the rules of `file`; `backend` is the one that the user asked for, if any.
///
/// # Errors
///
/// Every mistake in the file, or the error that kept the rules from running or ended them.
pub fn run(file: &Path, backend: Option<Backend>, json: bool) -> anyhow::Result<()> {
    let document = config::load(file)?;
    run_and_report(&document, backend, json).map_err(|error| match error {
        RunError::Rules(mistakes) => mistakes.into(),
        error => error.into(),
    })
}

fn run_and_report(
    document: &config::Document,
    backend: Option<Backend>,
    json: bool,
) -> Result<(), RunError> {
    // The run releases everything before the report is printed, which may wait for its reader.
    let Outcome { report, defects } = daemon::run(document, backend)?;
    print_report(&report, json)?;
    if defects > 0 {
        return Err(RunError::Defect(defects));
    }
    Ok(())
}

fn print_report(report: &Report, json: bool) -> Result<(), RunError> {
    let text = if json {
        serde_json::to_vec(report).map(|mut text| {
            text.push(b'\n');
            text
        })
    } else {
        Ok(report.to_string().into_bytes())
    };
    let printed = text.map_err(io::Error::from).and_then(print_or_give_up);
    printed.map_err(|error| RunError::System {
        what: "print the report",
        error,
    })
}
