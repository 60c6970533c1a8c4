//! The interfaces that the rule file names, and where it names them.

use std::collections::HashMap;

use super::ids::{InterfaceId, List};
use crate::config::{Document, InterfacePlaces, Place, rules::InterfaceOptions};

/// One name, with the first place where it is an input and the first where it is an output.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) input: Option<Place>,
    pub(super) output: Option<Place>,
}

/// Every interface that a rule names, in the order of first appearance.
pub(super) fn names(document: &Document) -> List<InterfaceId, Named<'_>> {
    let mut named: Vec<Named<'_>> = Vec::new();
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let mut place_of = |name, is_input: bool, place| {
        let position = *positions.entry(name).or_insert(named.len());
        if position == named.len() {
            named.push(Named {
                name,
                input: None,
                output: None,
            });
        }
        if let Some(named) = named.get_mut(position) {
            let slot = if is_input {
                &mut named.input
            } else {
                &mut named.output
            };
            slot.get_or_insert(place);
        }
    };
    for (rule, places) in document.rules.rules.iter().zip(&document.places.rules) {
        place_of(&rule.input.interface, true, places.input_interface);
        for (output, places) in rule.outputs.iter().zip(&places.outputs) {
            place_of(&output.interface, false, places.interface);
        }
    }
    named.into()
}

impl Named<'_> {
    /// Where the file first names the interface.
    pub(super) fn place(&self) -> Place {
        let places = self.input.into_iter().chain(self.output);
        places.min().unwrap_or(Place { line: 1, column: 1 })
    }
}

/// The interface's own table in the file, if it has one.
pub(super) fn options_of<'a>(
    document: &'a Document,
    name: &str,
) -> Option<(&'a InterfaceOptions, &'a InterfacePlaces)> {
    let mut all = document
        .rules
        .interfaces
        .iter()
        .zip(&document.places.interfaces);
    all.find(|(options, _)| options.name == name)
}
