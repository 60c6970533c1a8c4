//! What a rule file may say and the datapath cannot do.

use std::collections::{BTreeMap, BTreeSet};

use relay_common::matching::{List, Shape};

use super::flow_key::FlowKey;
use crate::config::{Document, Mistake, Mistakes, quoted, rules::Output};
use crate::packet::MAX_HOST_BITS;

/// Refuses the rules of `document`, whose rules are all enabled, that the datapath cannot run.
///
/// # Errors
///
/// One mistake for each of them, at its place.
pub(super) fn unsupported(document: &Document) -> Result<(), Mistakes> {
    let mut mistakes = Vec::new();
    for (rule, places) in document.with_places() {
        let outputs = rule.outputs.iter().zip(&places.outputs);
        let mut found = outputs.filter_map(|(output, at)| Some((of_output(output)?, at.output)));
        if let Some((what, place)) = found.next() {
            let name = quoted(&rule.name);
            mistakes.push(places.spot(place).mistake(
                format!(
                    "rule `{name}`: {what} cannot be relayed yet; `relay check` knows it already"
                ),
                "take the rule out of the file, or disable it with `enabled = false`".into(),
            ));
        }
    }
    mistakes.extend(too_many_shapes(document));
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(Mistakes::of(mistakes)),
    }
}

fn of_output(output: &Output) -> Option<&'static str> {
    (output.group.host_bits() > MAX_HOST_BITS)
        .then_some("an output to a prefix of IPv6 groups that is shorter than /96")
}

/// The rules with one more shape than the kernel programs look for on one interface.
fn too_many_shapes(document: &Document) -> Vec<Mistake> {
    let mut shapes: BTreeMap<(&str, List), BTreeSet<Shape>> = BTreeMap::new();
    let mut mistakes = Vec::new();
    for (rule, places) in document.with_places() {
        let interface = rule.input.interface.as_str();
        // The shape is the same for each source.
        let key = FlowKey::of(0, &rule.input.matches).next();
        let Some((list, shape)) = key.and_then(|key| key.at(0).listed()) else {
            continue;
        };
        let known = shapes.entry((interface, list)).or_default();
        if !known.contains(&shape) && known.len() == List::LEN {
            let name = quoted(&rule.name);
            mistakes.push(places.spot(places.input).mistake(
                format!(
                    "rule `{name}`: the rules of `{interface}` have more than {} combinations of \
                     prefix length and kind of port (one, a range, any)",
                    List::LEN
                ),
                "give it a prefix length that other rules have, or move rules to another interface"
                    .into(),
            ));
            continue;
        }
        known.insert(shape);
    }
    mistakes
}
