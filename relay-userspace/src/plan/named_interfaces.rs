//! The interfaces that the rule file names, and where it names them.

use std::collections::HashMap;

use super::ids::{InterfaceId, List};
use crate::config::{
    Document, InterfacePlaces, Spot,
    rules::{InterfaceOptions, Offloads, Vlan},
};

/// One name, with the first place where it is an input and the first where it is an output.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    /// The first place of all.
    pub(super) first: Spot<'a>,
    pub(super) input: Option<Spot<'a>>,
    pub(super) output: Option<Spot<'a>>,
    /// A rule receives datagrams of a VLAN there.
    pub(super) has_vlan_rule: bool,
    /// The relay may switch its offloads off.
    pub(super) manages: bool,
}

/// Every interface that a rule names, in the order of first appearance.
pub(super) fn names<'d>(document: &'d Document) -> List<InterfaceId, Named<'d>> {
    let mut named: Vec<Named<'d>> = Vec::new();
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let mut name_at = |name, is_input: bool, spot: Spot<'d>, of_vlan: bool| {
        let position = *positions.entry(name).or_insert(named.len());
        if position == named.len() {
            named.push(Named {
                name,
                first: spot,
                input: None,
                output: None,
                has_vlan_rule: false,
                manages: options_of(document, name)
                    .is_some_and(|(options, _)| options.offloads == Offloads::Manage),
            });
        }
        if let Some(named) = named.get_mut(position) {
            let slot = if is_input {
                &mut named.input
            } else {
                &mut named.output
            };
            slot.get_or_insert(spot);
            named.has_vlan_rule |= of_vlan;
            if spot.place < named.first.place && spot.file == named.first.file {
                named.first = spot;
            }
        }
    };
    for (rule, places) in document.with_places() {
        let input = places.spot(places.input_interface);
        let of_vlan = rule.input.matches.vlan != Vlan::Untagged;
        name_at(&rule.input.interface, true, input, of_vlan);
        for (output, at) in rule.outputs.iter().zip(&places.outputs) {
            name_at(&output.interface, false, places.spot(at.interface), false);
        }
    }
    named.into()
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
