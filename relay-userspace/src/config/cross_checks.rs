//! Checks that compare values of the file: duplicates, loops, `[[interfaces]]` tables that no rule
//! uses.
//!
//! Checks of single values are in [`super::tables`] and [`super::values`].

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use relay_common::abi::MAX_SHAPED;

use super::{
    MAX_MEMBERSHIPS, Place,
    cycles::{Edge, circle},
    draft::{At, Draft, RuleDraft},
    equals,
    fed_rules::FedRules,
    mistake::{Collector, quoted},
    rules::{Destination, Input, PortMatch},
};

/// Adds every mistake that only several values of the draft together show.
pub(super) fn check<'d>(draft: &'d Draft, found: &mut Collector<'_>) {
    let input = |rule: &'d RuleDraft| rule.input.as_ref().map(|(input, _)| &input.value);
    let inputs: Vec<Option<&Input>> = draft.rules.iter().map(input).collect();
    names(draft, found);
    equal_inputs(draft, &inputs, found);
    bounds(draft, &inputs, found);
    let fed_rules = FedRules::new(&inputs);
    outputs(draft, &fed_rules, found);
    cycles(draft, &fed_rules, found);
    interfaces(draft, found);
}

fn names(draft: &Draft, found: &mut Collector<'_>) {
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for At { place, value } in draft.rules.iter().filter_map(|rule| rule.name.as_ref()) {
        match seen.get(value.as_str()) {
            Some(first) => found.add(
                *place,
                format!(
                    "the name `{}` is taken: a rule at {first} has it",
                    quoted(value)
                ),
                "give every rule its own name; counters and logs go by it",
            ),
            None => {
                seen.insert(value, *place);
            }
        }
    }
}

/// What is wrong with an input beside one that is equally specific and overlaps with it, for the
/// names of their rules.
pub(super) fn equally_specific(rule: &str, input: &Input, other: &str, others: &Input) -> String {
    match input.matches.common(&others.matches) {
        Some(common) if input.matches != others.matches => format!(
            "{rule} is as specific as {other}, and both take {}",
            common.on(&input.interface)
        ),
        _ => format!("{rule} has the same input as {other}: {input}"),
    }
}

/// What to do about it, where the two do not have the same input.
pub(super) const MAKE_ONE_MORE_SPECIFIC: &str = "let one of them take less, or make it more specific: a source wins, then a longer prefix, \
     then one port before a range before any";

/// Refuses inputs that are equally specific and overlap.
fn equal_inputs(draft: &Draft, inputs: &[Option<&Input>], found: &mut Collector<'_>) {
    for equals::Pair { first, later } in equals::find(inputs) {
        let (Some(rule), Some(other)) = (draft.rules.get(later), draft.rules.get(first)) else {
            continue;
        };
        let (Some((input, _)), Some((others, _))) = (&rule.input, &other.input) else {
            continue;
        };
        let name = format!("{} at {}", other.label, others.place);
        let cause = equally_specific(&rule.label, &input.value, &name, &others.value);
        let remedy = match input.value.matches == others.value.matches {
            true => "put the outputs of both into one rule",
            false => MAKE_ONE_MORE_SPECIFIC,
        };
        found.add(input.place, cause, remedy);
    }
}

/// Something that the inputs of one relay may have only so much of.
pub(super) struct Bound {
    /// The first input with which all up to it have more.
    pub first_beyond: fn(&[Option<&Input>]) -> Option<usize>,
    /// What is wrong with the rule of that input, which has this name, and what to do.
    pub mistake: fn(&str) -> (String, &'static str),
}

/// All of them.
pub(super) const BOUNDS: [Bound; 2] = [
    Bound {
        first_beyond: first_beyond_the_memberships,
        mistake: too_many_memberships,
    },
    Bound {
        first_beyond: first_beyond_the_tables,
        mistake: too_many_entries,
    },
];

/// Refuses inputs that have more of something than one relay may.
fn bounds(draft: &Draft, inputs: &[Option<&Input>], found: &mut Collector<'_>) {
    for bound in BOUNDS {
        let beyond = (bound.first_beyond)(inputs);
        if let Some(rule) = beyond.and_then(|beyond| draft.rules.get(beyond)) {
            let input = rule.input.as_ref().map(|(input, _)| input.place);
            let (cause, remedy) = (bound.mistake)(&rule.label);
            found.add(input.unwrap_or(rule.place), cause, remedy);
        }
    }
}

/// The first input with which all up to it have more memberships than a relay may have.
fn first_beyond_the_memberships(inputs: &[Option<&Input>]) -> Option<usize> {
    let mut left = MAX_MEMBERSHIPS as u128;
    let mut seen = HashSet::new();
    inputs.iter().position(|input| {
        let Some(input) = input.filter(|input| input.join) else {
            return false;
        };
        let matches = &input.matches;
        if !seen.insert((&input.interface, matches.group, &matches.sources)) {
            return false;
        }
        let sources = matches.sources.len().max(1) as u128;
        let less = left.checked_sub(matches.group.count().saturating_mul(sources));
        left = less.unwrap_or(0);
        less.is_none()
    })
}

/// What is wrong with the rule of that input, and what to do.
fn too_many_memberships(rule: &str) -> (String, &'static str) {
    (
        format!(
            "the rules up to {rule} join more than {MAX_MEMBERSHIPS} groups, as many as one relay \
             joins"
        ),
        "add `join = false` where the network delivers the groups by itself, or split the rules \
         over several relays",
    )
}

/// The first input with which all up to it surely have more entries than the tables have room for.
/// A range of ports may take more than the one that is counted here.
fn first_beyond_the_tables(inputs: &[Option<&Input>]) -> Option<usize> {
    let mut left = [MAX_SHAPED as usize; 2];
    inputs.iter().position(|input| {
        let Some(matches) = input.map(|input| &input.matches) else {
            return false;
        };
        let is_exact = matches.group.is_one()
            && matches.sources.is_empty()
            && matches!(matches.ports, PortMatch::One(_));
        let [of_v4, of_v6] = &mut left;
        let left = match matches.group.address() {
            IpAddr::V4(_) => of_v4,
            IpAddr::V6(_) => of_v6,
        };
        let entries = if is_exact {
            0
        } else {
            matches.sources.len().max(1)
        };
        let less = left.checked_sub(entries);
        *left = less.unwrap_or(0);
        less.is_none()
    })
}

/// What is wrong with the rule of that input, and what to do.
fn too_many_entries(rule: &str) -> (String, &'static str) {
    (
        format!(
            "the rules up to {rule} match by more than {MAX_SHAPED} sources, prefixes and ranges of \
             ports of one IP version, as many as one relay has room for"
        ),
        "leave sources out, or split the rules over several relays",
    )
}

fn outputs(draft: &Draft, fed_rules: &FedRules<'_>, found: &mut Collector<'_>) {
    for (at, rule) in draft.rules.iter().enumerate() {
        let mut seen: HashMap<Destination<'_>, Place> = HashMap::new();
        for (position, (output, _)) in rule.outputs.iter().enumerate() {
            let mut destination = output.value.destination();
            let own = rule.input.as_ref().map(|(input, _)| &input.value);
            if let Some(own) = own.filter(|own| fed_rules.feeds_itself(&output.value, at, own)) {
                found.add(
                    output.place,
                    format!(
                        "{}, output {}: it feeds the rule's own input, {own}",
                        rule.label,
                        position + 1
                    ),
                    "give the output another group, port, VLAN or interface",
                );
            }
            if let Some(own) = own {
                destination.vlan = destination.vlan.of_copy(own.matches.vlan).into();
            }
            match seen.get(&destination) {
                Some(first) => found.add(
                    output.place,
                    format!(
                        "{}: two outputs go to {destination}; the first is at {first}",
                        rule.label
                    ),
                    "remove one, or give it another group, port, VLAN or interface",
                ),
                None => {
                    seen.insert(destination, output.place);
                }
            }
        }
    }
}

/// Refuses rules that feed one another in a circle, see [`super::cycles`].
fn cycles(draft: &Draft, fed_rules: &FedRules<'_>, found: &mut Collector<'_>) {
    let fed = |rule: usize| {
        let mut edges: Vec<Edge> = Vec::new();
        let rule = draft.rules.get(rule);
        let ends = rule.and_then(|rule| Some((&rule.input.as_ref()?.0.value, &rule.outputs)));
        let Some((input, outputs)) = ends else {
            return edges;
        };
        for (position, (output, _)) in (0..).zip(outputs) {
            fed_rules.of(&output.value, input, |fed| {
                edges.push((position, fed as u32));
            });
        }
        edges
    };
    super::cycles::find(draft.rules.len(), 0..draft.rules.len(), fed, |steps| {
        let rules = steps.iter().filter_map(|step| draft.rules.get(step.rule));
        let closing = steps
            .last()
            .and_then(|step| draft.rules.get(step.rule)?.outputs.get(step.output));
        if let Some((output, _)) = closing {
            let circle = circle(rules.map(|rule| rule.label.as_str()).collect());
            let cause =
                format!("rules feed one another in a circle: {circle}; this output closes it");
            let remedy = "give one of these outputs another group, port, VLAN or interface";
            found.add(output.place, cause, remedy);
        }
        !found.has_enough()
    });
}

/// The most names that the search for a similar name compares.
const MEASURED: usize = 256;

fn interfaces(draft: &Draft, found: &mut Collector<'_>) {
    let used = &draft.used;
    // A route may lead through any interface.
    let mut outputs = draft.rules.iter().flat_map(|rule| &rule.outputs);
    let any_routed = outputs.any(|(output, _)| output.value.interface.is_none());
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for At { place, value } in draft
        .interfaces
        .iter()
        .filter_map(|options| options.name.as_ref())
    {
        if let Some(first) = seen.get(value.as_str()) {
            found.add(
                *place,
                format!(
                    "interface `{value}` has two [[interfaces]] tables; the first is at {first}"
                ),
                "put both into one table",
            );
            continue;
        }
        seen.insert(value, *place);
        if used.contains(value.as_str()) || draft.used_incomplete || any_routed {
            continue;
        }
        if found.has_enough() {
            return;
        }
        let close = used
            .iter()
            .filter(|used| used.len().abs_diff(value.len()) <= 2)
            .take(MEASURED)
            .map(|used| (strsim::damerau_levenshtein(used, value), used))
            .filter(|(distance, _)| *distance <= 2)
            .min();
        let remedy = match close {
            Some((_, close)) => format!("did you mean `{close}`?"),
            None => "correct the name, or remove the table".to_owned(),
        };
        found.add(
            *place,
            format!("no rule uses the interface `{value}`"),
            remedy,
        );
    }
}
