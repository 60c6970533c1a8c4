//! Interfaces that do not exist, or that the relay cannot find out about: which rules cannot run
//! without them, and how the others can.

use std::collections::HashMap;

use super::{
    finding::{Finding, Role},
    named_interfaces::Named,
};
use crate::{
    config::{Document, quoted},
    host::{HostError, HostFacts},
};

/// The most rules that a mistake names.
const NAMED: usize = 4;

/// The rules that use an interface: the first few by name, and how many there are.
#[derive(Default)]
struct Users<'a> {
    names: Vec<&'a str>,
    count: usize,
}

/// Adds a finding for each of `names`.
pub(super) fn add(
    document: &Document,
    names: &[&Named<'_>],
    host_facts: &HostFacts,
    findings: &mut Vec<Finding>,
) {
    if names.is_empty() {
        return;
    }
    let failures = host_facts.failures.iter();
    let failures: HashMap<&str, &HostError> =
        failures.map(|failure| (failure.name(), failure)).collect();
    let users = users(document, names);
    for named in names {
        let name = named.name;
        let (cause, remedy) = match failures.get(name) {
            Some(failure) => (failure.to_string(), failure.remedy()),
            None => (
                format!("there is no interface `{name}`"),
                "`ip link show` lists those that exist".into(),
            ),
        };
        let reason = match failures.get(name) {
            Some(HostError::Refused { .. }) => format!("{cause}; {remedy}"),
            Some(HostError::Missing { .. }) | None => {
                format!("waiting for interface {name}: there is none of that name")
            }
        };
        let rules = users.get(name).map(|users| users.remedy(document));
        let remedy = format!("{remedy}; {}", rules.unwrap_or_default());
        let mistake = named.first.mistake(cause, remedy);
        findings.push(Finding::about(name, &Role::ALL, mistake).with_reason(reason));
    }
}

fn users<'a>(document: &'a Document, names: &[&Named<'a>]) -> HashMap<&'a str, Users<'a>> {
    let mut all: HashMap<&str, Users<'_>> = names
        .iter()
        .map(|named| (named.name, Users::default()))
        .collect();
    for rule in &document.rules.rules {
        let outputs = rule.outputs.iter();
        let outputs = outputs.filter_map(|output| output.interface.as_deref());
        let mut used: Vec<&str> = std::iter::once(rule.input.interface.as_str())
            .chain(outputs)
            .collect();
        used.sort_unstable();
        used.dedup();
        for name in used {
            if let Some(users) = all.get_mut(name) {
                users.count += 1;
                if users.names.len() < NAMED {
                    users.names.push(&rule.name);
                }
            }
        }
    }
    all
}

impl Users<'_> {
    fn remedy(&self, document: &Document) -> String {
        let names: Vec<String> = self
            .names
            .iter()
            .map(|name| format!("`{}`", quoted(name)))
            .collect();
        let names = names.join(", ");
        let (rules, it) = match self.count {
            0 | 1 => ("rule", "it"),
            _ => ("rules", "them"),
        };
        let more = match self.count.saturating_sub(self.names.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let all = document.rules.rules.len();
        let others = match all.saturating_sub(self.count) {
            0 => String::new(),
            1 => format!("; take {it} out of the file to run the other rule"),
            others => format!("; take {it} out of the file to run the other {others}"),
        };
        format!("{rules} {names}{more} cannot run without{others}")
    }
}
