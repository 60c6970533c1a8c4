//! The interfaces that the rule file names, and where it names them.

use std::collections::HashMap;

use super::ids::{InterfaceId, List};
use crate::config::{
    Document, InterfacePlaces, Spot,
    rules::{Input, InterfaceOptions, Offloads, Output, Prefix, Source, Vlan},
};

/// One name, with the first place where it is an input, and those where it is an output of each
/// version of IP.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    /// The first place of all.
    pub(super) first: Spot<'a>,
    pub(super) input: Option<Spot<'a>>,
    pub(super) ipv4_output: Option<Spot<'a>>,
    pub(super) ipv6_output: Option<Spot<'a>>,
    /// The first place of an output over IPv4 whose copies leave with an address of the interface.
    pub(super) ipv4_source: Option<Spot<'a>>,
    /// The same over IPv6.
    pub(super) ipv6_source: Option<Spot<'a>>,
    /// Datagrams to IPv4 groups arrive here.
    pub(super) takes_ipv4: bool,
    /// A rule receives datagrams of a VLAN there.
    pub(super) has_vlan_rule: bool,
    /// A rule receives there for this host as well.
    pub(super) has_local_rule: bool,
    /// The relay may switch its offloads off.
    pub(super) manages: bool,
}

impl Named<'_> {
    pub(super) fn is_output(&self) -> bool {
        self.ipv4_output.is_some() || self.ipv6_output.is_some()
    }
}

/// One of the ends of a rule.
enum End<'a> {
    Input(&'a Input),
    Output(&'a Output),
}

/// Every interface that a rule names, in the order of first appearance.
pub(super) fn names<'d>(document: &'d Document) -> List<InterfaceId, Named<'d>> {
    let mut named: Vec<Named<'d>> = Vec::new();
    let mut positions: HashMap<&str, usize> = HashMap::new();
    let mut name_at = |name, end: End<'_>, group: Prefix, spot: Spot<'d>| {
        let (input, own_source) = match end {
            End::Input(input) => (Some(input), false),
            End::Output(output) => (None, output.source == Source::Interface),
        };
        let is_input = input.is_some();
        let is_ipv4 = group.address().is_ipv4();
        let position = *positions.entry(name).or_insert(named.len());
        if position == named.len() {
            named.push(Named {
                name,
                first: spot,
                input: None,
                ipv4_output: None,
                ipv6_output: None,
                ipv4_source: None,
                ipv6_source: None,
                takes_ipv4: false,
                has_vlan_rule: false,
                has_local_rule: false,
                manages: options_of(document, name)
                    .is_some_and(|(options, _)| options.offloads == Offloads::Manage),
            });
        }
        if let Some(named) = named.get_mut(position) {
            named.takes_ipv4 |= is_input && is_ipv4 && group.address().is_multicast();
            let slot = match (is_input, is_ipv4) {
                (true, _) => &mut named.input,
                (false, true) => &mut named.ipv4_output,
                (false, false) => &mut named.ipv6_output,
            };
            slot.get_or_insert(spot);
            if own_source {
                let slot = match is_ipv4 {
                    true => &mut named.ipv4_source,
                    false => &mut named.ipv6_source,
                };
                slot.get_or_insert(spot);
            }
            named.has_vlan_rule |= input.is_some_and(|one| one.matches.vlan != Vlan::Untagged);
            named.has_local_rule |= input.is_some_and(|one| one.local);
            if spot.place < named.first.place && spot.file == named.first.file {
                named.first = spot;
            }
        }
    };
    for (rule, places) in document.with_places() {
        let input = places.spot(places.input_interface);
        let group = rule.input.matches.group;
        name_at(&rule.input.interface, End::Input(&rule.input), group, input);
        for (output, at) in rule.outputs.iter().zip(&places.outputs) {
            let spot = places.spot(at.interface);
            if let Some(interface) = &output.interface {
                name_at(interface, End::Output(output), output.group, spot);
            }
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
