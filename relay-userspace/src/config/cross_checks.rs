//! Checks that compare values of the file: duplicates, loops, `[[interfaces]]` tables that no rule
//! uses.
//!
//! Checks of single values are in [`super::tables`] and [`super::values`].

use std::collections::HashMap;

use super::{
    Place,
    draft::{At, Draft},
    mistake::{Collector, quoted},
    rules::{Input, Output},
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
                rule.label,
                other.label,
                other_input.place,
                endpoint(&input.value)
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
            let destination = as_input(&output.value);
            if rule
                .input
                .as_ref()
                .is_some_and(|(input, _)| input.value == destination)
            {
                found.add(
                    output.place,
                    format!(
                        "{}, output {}: it feeds the rule's own input, {}",
                        rule.label,
                        position + 1,
                        endpoint(&destination)
                    ),
                    "give the output another group, port or interface",
                );
            }
            match seen.get(&destination) {
                Some(first) => found.add(
                    output.place,
                    format!(
                        "{}: two outputs go to {}; the first is at {first}",
                        rule.label,
                        endpoint(&destination)
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

/// The most rules of a cycle that a mistake names.
const NAMED_RULES: usize = 12;

/// Refuses rules that feed one another in a circle: a datagram would go round for ever.
///
/// A depth-first search: an edge leads from a rule to each rule whose input is one of its outputs,
/// and an edge back to a rule on the current branch closes a cycle. It keeps its own stack instead
/// of recursing, because a chain of rules may be as long as the file.
fn cycles(draft: &Draft, inputs: &HashMap<&Input, usize>, found: &mut Collector<'_>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Never,
        OnTheWay(usize),
        Done,
    }
    let mut seen = vec![Seen::Never; draft.rules.len()];
    for root in 0..draft.rules.len() {
        if seen.get(root) != Some(&Seen::Never) {
            continue;
        }
        let mut way: Vec<(usize, usize)> = vec![(root, 0)];
        seen[root] = Seen::OnTheWay(0);
        if found.has_enough() {
            return;
        }
        while let Some((current, next)) = way.last_mut() {
            let current = *current;
            let Some((output, _)) = draft.rules[current].outputs.get(*next) else {
                seen[current] = Seen::Done;
                way.pop();
                continue;
            };
            *next += 1;
            let Some(&fed) = inputs.get(&as_input(&output.value)) else {
                continue;
            };
            match seen[fed] {
                Seen::Done => {}
                // Reported as an output that feeds its own input.
                Seen::OnTheWay(_) if fed == current => {}
                Seen::OnTheWay(_) if found.has_enough() => {}
                Seen::OnTheWay(from) => {
                    let rules = way[from..]
                        .iter()
                        .map(|(rule, _)| draft.rules[*rule].label.as_str());
                    let cause = format!(
                        "rules feed one another in a circle: {}; this output closes it",
                        circle(rules.collect())
                    );
                    let remedy = "give one of these outputs another group, port or interface";
                    found.add(output.place, cause, remedy);
                }
                Seen::Never => {
                    seen[fed] = Seen::OnTheWay(way.len());
                    way.push((fed, 0));
                }
            }
        }
    }
}

fn circle(mut rules: Vec<&str>) -> String {
    let hidden = rules.len().saturating_sub(NAMED_RULES);
    let first = rules.first().copied().unwrap_or_default();
    rules.truncate(NAMED_RULES);
    let more = if hidden > 0 {
        format!(" -> {hidden} more")
    } else {
        String::new()
    };
    format!("{}{more} -> {first}", rules.join(" -> "))
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

fn as_input(output: &Output) -> Input {
    Input {
        interface: output.interface.clone(),
        group: output.group,
        port: output.port,
    }
}

fn endpoint(input: &Input) -> String {
    format!("{}:{} on {}", input.group, input.port, input.interface)
}
