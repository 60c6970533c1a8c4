//! `relay check`: validates the rule file, without looking at the machine.

use std::path::Path;

use super::output::print;
use crate::config;

/// Prints how many rules and outputs `file` has.
///
/// # Errors
///
/// Every mistake in the file.
pub fn check(file: &Path) -> anyhow::Result<()> {
    let document = config::load(file)?;
    let rules = document.rules.rules.len();
    let outputs: usize = document
        .rules
        .rules
        .iter()
        .map(|rule| rule.outputs.len())
        .sum();
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    print(&format!(
        "{}: ok, {rules} rule{} with {outputs} output{}\n",
        document.file,
        plural(rules),
        plural(outputs)
    ))
}
