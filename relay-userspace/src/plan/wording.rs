//! How notes and the printed plan word numbers and names.

use super::{
    ids::{InterfaceId, List},
    model::Flow,
    used_interface::Use,
};

/// The most rule names that a note shows.
const NAMED: usize = 6;

/// "1 worker" or "2 workers".
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// At most eight of `parts`, and how many more there are.
pub(super) fn abridged(parts: impl ExactSizeIterator<Item = String>) -> String {
    let hidden = parts.len().saturating_sub(8);
    let mut shown = parts.take(8).collect::<Vec<_>>().join(", ");
    if hidden > 0 {
        shown += &format!(", and so on for {hidden} more");
    }
    shown
}

/// "queue 3" or "queues 0-3, 7".
pub(super) fn list(queues: &[u32]) -> String {
    format!(
        "{} {}",
        if queues.len() == 1 { "queue" } else { "queues" },
        spans(queues)
    )
}

/// Ascending numbers, runs of three and more joined: "0-3, 7".
pub(super) fn spans(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let shown = runs.iter().map(|&(from, to)| match to - from {
        0 => from.to_string(),
        1 => format!("{from}, {to}"),
        _ => format!("{from}-{to}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The names of some interfaces.
pub(super) fn names(ids: &[InterfaceId], uses: &List<InterfaceId, Use<'_>>) -> String {
    let names = ids.iter().filter_map(|id| uses.get(*id));
    names
        .map(|used| used.facts.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// "rule `a`", or "rules `a`, `b` and 7 more": the rules of flows; `None` if there are none.
pub(super) fn rules_named<'a>(flows: impl Iterator<Item = &'a Flow>) -> Option<String> {
    let names: Vec<&str> = flows.map(|flow| flow.rule.as_str()).collect();
    let (plural, more) = match names.len() {
        0 => return None,
        1 => ("", 0),
        count => ("s", count.saturating_sub(NAMED)),
    };
    let shown: Vec<String> = names
        .iter()
        .take(NAMED)
        .map(|name| format!("`{}`", name.escape_debug()))
        .collect();
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Some(format!("rule{plural} {}{more}", shown.join(", ")))
}
