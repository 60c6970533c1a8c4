//! Which rules take what an output sends, as far as the file says it.
//!
//! An output feeds inputs of its interface that have the VLAN of its copies. Their source is the
//! output's explicit one, or one of those that its rule takes where it keeps them. The addresses of
//! interfaces are not in the file: copies with such a source feed no input here that names sources.
//! Where the kernel's routing chooses the interface, unicast inputs of any interface may be fed.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::rules::{Input, Output, PortMatch, Prefix, Source, Vlan};

/// The most inputs that are looked at. A file whose outputs overlap so many of its inputs is not
/// searched to its end: the relay does not take its own copies anyway.
const MOST: usize = 4_000_000;

/// An interface, or `None` for any that routing may choose, and tags.
type Wire<'a> = (Option<&'a str>, Vlan);

/// The inputs that outputs can feed.
pub(super) struct FedRules<'a> {
    by_wire: HashMap<Wire<'a>, OfWire>,
    /// How many inputs may still be looked at.
    left: Cell<usize>,
}

/// The inputs of one interface and VLAN.
#[derive(Default)]
struct OfWire {
    /// Those that take any source.
    any: Inputs,
    /// Those that name sources, by each of them.
    by_source: HashMap<IpAddr, Inputs>,
    /// Those that name sources, once each.
    named: Inputs,
}

/// Inputs that are alike in interface, VLAN and source.
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

/// The sources of copies.
enum Sources<'a> {
    /// An address that the file does not have.
    OfInterface,
    /// Any.
    Any,
    /// These.
    These(&'a [IpAddr]),
}

impl<'a> Sources<'a> {
    /// Of the copies of an output of a rule with this input.
    fn of(output: &'a Output, input: &'a Input) -> Self {
        match &output.source {
            Source::Interface => Self::OfInterface,
            Source::Keep if input.matches.sources.is_empty() => Self::Any,
            Source::Keep => Self::These(&input.matches.sources),
            Source::Address(address) => Self::These(std::slice::from_ref(address)),
        }
    }

    /// Whether an input takes copies with some of these.
    fn are_taken_by(&self, input: &Input) -> bool {
        let takes = |source: &IpAddr| input.matches.takes_source(Some(*source));
        match self {
            Self::OfInterface => input.matches.sources.is_empty(),
            Self::Any => true,
            Self::These(sources) => sources.iter().any(takes),
        }
    }
}

impl<'a> FedRules<'a> {
    /// Of the rules' inputs; `None` where one could not be read.
    pub(super) fn new(inputs: &[Option<&'a Input>]) -> Self {
        let mut by_wire: HashMap<Wire<'_>, OfWire> = HashMap::new();
        for (rule, input) in inputs.iter().enumerate() {
            let Some(input) = input else { continue };
            let matches = &input.matches;
            let entry = Entry {
                group: matches.group,
                ports: matches.ports,
                rule: rule as u32,
            };
            let by_routing = !matches.group.address().is_multicast();
            let interfaces = [Some(input.interface.as_str()), None];
            for interface in interfaces.into_iter().take(1 + usize::from(by_routing)) {
                let of_wire = by_wire.entry((interface, matches.vlan)).or_default();
                if matches.sources.is_empty() {
                    of_wire.any.add(entry);
                    continue;
                }
                of_wire.named.add(entry);
                for source in &matches.sources {
                    of_wire.by_source.entry(*source).or_default().add(entry);
                }
            }
        }
        for of_wire in by_wire.values_mut() {
            let by_source = of_wire.by_source.values_mut();
            for inputs in by_source.chain([&mut of_wire.any, &mut of_wire.named]) {
                inputs.sorted.sort_unstable();
            }
        }
        Self {
            by_wire,
            left: Cell::new(MOST),
        }
    }

    /// Calls `found` with the position of every rule that takes copies of `output`, which is one of
    /// a rule with this input: of one group, port and source only the most specific one. It may name
    /// a rule several times.
    pub(super) fn of(&self, output: &Output, input: &Input, mut found: impl FnMut(usize)) {
        let destination = output.destination();
        let vlan = destination.vlan.of_copy(input.matches.vlan);
        let Some(inputs) = self.by_wire.get(&(destination.interface, vlan)) else {
            return;
        };
        let (group, port) = (destination.group, destination.port);
        let left = &self.left;
        let one = port.one().filter(|_| group.is_one());
        let best = |inputs: &Inputs, port| inputs.most_specific(group.address(), port);
        let any = |found: &mut dyn FnMut(usize)| match one {
            Some(port) => best(&inputs.any, port).into_iter().for_each(found),
            None => inputs.any.overlapping(group, port, left, found),
        };
        match Sources::of(output, input) {
            Sources::OfInterface => any(&mut found),
            Sources::Any => {
                inputs.named.overlapping(group, port, left, &mut found);
                any(&mut found);
            }
            Sources::These(sources) => {
                let mut all_taken = true;
                for source in sources {
                    let of_source = inputs.by_source.get(source);
                    let taker = match (of_source, one) {
                        (Some(inputs), Some(port)) => best(inputs, port),
                        (Some(inputs), None) => {
                            inputs.overlapping(group, port, left, &mut found);
                            None
                        }
                        (None, _) => None,
                    };
                    all_taken &= taker.is_some();
                    taker.into_iter().for_each(&mut found);
                }
                if !all_taken {
                    any(&mut found);
                }
            }
        }
    }

    /// Whether copies of `output` come back to the rule at this position, whose output it is and
    /// whose input is `input`.
    pub(super) fn feeds_itself(&self, output: &Output, rule: usize, input: &Input) -> bool {
        let destination = output.destination();
        let (group, ports) = (destination.group, destination.port);
        let interface = destination.interface.unwrap_or(&input.interface);
        let overlaps = interface == input.interface
            && destination.vlan.of_copy(input.matches.vlan) == input.matches.vlan
            && group.overlaps(&input.matches.group)
            && ports.overlaps(input.matches.ports)
            && Sources::of(output, input).are_taken_by(input);
        if !(overlaps && group.is_one() && ports.one().is_some()) {
            return overlaps;
        }
        let mut takes_some = false;
        self.of(output, input, |taker| takes_some |= taker == rule);
        takes_some
    }
}

impl Inputs {
    fn add(&mut self, entry: Entry) {
        self.sorted.push(entry);
        let is_ipv4 = entry.group.address().is_ipv4();
        self.lengths.insert((is_ipv4, entry.group.length()));
    }

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

    fn most_specific(&self, group: IpAddr, port: u16) -> Option<usize> {
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
            Some(found.rule as usize)
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
