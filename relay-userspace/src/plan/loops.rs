//! Notes about loops: those that a plan makes possible, and what the relay does against them that
//! may surprise.
//!
//! The kernel programs do not take the relay's own copies, and [`Ttl::Auto`] ends rings of several
//! relays.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    ids::{FlowId, InterfaceId, List},
    model::{Flow, Output},
    wording::rules_named,
};
use crate::config::rules::{Match, Prefix, Ttl, Vlan};

/// Adds the notes about `flows`.
pub(super) fn notes(flows: &List<FlowId, Flow>, notes: &mut Vec<String>) {
    let fixed = |flow: &&Flow| {
        let mut outputs = flow.outputs.iter();
        outputs.any(|output| matches!(output.header.ttl, Ttl::Set(_)))
    };
    if let Some(names) = rules_named(flows.iter().filter(fixed)) {
        notes.push(format!(
            "A fixed `ttl` ({names}) starts every copy anew: if another relay sends such a copy back to an input of this \
             one, it circulates for ever. Leave `ttl` out where that is possible."
        ));
    }
    let mut inputs: HashMap<(InterfaceId, Vlan), Inputs<'_>> = HashMap::new();
    for flow in flows {
        let wire = (flow.interface, flow.matches.vlan);
        inputs.entry(wire).or_default().add(flow);
    }
    let feeds = |flow: &&Flow| {
        let mut outputs = flow.outputs.iter();
        outputs.any(|output| {
            let vlan = output.header.vlan.of_copy(flow.matches.vlan);
            let inputs = inputs.get(&(output.interface, vlan));
            inputs.is_some_and(|inputs| inputs.take_any_of(flow, output))
        })
    };
    if let Some(names) = rules_named(flows.iter().filter(feeds)) {
        notes.push(format!(
            "Datagrams that other rules take are sent by {names}, but the relay does not take its own copies where they \
             come back to it: they are counted as own_frame. Put the outputs of both rules into one rule."
        ));
    }
}

/// The inputs of one interface and VLAN, by group.
#[derive(Default)]
struct Inputs<'a> {
    by_group: BTreeMap<Prefix, Vec<&'a Match>>,
    lengths: BTreeSet<u8>,
}

/// The most inputs that are compared with one output. An output that has so many is not looked at
/// further: what it says is a note.
const COMPARED: usize = 1_000;

impl<'a> Inputs<'a> {
    fn add(&mut self, flow: &'a Flow) {
        let matches = &flow.matches;
        let of_group = self.by_group.entry(matches.group).or_default();
        of_group.push(matches);
        self.lengths.insert(matches.group.length());
    }

    /// Whether one of them takes some of the copies of `output`, which is one of `flow`.
    fn take_any_of(&self, flow: &Flow, output: &Output) -> bool {
        let shorter = self.lengths.range(..output.group.length());
        let around = shorter.filter_map(|&length| {
            let prefix = Prefix::around(output.group.address(), length)?;
            self.by_group.get(&prefix)
        });
        let within = self.by_group.range(output.group..);
        let within = within.take_while(|(group, _)| output.group.covers(group));
        let candidates = around.chain(within.map(|(_, inputs)| inputs));
        let mut candidates = candidates.flatten().take(COMPARED);
        candidates.any(|input| {
            let kept = flow.matches.sources.iter();
            let takes_source = match output.source {
                Some(source) => input.takes_source(Some(source)),
                None if flow.matches.sources.is_empty() => true,
                None => kept.copied().any(|source| input.takes_source(Some(source))),
            };
            input.ports.overlaps(output.port) && takes_source
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::{
        config::rules::{Header, OutputVlan, PortMatch},
        plan::model::LinkDestination,
    };

    fn flow(rule: usize, ttl: Ttl) -> Flow {
        let group = |block| Ipv4Addr::new(239, block, 0, rule as u8);
        Flow {
            rule: format!("r{rule}"),
            interface: InterfaceId::new(0),
            matches: Match {
                group: group(1).into(),
                ports: PortMatch::One(5001),
                sources: Vec::new(),
                vlan: Vlan::Untagged,
            },
            join: true,
            local: false,
            limit: None,
            monitor: None,
            pending: Vec::new(),
            outputs: vec![Output {
                position: 0,
                interface: InterfaceId::new(0),
                group: group(2).into(),
                port: PortMatch::One(5001),
                is_routed: false,
                source: Some(Ipv4Addr::LOCALHOST.into()),
                header: Header {
                    ttl,
                    ..Header::default()
                },
                to: LinkDestination::Group([0; 6]),
            }],
        }
    }

    fn of(flows: &List<FlowId, Flow>) -> Vec<String> {
        let mut found = Vec::new();
        notes(flows, &mut found);
        found
    }

    #[test]
    fn only_a_fixed_ttl_is_told_of_and_not_more_rules_than_fit_a_line() {
        assert_eq!(
            of(&vec![flow(1, Ttl::Auto), flow(2, Ttl::Decrement)].into()),
            [""; 0]
        );
        let flows: List<FlowId, Flow> = (1..=8).map(|rule| flow(rule, Ttl::Set(64))).collect();
        let found = of(&flows);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("rules `r1`, `r2`, `r3`, `r4`, `r5`, `r6` and 2 more)"),
            "{found:?}"
        );
    }

    #[test]
    fn a_rule_that_sends_what_another_takes_is_told_of() {
        let mut flows = List::from(vec![flow(1, Ttl::Auto), flow(2, Ttl::Auto)]);
        flows[0].outputs[0].group = flows[1].matches.group;
        let found = of(&flows);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("sent by rule `r1`, but"), "{found:?}");
        flows[0].outputs[0].port = PortMatch::One(5002);
        assert_eq!(of(&flows), [""; 0]);
    }

    #[test]
    fn an_output_feeds_inputs_of_its_vlan_that_take_its_source() {
        let source = |last| IpAddr::from([10, 1, 1, last]);
        // Of the input that is fed and of the rule that feeds it: tags and sources; what its copies
        // have; whether they feed it.
        let cases = [
            (
                (Vlan::Tag(7), None),
                (Vlan::Untagged, None),
                (OutputVlan::Tag(7), None),
                true,
            ),
            (
                (Vlan::Tag(7), None),
                (Vlan::Tag(7), None),
                (OutputVlan::Keep, None),
                true,
            ),
            (
                (Vlan::Tag(7), None),
                (Vlan::Tag(8), None),
                (OutputVlan::Keep, None),
                false,
            ),
            (
                (Vlan::Tag(7), None),
                (Vlan::Tag(7), None),
                (OutputVlan::Untagged, None),
                false,
            ),
            (
                (Vlan::Untagged, Some(1)),
                (Vlan::Untagged, None),
                (OutputVlan::Untagged, None),
                true,
            ),
            (
                (Vlan::Untagged, Some(1)),
                (Vlan::Untagged, Some(1)),
                (OutputVlan::Untagged, None),
                true,
            ),
            (
                (Vlan::Untagged, Some(1)),
                (Vlan::Untagged, Some(2)),
                (OutputVlan::Untagged, None),
                false,
            ),
            (
                (Vlan::Untagged, Some(1)),
                (Vlan::Untagged, Some(2)),
                (OutputVlan::Untagged, Some(1)),
                true,
            ),
            (
                (Vlan::Untagged, Some(1)),
                (Vlan::Untagged, Some(1)),
                (OutputVlan::Untagged, Some(2)),
                false,
            ),
        ];
        for (fed, feeds, copies, expected) in cases {
            let mut flows = List::from(vec![flow(1, Ttl::Auto), flow(2, Ttl::Auto)]);
            for (at, (vlan, sources)) in [(0, feeds), (1, fed)] {
                flows[at].matches.vlan = vlan;
                flows[at].matches.sources = sources.map(source).into_iter().collect();
            }
            let group = flows[1].matches.group;
            let output = &mut flows[0].outputs[0];
            (output.group, output.header.vlan) = (group, copies.0);
            output.source = copies.1.map(source);
            let found = of(&flows);
            assert_eq!(!found.is_empty(), expected, "{fed:?} {feeds:?} {copies:?}");
        }
    }
}
