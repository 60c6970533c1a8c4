//! What a rule file may say and the datapath cannot do yet.

use crate::config::{
    Document, Mistakes,
    rules::{Input, Offloads},
};

/// Refuses the rules of `document`, whose rules are all enabled, that the datapath cannot run.
///
/// # Errors
///
/// One mistake for each of them, at its place.
pub(super) fn unsupported(document: &Document) -> Result<(), Mistakes> {
    let mut mistakes = Vec::new();
    for (rule, places) in document.with_places() {
        if let Some(what) = of_input(&rule.input) {
            let name = crate::config::quoted(&rule.name);
            mistakes.push(places.spot(places.input).mistake(
                format!(
                    "rule `{name}`: {what} cannot be relayed yet; `relay check` knows it already"
                ),
                "take the rule out of the file, or disable it with `enabled = false`".into(),
            ));
        }
    }
    let tables = document.rules.interfaces.iter();
    for (options, places) in tables.zip(&document.places.interfaces) {
        if options.offloads == Offloads::Manage {
            mistakes.push(places.spot(places.offloads.unwrap_or(places.name)).mistake(
                format!(
                    "interface `{}`: `offloads` \"manage\" has no effect yet",
                    options.name
                ),
                "leave `offloads` out".into(),
            ));
        }
    }
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(Mistakes::of(mistakes)),
    }
}

fn of_input(input: &Input) -> Option<&'static str> {
    let matches = &input.matches;
    Some(match () {
        () if matches.group.address().is_ipv6() => "IPv6",
        () if !matches.group.is_one() => "a prefix of groups",
        () if matches.ports.one().is_none() => "a range of ports",
        () if !matches.sources.is_empty() => "a rule with sources",
        () if !matches.vlan.is_untagged() => "a VLAN",
        () if input.local => "a rule with `local`",
        () => return None,
    })
}
