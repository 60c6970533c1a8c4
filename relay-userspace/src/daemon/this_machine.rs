//! A plan for this machine as it is now.

use crate::{
    config::{Document, Mistakes},
    host::{self, HostFacts},
    plan::{self, Backend, Constraints, Plan},
};

/// Asks the kernel about every interface that `document` names.
#[must_use]
pub fn host_facts(document: &Document) -> HostFacts {
    let rules = document.rules.rules.iter();
    host::facts_for(rules.flat_map(|rule| {
        let outputs = rule.outputs.iter().map(|output| output.interface.as_str());
        std::iter::once(rule.input.interface.as_str()).chain(outputs)
    }))
}

/// The plan for this machine as it is now; `forced` is the backend that the user asked for, if any.
///
/// # Errors
///
/// Everything that prevents running the rules on this machine, each with its place in the file.
pub fn for_this_machine(document: &Document, forced: Option<Backend>) -> Result<Plan, Mistakes> {
    let constraints = Constraints {
        forced,
        ..Constraints::default()
    };
    plan::build(document, &host_facts(document), &constraints)
}
