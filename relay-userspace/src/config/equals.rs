//! Inputs that are equally specific and overlap: a frame that both take would have no rule.
//!
//! Equally specific inputs overlap only if they have the same interface, VLAN and prefix, a source
//! in common or none, and ports of the same class. So it is enough to sort the inputs, once for
//! each of their sources, and to compare neighbours.

use std::{collections::HashSet, net::IpAddr};

use super::rules::{Input, Prefix, Specificity, Vlan};

/// Two inputs that overlap and are equally specific, by their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) first: usize,
    pub(super) later: usize,
}

/// An input, for one of its sources.
#[derive(Clone, Copy)]
struct Entry {
    input: u32,
    /// The position in its sources; ignored if it has none.
    source: u32,
}

/// All that is the same of equally specific inputs that overlap.
type Class<'a> = (&'a str, Vlan, Prefix, Option<IpAddr>, Specificity);

/// The inputs that overlap with an equally specific one, each once, as the later of a pair.
pub(super) fn find(inputs: &[Option<&Input>]) -> Vec<Pair> {
    let input_of = |entry: &Entry| inputs.get(entry.input as usize).copied().flatten();
    let class = |entry: &Entry| -> Option<Class<'_>> {
        let Input {
            interface, matches, ..
        } = input_of(entry)?;
        let source = matches.sources.get(entry.source as usize).copied();
        let specificity = matches.specificity();
        Some((interface, matches.vlan, matches.group, source, specificity))
    };
    let bounds =
        |entry: &Entry| input_of(entry).map_or((0, 0), |input| input.matches.ports.bounds());
    let mut entries: Vec<Entry> = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        let Some(input) = input else { continue };
        let sources = 0..input.matches.sources.len().max(1);
        entries.extend(sources.map(|source| Entry {
            input: at as u32,
            source: source as u32,
        }));
    }
    entries.sort_unstable_by(|a, b| {
        let order = |entry: &Entry| (class(entry), bounds(entry).0, entry.input);
        order(a).cmp(&order(b))
    });
    let mut pairs = Vec::new();
    let mut paired = HashSet::new();
    // Of the class so far, the entry whose ports end last.
    let mut last: Option<Entry> = None;
    for entry in entries {
        let Some(other) = last.filter(|last| class(last) == class(&entry)) else {
            last = Some(entry);
            continue;
        };
        let ((from, to), (_, others_to)) = (bounds(&entry), bounds(&other));
        if from <= others_to {
            let (a, b) = (entry.input as usize, other.input as usize);
            let (first, later) = (a.min(b), a.max(b));
            if paired.insert(later) {
                pairs.push(Pair { first, later });
            }
        }
        if to > others_to {
            last = Some(entry);
        }
    }
    pairs.sort_unstable_by_key(|pair| pair.later);
    pairs
}
