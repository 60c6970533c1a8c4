//! Adds the rules of a fragment to those of a document, as if both had been one file.
//!
//! Each of the two has no mistakes by itself. So only what the two have to do with one another is
//! checked here, and every mistake is in the fragment: what it is added to runs already.

use std::collections::HashMap;

use super::{
    Document, MAX_RULES, Mistake, Mistakes, RulePlaces, Spot,
    cycles::{self, Feeds, Step, circle},
    mistake::{ENOUGH, quoted},
    rules::{Input, Rule},
};

/// The rules of `base`, and behind them those of `fragment`, with the `[[interfaces]]` tables of
/// both. Names and inputs are unique across both, no rules feed one another in a circle, and an
/// interface that both have a table for has the same options in both.
///
/// # Errors
///
/// Every mistake, at its place in the fragment.
pub fn merge(base: &Document, fragment: &Document) -> Result<Document, Mistakes> {
    let mut mistakes = Vec::new();
    let rules: Vec<(&Rule, &RulePlaces)> =
        base.with_places().chain(fragment.with_places()).collect();
    let first_new = base.rules.rules.len();
    if let Some((_, beyond)) = rules.get(MAX_RULES.max(first_new)) {
        mistakes.push(beyond.spot(beyond.rule).mistake(
            format!(
                "with these rules there are {}; {MAX_RULES} are possible",
                rules.len()
            ),
            "split the rules over several relays".into(),
        ));
    }
    names(&rules, first_new, &mut mistakes);
    let inputs = inputs(&rules, first_new, &mut mistakes);
    circles(&rules, first_new, &inputs, &mut mistakes);
    let mut merged = base.clone();
    tables(&mut merged, fragment, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(Mistakes::up_to_enough(mistakes));
    }
    merged.rules.rules.extend_from_slice(&fragment.rules.rules);
    merged
        .places
        .rules
        .extend_from_slice(&fragment.places.rules);
    Ok(merged)
}

/// Refuses a name of the fragment that a rule has already.
fn names(rules: &[(&Rule, &RulePlaces)], first_new: usize, mistakes: &mut Vec<Mistake>) {
    let (old, new) = rules.split_at(first_new);
    let taken: HashMap<&str, &RulePlaces> = old
        .iter()
        .map(|(rule, places)| (rule.name.as_str(), *places))
        .collect();
    for (rule, places) in new {
        if let Some(other) = taken.get(rule.name.as_str()) {
            add(
                mistakes,
                places.spot(places.rule),
                format!(
                    "the name `{}` is taken: the running rule at {} has it",
                    quoted(&rule.name),
                    shown(other.spot(other.rule))
                ),
                "give the rule another name, or remove the running one first",
            );
        }
    }
}

/// Refuses an input of the fragment that a rule has already; returns the rule of each input.
fn inputs<'r>(
    rules: &[(&'r Rule, &RulePlaces)],
    first_new: usize,
    mistakes: &mut Vec<Mistake>,
) -> HashMap<&'r Input, usize> {
    let mut seen: HashMap<&Input, usize> = HashMap::with_capacity(rules.len());
    for (position, (rule, places)) in rules.iter().enumerate() {
        let first = *seen.entry(&rule.input).or_insert(position);
        if first == position || position < first_new {
            continue;
        }
        if let Some((other, other_places)) = rules.get(first) {
            add(
                mistakes,
                places.spot(places.input),
                format!(
                    "rule `{}` has the same input as the running rule `{}` at {}: {}",
                    quoted(&rule.name),
                    quoted(&other.name),
                    shown(other_places.spot(other_places.input)),
                    rule.input
                ),
                "put the outputs of both into one rule, or remove the running one first",
            );
        }
    }
    seen
}

/// Refuses rules that feed one another in a circle. At least one of them is in the fragment, and
/// the output by which it feeds the next one is the place.
fn circles(
    rules: &[(&Rule, &RulePlaces)],
    first_new: usize,
    inputs: &HashMap<&Input, usize>,
    mistakes: &mut Vec<Mistake>,
) {
    let feeds = |step: Step| {
        let outputs = rules.get(step.rule).map(|(rule, _)| &rule.outputs);
        let Some(output) = outputs.and_then(|outputs| outputs.get(step.output)) else {
            return Feeds::End;
        };
        let fed = inputs.get(&output.destination());
        fed.map_or(Feeds::Nothing, |&fed| Feeds::Rule(fed))
    };
    cycles::find(rules.len(), first_new..rules.len(), feeds, |steps| {
        let labels: Vec<String> = steps
            .iter()
            .filter_map(|step| rules.get(step.rule))
            .map(|(rule, _)| format!("rule `{}`", quoted(&rule.name)))
            .collect();
        let new = steps.iter().find(|step| step.rule >= first_new);
        let place = new.and_then(|step| {
            let (_, places) = rules.get(step.rule)?;
            Some(places.spot(places.outputs.get(step.output)?.output))
        });
        if let Some(spot) = place {
            add(
                mistakes,
                spot,
                format!(
                    "rules would feed one another in a circle: {}; this output is part of it",
                    circle(labels.iter().map(String::as_str).collect())
                ),
                "give one of these outputs another group, port or interface",
            );
        }
        mistakes.len() < ENOUGH
    });
}

/// Adds the `[[interfaces]]` tables of the fragment; refuses one that says something else than the
/// table that the interface has already.
fn tables(merged: &mut Document, fragment: &Document, mistakes: &mut Vec<Mistake>) {
    let tables = fragment.rules.interfaces.iter();
    let old = merged.rules.interfaces.len();
    for (options, places) in tables.zip(&fragment.places.interfaces) {
        let mut all = merged.rules.interfaces.iter().take(old);
        let Some(at) = all.position(|other| other.name == options.name) else {
            merged.rules.interfaces.push(options.clone());
            merged.places.interfaces.push(places.clone());
            continue;
        };
        if merged.rules.interfaces.get(at) == Some(options) {
            continue;
        }
        let Some(other) = merged.places.interfaces.get(at) else {
            continue;
        };
        add(
            mistakes,
            places.spot(places.name),
            format!(
                "interface `{}` has other options already: its table is at {}",
                options.name,
                shown(other.spot(other.name))
            ),
            "leave the table out, or change it in the rule file and reload that",
        );
    }
}

fn add(mistakes: &mut Vec<Mistake>, spot: Spot<'_>, cause: String, remedy: &str) {
    if mistakes.len() < ENOUGH {
        mistakes.push(spot.mistake(cause, remedy.to_owned()));
    }
}

/// "relay.toml, line 3, column 9"
fn shown(Spot { file, place }: Spot<'_>) -> String {
    format!("{file}, {place}")
}
