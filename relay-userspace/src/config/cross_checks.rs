//! Checks that compare values of the file: duplicates, loops, `[[interfaces]]` tables that no rule
//! uses.
//!
//! Checks of single values are in [`super::tables`] and [`super::values`].

use std::collections::HashMap;

use super::{
    Place,
    cycles::{Feeds, Step, circle},
    draft::{At, Draft},
    mistake::{Collector, quoted},
    rules::Input,
};

/// Adds every mistake that only several values of the draft together show.
pub(super) fn check(draft: &Draft, found: &mut Collector<'_>) {
    names(draft, found);
    let inputs = inputs(draft, found);
    outputs(draft, found);
    cycles(draft, &inputs, found);
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

/// Refuses an input that two rules have; returns the first rule of each input.
fn inputs<'d>(draft: &'d Draft, found: &mut Collector<'_>) -> HashMap<&'d Input, usize> {
    let mut seen: HashMap<&Input, usize> = HashMap::new();
    for (position, rule) in draft.rules.iter().enumerate() {
        let Some((input, _)) = &rule.input else {
            continue;
        };
        let first = *seen.entry(&input.value).or_insert(position);
        if first == position {
            continue;
        }
        let Some(other) = draft.rules.get(first) else {
            continue;
        };
        let Some((other_input, _)) = &other.input else {
            continue;
        };
        found.add(
            input.place,
            format!(
                "{} has the same input as {} at {}: {}",
                rule.label, other.label, other_input.place, input.value
            ),
            "put the outputs of both into one rule",
        );
    }
    seen
}

fn outputs(draft: &Draft, found: &mut Collector<'_>) {
    for rule in &draft.rules {
        let mut seen: HashMap<Input, Place> = HashMap::new();
        for (position, (output, _)) in rule.outputs.iter().enumerate() {
            let destination = output.value.destination();
            if rule
                .input
                .as_ref()
                .is_some_and(|(input, _)| input.value == destination)
            {
                found.add(
                    output.place,
                    format!(
                        "{}, output {}: it feeds the rule's own input, {destination}",
                        rule.label,
                        position + 1
                    ),
                    "give the output another group, port or interface",
                );
            }
            match seen.get(&destination) {
                Some(first) => found.add(
                    output.place,
                    format!(
                        "{}: two outputs go to {destination}; the first is at {first}",
                        rule.label
                    ),
                    "remove one, or give it another group, port or interface",
                ),
                None => {
                    seen.insert(destination, output.place);
                }
            }
        }
    }
}

/// Refuses rules that feed one another in a circle, see [`super::cycles`].
fn cycles(draft: &Draft, inputs: &HashMap<&Input, usize>, found: &mut Collector<'_>) {
    let feeds = |step: Step| {
        let outputs = draft.rules.get(step.rule).map(|rule| &rule.outputs);
        let Some((output, _)) = outputs.and_then(|outputs| outputs.get(step.output)) else {
            return Feeds::End;
        };
        let fed = inputs.get(&output.value.destination());
        fed.map_or(Feeds::Nothing, |&fed| Feeds::Rule(fed))
    };
    super::cycles::find(draft.rules.len(), 0..draft.rules.len(), feeds, |steps| {
        let rules = steps.iter().filter_map(|step| draft.rules.get(step.rule));
        let closing = steps
            .last()
            .and_then(|step| draft.rules.get(step.rule)?.outputs.get(step.output));
        if let Some((output, _)) = closing {
            let circle = circle(rules.map(|rule| rule.label.as_str()).collect());
            let cause =
                format!("rules feed one another in a circle: {circle}; this output closes it");
            let remedy = "give one of these outputs another group, port or interface";
            found.add(output.place, cause, remedy);
        }
        !found.has_enough()
    });
}

/// The most names that the search for a similar name compares.
const MEASURED: usize = 256;

fn interfaces(draft: &Draft, found: &mut Collector<'_>) {
    let used = &draft.used;
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
        if used.contains(value.as_str()) || draft.used_incomplete {
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
