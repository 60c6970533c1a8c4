//! Which rules take what an output sends, as far as the file says it.
//!
//! An output feeds inputs of its interface that have the VLAN of its copies. Their source is the
//! output's explicit one, or one of those that its rule takes where it keeps them. The addresses of
//! interfaces are not in the file: copies with such a source feed no input here that names sources.
//! Where the kernel's routing chooses the interface, unicast inputs of any interface may be fed.

use std::{
    borrow::Borrow,
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
    /// Those that name sources, once for each of them: by source, then as the others. A file may
    /// name a million sources, so they lie in one piece.
    by_source: Vec<Sourced>,
    /// Those that name sources, once each.
    named: Inputs,
}

/// Inputs that are alike in interface and VLAN.
#[derive(Default)]
struct Inputs {
    /// By prefix and first port.
    sorted: Vec<Entry>,
    lengths: Lengths,
}

/// The lengths of all prefixes of some inputs, and whether they are of IPv4.
type Lengths = BTreeSet<(bool, u8)>;

/// Inputs that are alike in interface, VLAN and source.
struct Alike<'i, E> {
    /// By prefix and first port.
    sorted: &'i [E],
    /// Theirs, and perhaps more.
    lengths: &'i Lengths,
}

/// An entry of one source.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Sourced {
    source: IpAddr,
    entry: Entry,
}

impl Borrow<Entry> for Sourced {
    fn borrow(&self) -> &Entry {
        &self.entry
    }
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
                let sources = matches.sources.iter();
                let sourced = sources.map(|&source| Sourced { source, entry });
                of_wire.by_source.extend(sourced);
            }
        }
        for of_wire in by_wire.values_mut() {
            of_wire.by_source.sort_unstable();
            of_wire.any.sorted.sort_unstable();
            of_wire.named.sorted.sort_unstable();
        }
        Self {
            by_wire,
            left: Cell::new(MOST),
        }
    }

    /// Calls `found` with the position of every rule that takes copies of `output`, which is one of
    /// a rule with this input: of one group, port and source only the most specific one. It may
    /// name a rule several times.
    pub(super) fn of(&self, output: &Output, input: &Input, mut found: impl FnMut(usize)) {
        let destination = output.destination();
        let vlan = destination.vlan.of_copy(input.matches.vlan);
        let Some(inputs) = self.by_wire.get(&(destination.interface, vlan)) else {
            return;
        };
        let (group, port) = (destination.group, destination.port);
        let left = &self.left;
        let one = port.one().filter(|_| group.is_one());
        let takers_of_any = inputs.any.all();
        let any = |found: &mut dyn FnMut(usize)| match one {
            Some(port) => {
                let best = takers_of_any.most_specific(group.address(), port);
                best.into_iter().for_each(found);
            }
            None => takers_of_any.overlapping(group, port, left, found),
        };
        match Sources::of(output, input) {
            Sources::OfInterface => any(&mut found),
            Sources::Any => {
                let named = inputs.named.all();
                named.overlapping(group, port, left, &mut found);
                any(&mut found);
            }
            Sources::These(sources) => {
                let mut all_taken = true;
                for source in sources {
                    let of_source = inputs.of_source(*source);
                    let taker = match one {
                        Some(port) => of_source.most_specific(group.address(), port),
                        None => {
                            of_source.overlapping(group, port, left, &mut found);
                            None
                        }
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

    fn all(&self) -> Alike<'_, Entry> {
        Alike {
            sorted: &self.sorted,
            lengths: &self.lengths,
        }
    }
}

impl OfWire {
    /// Those that name this source.
    fn of_source(&self, source: IpAddr) -> Alike<'_, Sourced> {
        let begin = self.by_source.partition_point(|one| one.source < source);
        let from = self.by_source.get(begin..).unwrap_or_default();
        let end = from.partition_point(|one| one.source == source);
        Alike {
            sorted: from.get(..end).unwrap_or_default(),
            lengths: &self.named.lengths,
        }
    }
}

impl<E: Borrow<Entry>> Alike<'_, E> {
    /// Every length of a prefix that can have `group` in it, the longest first.
    fn lengths(&self, group: IpAddr) -> impl Iterator<Item = u8> {
        let is_ipv4 = group.is_ipv4();
        let lengths = self.lengths.range((is_ipv4, 0)..=(is_ipv4, u8::MAX));
        lengths.rev().map(|&(_, length)| length)
    }

    /// The entries of `prefix` whose ports are at least `ports`.
    fn from(&self, group: Prefix, ports: PortMatch) -> impl Iterator<Item = &Entry> {
        let least = |entry: &Entry| (entry.group, entry.ports) < (group, ports);
        let start = self.sorted.partition_point(|one| least(one.borrow()));
        let entries = self.sorted.get(start..).unwrap_or_default();
        let entries = entries.iter().map(Borrow::borrow);
        entries.take_while(move |entry: &&Entry| entry.group == group)
    }

    /// The last entry of `prefix` whose ports are at most `ports`.
    fn up_to(&self, group: Prefix, ports: PortMatch) -> Option<&Entry> {
        let most = |entry: &Entry| (entry.group, entry.ports) <= (group, ports);
        let end = self.sorted.partition_point(|one| most(one.borrow()));
        let entry: &Entry = self.sorted.get(end.checked_sub(1)?)?.borrow();
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
        let before = |one: &E| one.borrow().group < group;
        let begin = self.sorted.partition_point(before);
        let within = self.sorted.get(begin..).unwrap_or_default();
        let within = within.iter().map(Borrow::borrow);
        let mut within = within.take_while(|entry: &&Entry| group.covers(&entry.group));
        let _ = within.all(look_at);
    }
}
