//! How notes and the printed plan word numbers and names.

use super::{
    ids::{InterfaceId, List},
    used_interface::Use,
};

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
