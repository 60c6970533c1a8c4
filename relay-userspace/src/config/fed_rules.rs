//! Which rules take what an output sends, as far as the file says it.
//!
//! Copies leave untagged, and with the address of their interface as source, which the file does
//! not have. So an input that has a VLAN or names sources is fed by no output here.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::rules::{Destination, Input, PortMatch, Prefix};

/// The most inputs that are looked at. A file whose outputs overlap so many of its inputs is not
/// searched to its end: the relay does not take its own copies anyway.
const MOST: usize = 4_000_000;

/// The inputs that outputs can feed.
pub(super) struct FedRules<'a> {
    by_interface: HashMap<&'a str, Inputs>,
    /// How many inputs may still be looked at.
    left: Cell<usize>,
}

/// The inputs of one interface.
#[derive(Default)]
struct Inputs {
    /// By prefix and first port.
    sorted: Vec<Entry>,
    /// The lengths of all prefixes, and whether they are of IPv4.
    lengths: BTreeSet<(bool, u8)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    group: Prefix,
    /// The first port and the last. In this order, so that of the entries that have a port, the
    /// most specific is found by [`PortMatch`].
    ports: PortMatch,
    rule: u32,
}

impl<'a> FedRules<'a> {
    /// Of the rules' inputs; `None` where one could not be read.
    pub(super) fn new(inputs: &[Option<&'a Input>]) -> Self {
        let mut by_interface: HashMap<&str, Inputs> = HashMap::new();
        for (rule, input) in inputs.iter().enumerate() {
            let Some(input) = input.filter(|input| can_be_fed(input)) else {
                continue;
            };
            let inputs = by_interface.entry(&input.interface).or_default();
            let (group, ports) = (input.matches.group, input.matches.ports);
            let rule = rule as u32;
            inputs.sorted.push(Entry { group, ports, rule });
            let is_ipv4 = group.address().is_ipv4();
            inputs.lengths.insert((is_ipv4, group.length()));
        }
        for inputs in by_interface.values_mut() {
            inputs.sorted.sort_unstable();
        }
        Self {
            by_interface,
            left: Cell::new(MOST),
        }
    }

    /// Calls `found` with the position of every rule that takes copies to `destination`: of one
    /// group and port only the most specific one.
    pub(super) fn of(&self, destination: &Destination<'_>, mut found: impl FnMut(usize)) {
        let on = destination.interface;
        let Some(inputs) = on.and_then(|interface| self.by_interface.get(interface)) else {
            return;
        };
        let Destination { group, port, .. } = *destination;
        match port {
            PortMatch::One(port) if group.is_one() => {
                if let Some(rule) = inputs.most_specific(group.address(), port) {
                    found(rule as usize);
                }
            }
            _ => inputs.overlapping(group, port, &self.left, found),
        }
    }

    /// Whether copies to `destination` come back to the rule at this position, whose input is
    /// `input`.
    pub(super) fn feeds_itself(
        &self,
        destination: &Destination<'_>,
        rule: usize,
        input: &Input,
    ) -> bool {
        let overlaps = can_be_fed(input)
            && destination.interface == Some(&input.interface)
            && destination.group.overlaps(&input.matches.group)
            && destination.port.overlaps(input.matches.ports);
        if !(overlaps && destination.group.is_one() && destination.port.one().is_some()) {
            return overlaps;
        }
        let mut takes_all = false;
        self.of(destination, |taker| takes_all = taker == rule);
        takes_all
    }
}

fn can_be_fed(input: &Input) -> bool {
    input.matches.sources.is_empty() && input.matches.vlan.is_untagged()
}

impl Inputs {
    /// Every length of a prefix that can have `group` in it, the longest first.
    fn lengths(&self, group: IpAddr) -> impl Iterator<Item = u8> {
        let is_ipv4 = group.is_ipv4();
        let lengths = self.lengths.range((is_ipv4, 0)..=(is_ipv4, u8::MAX));
        lengths.rev().map(|&(_, length)| length)
    }

    /// The entries of `prefix` whose ports are at least `ports`.
    fn from(&self, group: Prefix, ports: PortMatch) -> impl Iterator<Item = &Entry> {
        let least = |entry: &Entry| (entry.group, entry.ports) < (group, ports);
        let start = self.sorted.partition_point(least);
        let entries = self.sorted.get(start..).unwrap_or_default();
        entries.iter().take_while(move |entry| entry.group == group)
    }

    /// The last entry of `prefix` whose ports are at most `ports`.
    fn up_to(&self, group: Prefix, ports: PortMatch) -> Option<&Entry> {
        let most = |entry: &Entry| (entry.group, entry.ports) <= (group, ports);
        let end = self.sorted.partition_point(most);
        let entry = self.sorted.get(end.checked_sub(1)?)?;
        (entry.group == group).then_some(entry)
    }

    fn most_specific(&self, group: IpAddr, port: u16) -> Option<u32> {
        self.lengths(group).find_map(|length| {
            let prefix = Prefix::around(group, length)?;
            // Ranges of one prefix do not overlap, so the one that begins last has the port or none
            // has.
            let candidates = [
                PortMatch::One(port),
                PortMatch::Range(port, u16::MAX),
                PortMatch::Any,
            ];
            let mut entries = candidates.iter().filter_map(|&at| self.up_to(prefix, at));
            let found = entries.find(|entry| entry.ports.contains(port))?;
            Some(found.rule)
        })
    }

    fn overlapping(
        &self,
        group: Prefix,
        port: PortMatch,
        left: &Cell<usize>,
        mut found: impl FnMut(usize),
    ) {
        let mut look_at = |entry: &Entry| {
            let Some(less) = left.get().checked_sub(1) else {
                return false;
            };
            left.set(less);
            if entry.ports.overlaps(port) {
                found(entry.rule as usize);
            }
            true
        };
        let shorter = self
            .lengths(group.address())
            .filter(|&length| length < group.length());
        for length in shorter.collect::<Vec<_>>() {
            let Some(prefix) = Prefix::around(group.address(), length) else {
                continue;
            };
            if !self.from(prefix, PortMatch::One(0)).all(&mut look_at) {
                return;
            }
        }
        let begin = self.sorted.partition_point(|entry| entry.group < group);
        let within = self.sorted.get(begin..).unwrap_or_default();
        let within = within.iter().take_while(|entry| group.covers(&entry.group));
        let _ = within.into_iter().all(look_at);
    }
}
