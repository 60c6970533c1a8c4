//! More combinations of prefix length and kind of port than the kernel programs look for.

use std::collections::{BTreeMap, BTreeSet};

use relay_common::matching::{List, Shape};

use super::flow_key::FlowKey;
use crate::config::{Document, Mistakes, quoted};

/// Refuses the rules of `document`, whose rules are all enabled, with one more shape than the
/// kernel programs look for on one interface.
///
/// # Errors
///
/// One mistake for each of them, at its place.
pub(super) fn check(document: &Document) -> Result<(), Mistakes> {
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
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(Mistakes::of(mistakes)),
    }
}
