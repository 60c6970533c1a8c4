//! Adds the rules of a fragment to those of a document, as if both had been one file.
//!
//! Each of the two has no mistakes by itself. So only what the two have to do with one another is
//! checked here, and every mistake is in the fragment: what it is added to runs already.

use std::collections::HashMap;

use super::{
    Document, MAX_RULES, Mistake, Mistakes, RulePlaces, Spot,
    cross_checks::{BOUNDS, MAKE_ONE_MORE_SPECIFIC, equally_specific},
    cycles::{self, Edge, circle},
    equals,
    fed_rules::FedRules,
    mistake::{ENOUGH, quoted},
    rules::{Input, Rule},
};

/// The rules of `base`, and behind them those of `fragment`, with the `[[interfaces]]` tables of
/// both. Names are unique across both, no inputs overlap that are equally specific, no rules feed
/// one another in a circle, and an interface that both have a table for has the same options in
/// both.
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
    let inputs: Vec<Option<&Input>> = rules.iter().map(|(rule, _)| Some(&rule.input)).collect();
    equal_inputs(&rules, first_new, &inputs, &mut mistakes);
    bounds(&rules, &inputs, &mut mistakes);
    circles(&rules, first_new, &inputs, &mut mistakes);
    let mut merged = base.clone();
    tables(&mut merged, fragment, &mut mistakes);
    if let Some(metrics) = &fragment.places.metrics
        && merged.rules.metrics != fragment.rules.metrics
    {
        add(
            &mut mistakes,
            metrics.spot(),
            "rules that are added have no table `metrics`".into(),
            "leave it out, or change it in the rule file and reload that",
        );
    }
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

/// Refuses an input of the fragment that is as specific as one that a rule has already, and
/// overlaps with it.
fn equal_inputs(
    rules: &[(&Rule, &RulePlaces)],
    first_new: usize,
    inputs: &[Option<&Input>],
    mistakes: &mut Vec<Mistake>,
) {
    for equals::Pair { first, later } in equals::find(inputs) {
        if later < first_new {
            continue;
        }
        if let (Some((rule, places)), Some((other, others))) = (rules.get(later), rules.get(first))
        {
            let name = format!("rule `{}`", quoted(&rule.name));
            let running = format!(
                "the running rule `{}` at {}",
                quoted(&other.name),
                shown(others.spot(others.input))
            );
            add(
                mistakes,
                places.spot(places.input),
                equally_specific(&name, &rule.input, &running, &other.input),
                match rule.input.matches == other.input.matches {
                    true => {
                        "put the outputs of both into one rule, or remove the running one first"
                    }
                    false => MAKE_ONE_MORE_SPECIFIC,
                },
            );
        }
    }
}

/// Refuses inputs that have more of something than one relay may.
fn bounds(rules: &[(&Rule, &RulePlaces)], inputs: &[Option<&Input>], mistakes: &mut Vec<Mistake>) {
    for bound in BOUNDS {
        let beyond = (bound.first_beyond)(inputs);
        if let Some((rule, places)) = beyond.and_then(|beyond| rules.get(beyond)) {
            let (cause, remedy) = (bound.mistake)(&format!("rule `{}`", quoted(&rule.name)));
            add(mistakes, places.spot(places.input), cause, remedy);
        }
    }
}

/// Refuses rules that feed one another in a circle. At least one of them is in the fragment, and
/// the output by which it feeds the next one is the place.
fn circles(
    rules: &[(&Rule, &RulePlaces)],
    first_new: usize,
    inputs: &[Option<&Input>],
    mistakes: &mut Vec<Mistake>,
) {
    let fed_rules = FedRules::new(inputs);
    let fed = |rule: usize| {
        let mut edges: Vec<Edge> = Vec::new();
        let Some((rule, _)) = rules.get(rule) else {
            return edges;
        };
        for (position, output) in (0..).zip(&rule.outputs) {
            fed_rules.of(output, &rule.input, |fed| {
                edges.push((position, fed as u32));
            });
        }
        edges
    };
    cycles::find(rules.len(), first_new..rules.len(), fed, |steps| {
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
                "give one of these outputs another group, port, VLAN or interface",
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
