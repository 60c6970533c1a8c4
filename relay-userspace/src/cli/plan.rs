//! `relay plan`: what `run` would do on this machine.

use std::path::Path;

use anyhow::Context as _;

use super::output::print;
use crate::{
    config,
    daemon::{claim, this_machine},
    plan::Backend,
};

/// Prints the plan for `file`; `backend` is the one that the user asked for, if any.
///
/// # Errors
///
/// Every mistake in the file, and everything that prevents running it on this machine.
pub fn plan(file: &Path, backend: Option<Backend>, json: bool) -> anyhow::Result<()> {
    let mut plan = this_machine::for_this_machine(&config::load(file)?, backend)?;
    plan.notes.extend(claim::notes(&plan));
    if json {
        let text = serde_json::to_string_pretty(&plan).context("writing the plan as JSON")?;
        print(&format!("{text}\n"))
    } else {
        print(&plan.to_string())
    }
}
