//! A plan for this machine as it is now.

use std::collections::BTreeSet;

use crate::{
    config::{Document, Mistakes},
    host::{self, HostFacts},
    plan::{self, Backend, Constraints, Plan},
};

/// Asks the kernel about every interface that `document` names, and every route to its unicast
/// outputs. `in_use` has the names and indices
/// of those that are in use: one that was renamed goes on under its old name.
#[must_use]
pub fn host_facts(document: &Document, in_use: &BTreeSet<(String, u32)>) -> HostFacts {
    let destinations = plan::destinations(document);
    let mut facts = host::facts_for(document.rules.interfaces_used(), in_use, destinations);
    let mut rules = document.rules.rules.iter();
    if rules.any(|rule| rule.enabled && rule.input.local) {
        facts.no_tap = host::tap::hindrance();
    }
    facts
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
    plan::build(
        document,
        &host_facts(document, &BTreeSet::new()),
        &constraints,
    )
}
