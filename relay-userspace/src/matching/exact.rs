//! The entries of the exact table, with what their flags are made of.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use relay_common::matching::FlowValue;

use super::{key::MatchKey, write::Write};
use crate::config::rules::Prefix;

/// The entries.
#[derive(Debug, Default)]
pub struct Exacts {
    /// In the order of their addresses, so that those of a prefix lie together.
    entries: BTreeMap<(u32, IpAddr, u16), Entry>,
    /// The prefixes around which flows name sources, with the number of those flows.
    named: HashMap<(u32, Prefix), usize>,
    /// The lengths of these prefixes, per IP version, with the number of those prefixes.
    lengths: [BTreeMap<u8, usize>; 2],
}

/// One group and one port.
#[derive(Debug, Default)]
struct Entry {
    /// The flow without a source.
    flow: FlowValue,
    /// The number of flows with a source.
    sources: usize,
    is_covered: bool,
}

impl Entry {
    fn value(&self) -> FlowValue {
        self.flow.with_flags(self.sources > 0, self.is_covered)
    }

    fn is_empty(&self) -> bool {
        self.flow == FlowValue::NONE && self.sources == 0
    }
}

impl Exacts {
    /// Sets the flow of one group and port that names no source; [`FlowValue::NONE`] takes it away.
    pub fn set(
        &mut self,
        place: u32,
        group: IpAddr,
        port: u16,
        flow: FlowValue,
        writes: &mut Vec<Write>,
    ) {
        self.change((place, group, port), writes, |entry| entry.flow = flow);
    }

    /// Counts one more flow, or one less, of one group and port that names a source.
    pub fn count_source(
        &mut self,
        place: u32,
        group: IpAddr,
        port: u16,
        more: bool,
        writes: &mut Vec<Write>,
    ) {
        self.change((place, group, port), writes, |entry| {
            entry.sources = stepped(entry.sources, more);
        });
    }

    fn change(
        &mut self,
        at: (u32, IpAddr, u16),
        writes: &mut Vec<Write>,
        change: impl FnOnce(&mut Entry),
    ) {
        let is_covered = self.is_covered(at.0, at.1);
        let entry = self.entries.entry(at).or_default();
        let before = if entry.is_empty() {
            FlowValue::NONE
        } else {
            entry.value()
        };
        entry.is_covered = is_covered;
        change(entry);
        let after = if entry.is_empty() {
            self.entries.remove(&at);
            FlowValue::NONE
        } else {
            entry.value()
        };
        if before != after {
            writes.push(Write::exact(at.0, at.1, at.2, after));
        }
    }

    /// Counts one more flow, or one less, with the prefix of `key` and a source.
    pub fn count_named(&mut self, key: &MatchKey, more: bool, writes: &mut Vec<Write>) {
        let (place, prefix) = (key.place(), key.group);
        let count = self.named.entry((place, prefix)).or_default();
        let was = *count;
        *count = stepped(was, more);
        if (was > 0) == (*count > 0) {
            return;
        }
        if *count == 0 {
            self.named.remove(&(place, prefix));
        }
        if let Some(lengths) = self.lengths.get_mut(usize::from(key.is_v6())) {
            let prefixes = lengths.entry(prefix.length()).or_default();
            *prefixes = stepped(*prefixes, more);
            if *prefixes == 0 {
                lengths.remove(&prefix.length());
            }
        }
        let (first, last) = (prefix.address(), prefix.last());
        let inside = self
            .entries
            .range((place, first, 0)..=(place, last, u16::MAX));
        let inside: Vec<_> = inside.map(|(&at, _)| at).collect();
        for at in inside {
            self.change(at, writes, |_| ());
        }
    }

    /// Whether a prefix around `group` has flows that name sources.
    fn is_covered(&self, place: u32, group: IpAddr) -> bool {
        let lengths = self.lengths.get(usize::from(group.is_ipv6()));
        let mut lengths = lengths.into_iter().flat_map(BTreeMap::keys);
        lengths.any(|&length| {
            let around = Prefix::around(group, length);
            around.is_some_and(|around| self.named.contains_key(&(place, around)))
        })
    }
}

fn stepped(count: usize, more: bool) -> usize {
    if more {
        count + 1
    } else {
        count.saturating_sub(1)
    }
}
