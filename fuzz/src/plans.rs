//! Changes of what is matched, and of rules: what needs no kernel of the way from one plan to the
//! next.
//!
//! Input: a byte that chooses one of two parts, and the changes.
//!
//! - The index of flows, against a linear search: after every entry that it has written, a look-up
//!   finds what was right before the change or what is right after it, as a frame may arrive in the
//!   middle.
//! - Random rules, planned one after the other: slots of counters stay with what they count, and are
//!   never shared, and the difference is that of the names.
//!
//! What the kernel's maps and sockets take part in is tested by tests/end-to-end/tests/lasting,
//! which compares random changes with a model on a real kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use arbitrary::{Result, Unstructured};
use relay::{
    config::{
        self, Document,
        rules::{PortMatch, Prefix},
    },
    datapath::{
        OutputIdentity,
        slots::{Book, Leaving},
    },
    matching::{Index, MatchKey, Table},
    plan::{self, Constraints},
};
use relay_common::{
    matching::FlowValue,
    wire::{Addresses, Datagram, Vlan},
};

use crate::hosts;

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((&part, choices)) = data.split_first() else {
        return;
    };
    let u = &mut Unstructured::new(choices);
    // The end of the input ends the changes.
    let _ = if part & 1 == 0 { matches(u) } else { rules(u) };
}

const V4: [u32; 6] = [
    0xef01_0100,
    0xef01_0101,
    0xef01_0102,
    0xef01_01ff,
    0xef01_0201,
    0xe800_0001,
];
const V6: [u128; 5] = [
    0xff3e << 112 | 1,
    0xff3e << 112 | 2,
    0xff3e << 112 | 1 << 64 | 1,
    0xff3e << 112 | 1 << 16 | 1,
    0xff02 << 112 | 1,
];
const PORTS: [u16; 9] = [0, 1, 2, 3, 4, 5, 9, 65_534, 65_535];
const LENGTHS: [u8; 12] = [4, 8, 24, 30, 31, 32, 32, 64, 120, 126, 128, 128];

/// Opens and closes flows.
fn matches(u: &mut Unstructured<'_>) -> Result<()> {
    let probes = probes();
    let mut flows: Vec<(MatchKey, u32)> = Vec::new();
    let (mut index, mut table) = (Index::default(), Table::default());
    for number in 0..u32::from(u.int_in_range(1..=40_u8)?) {
        let before: Vec<_> = probes.iter().map(|probe| linear(&flows, probe)).collect();
        let writes = if flows.is_empty() || u.ratio(3, 5)? {
            let key = key(u)?;
            let mut others = flows.iter().filter(|(other, _)| *other != key);
            if others.any(|(other, _)| conflict(&key, other)) {
                continue;
            }
            let Ok(writes) = index.open(key, FlowValue::new(number, None)) else {
                assert_eq!(index.get(&key), None);
                continue;
            };
            flows.retain(|(other, _)| *other != key);
            flows.push((key, number));
            writes
        } else {
            let (key, _) = flows.swap_remove(u.choose_index(flows.len())?);
            index.close(&key)
        };
        let after: Vec<_> = probes.iter().map(|probe| linear(&flows, probe)).collect();
        for write in writes {
            table.write(write);
            for (at, (slot, datagram)) in probes.iter().enumerate() {
                let found = table.look_up(*slot, datagram);
                assert!(
                    found == before[at] || found == after[at],
                    "{write:?} {datagram:?}"
                );
            }
        }
        for (at, (slot, datagram)) in probes.iter().enumerate() {
            // Twice: the second answer may come from memory.
            assert_eq!(table.look_up(*slot, datagram), after[at], "{datagram:?}");
            assert_eq!(table.look_up(*slot, datagram), after[at]);
        }
    }
    for (key, _) in flows {
        index
            .close(&key)
            .into_iter()
            .for_each(|write| table.write(write));
    }
    for (slot, datagram) in &probes {
        assert_eq!(table.look_up(*slot, datagram), None);
    }
    Ok(())
}

fn key(u: &mut Unstructured<'_>) -> Result<MatchKey> {
    let group: IpAddr = match u.arbitrary()? {
        true => Ipv4Addr::from_bits(*u.choose(&V4)?).into(),
        false => Ipv6Addr::from_bits(*u.choose(&V6)?).into(),
    };
    let length = *u.choose(&LENGTHS)?;
    let length = if group.is_ipv4() {
        length.min(32)
    } else {
        length
    };
    let ports = match u.int_in_range(0..=2)? {
        0 => PortMatch::Any,
        1 => PortMatch::One(*u.choose(&PORTS)?),
        _ => {
            let (one, other) = (*u.choose(&PORTS)?, *u.choose(&PORTS)?);
            PortMatch::Range(one.min(other), one.max(other))
        }
    };
    Ok(MatchKey {
        slot: u8::from(u.ratio(1, 8)?),
        vlan: *u.choose(&VLANS)?,
        group: Prefix::around(group, length).unwrap(),
        ports,
        source: match u.int_in_range(0..=3)? {
            0 => Some(source(group, 7)),
            1 => Some(source(group, 8)),
            _ => None,
        },
    })
}

const VLANS: [Vlan; 4] = [
    Vlan::UNTAGGED,
    Vlan::UNTAGGED,
    Vlan::tag(5),
    Vlan::double(5, 6),
];

/// A source of the version of `group`.
fn source(group: IpAddr, last: u8) -> IpAddr {
    match group {
        IpAddr::V4(_) => Ipv4Addr::new(10, 1, 1, last).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
    }
}

/// A datagram to every group and some ports, from each source and from a stranger, and some in
/// other places.
fn probes() -> Vec<(u8, Datagram)> {
    let v4 = V4
        .iter()
        .map(|&group| IpAddr::from(Ipv4Addr::from_bits(group)));
    let v6 = V6
        .iter()
        .map(|&group| IpAddr::from(Ipv6Addr::from_bits(group)));
    let mut probes = Vec::new();
    for (at, group) in v4.chain(v6).enumerate() {
        for (turn, last) in [7, 8, 9].into_iter().enumerate() {
            for port in PORTS.into_iter().skip((at + turn) % 2).step_by(2) {
                let slot = u8::from((at + turn) % 5 == 4);
                let vlan = VLANS[(at + usize::from(port)) % VLANS.len()];
                let datagram = Datagram {
                    addresses: Addresses::between(source(group, last), group).unwrap(),
                    port,
                    vlan,
                    ttl: 1,
                    network: 14,
                    payload_len: 0,
                };
                probes.push((slot, datagram));
            }
        }
    }
    probes
}

/// Of the flows that match, the one that names the source, with the longest prefix, with one port,
/// or else a range, or else any.
fn linear(flows: &[(MatchKey, u32)], (slot, datagram): &(u8, Datagram)) -> Option<u32> {
    let matching = flows.iter().filter(|(key, _)| {
        key.slot == *slot
            && key.vlan == datagram.vlan
            && key.group.contains(datagram.group())
            && key.ports.contains(datagram.port)
            && key.source.is_none_or(|source| source == datagram.source())
    });
    let specific = |key: &MatchKey| {
        let form = match key.ports {
            PortMatch::One(_) => 2,
            PortMatch::Range(..) => 1,
            PortMatch::Any => 0,
        };
        (key.source.is_some(), key.group.length(), form)
    };
    let found = matching.max_by_key(|(key, _)| specific(key));
    found.map(|&(_, number)| number)
}

/// Whether two flows are equally specific and could take one datagram. The plan refuses that.
fn conflict(one: &MatchKey, other: &MatchKey) -> bool {
    let overlap = match (one.ports, other.ports) {
        (PortMatch::One(a), PortMatch::One(b)) => a == b,
        (PortMatch::Range(a, b), PortMatch::Range(c, d)) => a <= d && c <= b,
        (PortMatch::Any, PortMatch::Any) => true,
        _ => false,
    };
    let ports = one.ports;
    overlap && MatchKey { ports, ..*other } == *one
}

/// The outputs of a rule, by the numbers of their groups, each with a VLAN or none. The same output
/// may be there in another place.
type Outputs = Vec<(u8, u8)>;
/// Rules by their numbers.
type Rules = BTreeMap<u8, (bool, Outputs)>;

/// Changes rules, and plans what they are then.
fn rules(u: &mut Unstructured<'_>) -> Result<()> {
    let mut rules = Rules::new();
    let mut book = Book::default();
    let mut pending: Vec<Leaving> = Vec::new();
    let mut before: Option<(Rules, Document)> = None;
    for _ in 0..u.int_in_range(1..=12)? {
        for _ in 0..u.int_in_range(1..=3)? {
            change(u, &mut rules)?;
        }
        if rules.is_empty() {
            continue;
        }
        let document = config::parse("relay.toml", &text(&rules)).unwrap();
        if let Some((old_rules, old)) = &before {
            differ(old_rules, &rules, old, &document);
        }
        slots(&document, &mut book, &mut pending);
        // What is gone is released some time, in any order.
        while !pending.is_empty() && u.arbitrary()? {
            let at = u.choose_index(pending.len())?;
            book.release(&pending.swap_remove(at));
        }
        before = Some((rules.clone(), document));
    }
    Ok(())
}

fn change(u: &mut Unstructured<'_>, rules: &mut Rules) -> Result<()> {
    let number = u.int_in_range(0..=4)?;
    match u.int_in_range(0..=5)? {
        0 => drop(rules.remove(&number)),
        1 => {
            if let Some((enabled, _)) = rules.get_mut(&number) {
                *enabled = !*enabled;
            }
        }
        _ => {
            let mut outputs = Outputs::new();
            for _ in 0..u.int_in_range(1..=4)? {
                let output = (u.int_in_range(0..=4)?, u.int_in_range(0..=2)?);
                if !outputs.contains(&output) {
                    outputs.push(output);
                }
            }
            rules.insert(number, (true, outputs));
        }
    }
    Ok(())
}

fn name(rule: u8) -> String {
    format!("rule-{rule}")
}

/// The rule file.
fn text(rules: &Rules) -> String {
    let output = |&(group, vlan): &(u8, u8)| {
        let tag = if vlan == 0 {
            String::new()
        } else {
            format!(", vlan = {vlan}")
        };
        format!("{{ interface = \"out0\", group = \"239.2.2.{group}\", port = 6000{tag} }}")
    };
    let rule = |(number, (enabled, outputs)): (&u8, &(bool, Outputs))| {
        let outputs: Vec<String> = outputs.iter().map(output).collect();
        format!(
            "[[rules]]\nname = \"{}\"\nenabled = {enabled}\ninput = {{ interface = \"in0\", group \
             = \"239.1.1.{number}\", port = 5000 }}\noutputs = [{}]\n",
            name(*number),
            outputs.join(", ")
        )
    };
    rules.iter().map(rule).collect()
}

/// The difference names the rules that are new, gone and changed.
fn differ(old_rules: &Rules, rules: &Rules, old: &Document, new: &Document) {
    let difference = plan::diff(old, new);
    let only_in = |these: &Rules, others: &Rules| -> Vec<String> {
        let only = these.keys().filter(|number| !others.contains_key(number));
        only.map(|&number| name(number)).collect()
    };
    assert_eq!(difference.added, only_in(rules, old_rules));
    assert_eq!(difference.removed, only_in(old_rules, rules));
    // The order of outputs says nothing.
    let meaning = |(enabled, outputs): &(bool, Outputs)| {
        (*enabled, outputs.iter().copied().collect::<BTreeSet<_>>())
    };
    let both = rules
        .iter()
        .filter_map(|(number, rule)| Some((number, rule, old_rules.get(number)?)));
    let changed = both
        .clone()
        .filter(|(_, rule, old)| meaning(rule) != meaning(old));
    let changed: Vec<String> = changed.map(|(number, ..)| name(*number)).collect();
    let found: Vec<String> = difference
        .changed
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(found, changed);
    assert_eq!(difference.unchanged, both.count() - changed.len());
    assert!(
        difference
            .changed
            .iter()
            .all(|(_, texts)| !texts.is_empty())
    );
    assert!(!difference.to_string().is_empty());
}

/// Everything that is counted for, with its slot: flows, and outputs.
type Counted = BTreeMap<(String, Option<OutputIdentity>), u32>;

fn counted(book: &Book) -> Counted {
    let mut counted = Counted::new();
    for (rule, entry) in book.iter() {
        counted.insert((rule.to_owned(), None), entry.flow);
        for (output, slot) in &entry.outputs {
            counted.insert((rule.to_owned(), Some(output.clone())), *slot);
        }
    }
    counted
}

/// Gives slots to what `document` has: what stays keeps its slot, no two things have the same one,
/// and none has one that is still counted for.
fn slots(document: &Document, book: &mut Book, pending: &mut Vec<Leaving>) {
    let host = hosts::of(document);
    let plan = plan::build(document, &host, &Constraints::default()).unwrap();
    let Some(worker) = plan.workers.first() else {
        return;
    };
    let before = counted(book);
    let assigned = book.assign(&plan, worker);
    let (flows_end, outputs_end) = assigned.ends();
    assert_eq!(counted(book), before, "nothing is changed yet");
    let gone = book.commit(assigned);
    let now = counted(book);
    for (what, slot) in &now {
        if let Some(was) = before.get(what) {
            assert_eq!(slot, was, "{what:?}");
        }
    }
    let left: BTreeSet<_> = before
        .keys()
        .filter(|what| !now.contains_key(what))
        .collect();
    let told = gone.iter().flat_map(|gone| {
        let flow = gone.flow.map(|_| (gone.rule.clone(), None));
        let outputs = gone.outputs.iter();
        flow.into_iter()
            .chain(outputs.map(|(output, _)| (gone.rule.clone(), Some(output.clone()))))
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), left.len());
    assert!(told.iter().all(|what| left.contains(what)));
    pending.extend(gone);
    let mut flows: Vec<u32> = pending.iter().filter_map(|gone| gone.flow).collect();
    let outputs = pending.iter().flat_map(|gone| &gone.outputs);
    let mut outputs: Vec<u32> = outputs.map(|(_, slot)| *slot).collect();
    for ((_, output), slot) in &now {
        let of_kind = if output.is_some() {
            &mut outputs
        } else {
            &mut flows
        };
        of_kind.push(*slot);
    }
    for (mut slots, end) in [(flows, flows_end), (outputs, outputs_end)] {
        assert!(slots.iter().all(|&slot| (slot as usize) < end));
        slots.sort_unstable();
        assert!(
            slots.is_sorted_by(|one, other| one < other),
            "shared: {slots:?}"
        );
    }
}
