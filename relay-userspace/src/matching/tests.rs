//! Random flows, opened and closed in random order, against the rule in one sentence.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::{collection::vec, prelude::*, sample::select};
use relay_common::{
    matching::{FlowValue, PortForm, Shape},
    wire::{Addresses, Datagram, Vlan},
};

use super::*;
use crate::config::rules::{PortMatch, Prefix};

/// Whether two flows are equally specific and could take one datagram.
fn conflict(one: &MatchKey, other: &MatchKey) -> bool {
    let overlap = match (one.ports, other.ports) {
        (PortMatch::One(a), PortMatch::One(b)) => a == b,
        (PortMatch::Range(a, b), PortMatch::Range(c, d)) => a <= d && c <= b,
        (PortMatch::Any, PortMatch::Any) => true,
        _ => false,
    };
    overlap
        && MatchKey {
            ports: one.ports,
            ..*other
        } == *one
}

/// The rule in one sentence: of the flows that match, the one that names the source, with the
/// longest prefix, with one port, or else a range, or else any.
fn model(flows: &[(MatchKey, u32)], slot: u8, datagram: &Datagram) -> Option<u32> {
    let matching = flows.iter().filter(|(key, _)| {
        key.slot == slot
            && key.vlan == datagram.vlan
            && key.group.contains(datagram.group())
            && key.ports.contains(datagram.port)
            && key.source.is_none_or(|source| source == datagram.source())
    });
    let specific = |key: &MatchKey| {
        (
            key.source.is_some(),
            key.group.length(),
            key::form(key.ports),
        )
    };
    matching
        .max_by_key(|(key, _)| specific(key))
        .map(|&(_, number)| number)
}

const V4: [[u8; 4]; 6] = [
    [239, 1, 1, 0],
    [239, 1, 1, 1],
    [239, 1, 1, 2],
    [239, 1, 1, 255],
    [239, 1, 2, 1],
    [232, 0, 0, 1],
];
const V6: [&str; 5] = [
    "ff3e::1",
    "ff3e::2",
    "ff3e:0:0:1::1",
    "ff3e::1:1",
    "ff02::1",
];
const PORTS: [u16; 9] = [0, 1, 2, 3, 4, 5, 9, 65534, 65535];

fn groups() -> Vec<IpAddr> {
    let v4 = V4.into_iter().map(|group| Ipv4Addr::from(group).into());
    let v6 = V6.map(|group| group.parse::<Ipv6Addr>().unwrap().into());
    v4.chain(v6).collect()
}

fn sources(is_v6: bool) -> Vec<IpAddr> {
    if is_v6 {
        let sources = ["2001:db8::7", "2001:db8::8"].map(str::parse::<Ipv6Addr>);
        sources.map(|source| source.unwrap().into()).to_vec()
    } else {
        [7, 8]
            .map(|last| Ipv4Addr::new(10, 1, 1, last).into())
            .to_vec()
    }
}

fn slots() -> impl Strategy<Value = u8> {
    prop_oneof![9 => Just(0), 1 => Just(1)]
}

fn vlans() -> impl Strategy<Value = Vlan> {
    prop_oneof![
        8 => Just(Vlan::UNTAGGED),
        1 => Just(Vlan::tag(5)),
        1 => Just(Vlan::double(5, 6)),
    ]
}

fn key() -> impl Strategy<Value = MatchKey> {
    let ports = prop_oneof![
        select(&PORTS[..]).prop_map(PortMatch::One),
        (select(&PORTS[..]), select(&PORTS[..]))
            .prop_map(|(a, b)| PortMatch::Range(a.min(b), a.max(b))),
        Just(PortMatch::Any),
    ];
    let lengths = select(vec![4_u8, 8, 24, 30, 31, 32, 32, 64, 120, 126, 128, 128]);
    let source = proptest::option::of(0_usize..2);
    (slots(), vlans(), select(groups()), lengths, ports, source).prop_map(
        |(slot, vlan, group, len, ports, source)| MatchKey {
            slot,
            vlan,
            group: around(group, len),
            ports,
            source: source.map(|at| sources(group.is_ipv6())[at]),
        },
    )
}

/// The first bits of a group, all of them if it has fewer.
fn around(group: IpAddr, len: u8) -> Prefix {
    let len = if group.is_ipv6() { len } else { len.min(32) };
    Prefix::around(group, len).unwrap()
}

pub fn datagram(group: IpAddr, source: IpAddr, port: u16, vlan: Vlan) -> Datagram {
    let words = |address: Ipv6Addr| {
        let bits = address.to_bits();
        [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
    };
    let addresses = match (group, source) {
        (IpAddr::V4(group), IpAddr::V4(source)) => Addresses::V4 {
            source: u32::from_ne_bytes(source.octets()),
            group: u32::from_ne_bytes(group.octets()),
        },
        (IpAddr::V6(group), IpAddr::V6(source)) => Addresses::V6 {
            source: words(source),
            group: words(group),
        },
        _ => panic!("a source of another version"),
    };
    Datagram {
        addresses,
        port,
        vlan,
        ttl: 1,
        network: 14,
        payload_len: 0,
    }
}

fn probe() -> impl Strategy<Value = (u8, Datagram)> {
    (
        slots(),
        vlans(),
        select(groups()),
        0_usize..3,
        select(&PORTS[..]),
    )
        .prop_map(|(slot, vlan, group, source, port)| {
            let stranger: IpAddr = match group {
                IpAddr::V4(_) => Ipv4Addr::new(10, 1, 1, 9).into(),
                IpAddr::V6(_) => "2001:db8::9".parse::<Ipv6Addr>().unwrap().into(),
            };
            let known = sources(group.is_ipv6());
            let source = known.get(source).copied().unwrap_or(stranger);
            (slot, datagram(group, source, port, vlan))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_look_up_finds_the_most_specific_flow_after_every_change_and_in_the_middle_of_it(
        changes in vec((any::<bool>(), key(), any::<prop::sample::Index>()), 1..60),
        probes in vec(probe(), 40),
    ) {
        let mut flows: Vec<(MatchKey, u32)> = Vec::new();
        let (mut index, mut table) = (Index::default(), Table::default());
        for (number, (opens, key, which)) in changes.into_iter().enumerate() {
            let before: Vec<_> = probes.iter().map(|(slot, of)| model(&flows, *slot, of)).collect();
            let writes = if opens || flows.is_empty() {
                let others = flows.iter().filter(|(other, _)| *other != key);
                if others.into_iter().any(|(other, _)| conflict(&key, other)) {
                    continue;
                }
                flows.retain(|(other, _)| *other != key);
                flows.push((key, number as u32));
                index.open(key, FlowValue::new(number as u32, None)).unwrap()
            } else {
                let (key, _) = flows.swap_remove(which.index(flows.len()));
                index.close(&key)
            };
            let after: Vec<_> = probes.iter().map(|(slot, of)| model(&flows, *slot, of)).collect();
            for write in writes {
                table.write(write);
                for (at, (slot, of)) in probes.iter().enumerate() {
                    let found = table.look_up(*slot, of);
                    prop_assert!(
                        found == before[at] || found == after[at],
                        "{write:?}: {found:?} and neither {:?} nor {:?}", before[at], after[at]
                    );
                }
            }
            for (at, (slot, of)) in probes.iter().enumerate() {
                // Twice: the second answer comes from memory.
                prop_assert_eq!(table.look_up(*slot, of), after[at], "{:?} {:?}", of, flows);
                prop_assert_eq!(table.look_up(*slot, of), after[at]);
            }
        }
        for (key, _) in flows {
            for write in index.close(&key) {
                table.write(write);
            }
        }
        for (slot, of) in &probes {
            prop_assert_eq!(table.look_up(*slot, of), None);
        }
    }
}

fn any_source(group: [u8; 4], len: u8, ports: PortMatch) -> MatchKey {
    MatchKey {
        slot: 0,
        vlan: Vlan::UNTAGGED,
        group: around(Ipv4Addr::from(group).into(), len),
        ports,
        source: None,
    }
}

#[test]
fn an_exact_flow_is_one_entry_and_stays_final_beside_flows_that_cannot_take_its_frames() {
    let mut index = Index::default();
    let exact = any_source([239, 1, 1, 1], 32, PortMatch::One(5001));
    let value = FlowValue::new(7, None);
    let writes = index.open(exact, value).unwrap();
    assert!(matches!(writes[..], [Write::Exact4(_, written)] if written.is_final()));
    let wild = any_source([239, 0, 0, 0], 8, PortMatch::Any);
    let elsewhere = MatchKey {
        source: Some(Ipv4Addr::new(10, 1, 1, 7).into()),
        ..any_source([232, 0, 0, 0], 8, PortMatch::Any)
    };
    for key in [wild, elsewhere] {
        let writes = index.open(key, value).unwrap();
        assert!(
            !writes
                .iter()
                .any(|write| matches!(write, Write::Exact4(..))),
            "{writes:?}"
        );
    }
    let around = MatchKey {
        source: Some(Ipv4Addr::new(10, 1, 1, 7).into()),
        ..wild
    };
    let flagged = |writes: &[Write], is_final: bool| {
        let of_exact = |write: &&Write| matches!(write, Write::Exact4(..));
        let found: Vec<_> = writes.iter().filter(of_exact).collect();
        matches!(found[..], [Write::Exact4(_, written)] if written.is_final() == is_final)
    };
    assert!(flagged(&index.open(around, value).unwrap(), false));
    assert!(flagged(&index.close(&around), true));
}

#[test]
fn a_range_costs_an_entry_per_class_and_few_classes_remain() {
    let mut index = Index::default();
    let open = |index: &mut Index, last: u8, ports| {
        let writes = index.open(
            any_source([239, 1, 1, last], 32, ports),
            FlowValue::new(1, None),
        );
        let writes = writes.unwrap();
        writes
            .iter()
            .filter(|write| matches!(write, Write::Shaped4(..)))
            .count()
    };
    assert_eq!(open(&mut index, 1, PortMatch::Range(5000, 5099)), 1);
    assert_eq!(open(&mut index, 2, PortMatch::Range(5000, 5099)), 1);
    // The two others are cut, and it has two classes.
    assert_eq!(open(&mut index, 3, PortMatch::Range(5050, 5099)), 2 + 1);
    assert_eq!(open(&mut index, 4, PortMatch::Range(0, 65535)), 4);
    assert_eq!(open(&mut index, 5, PortMatch::Range(7, 6)), 0);
}

#[test]
fn a_range_that_gives_way_to_one_that_overlaps_leaves_it_what_both_have() {
    let mut index = Index::default();
    let mut table = Table::default();
    let range = |first, last| any_source([239, 1, 1, 1], 32, PortMatch::Range(first, last));
    let (old, new, other) = (range(5000, 5099), range(5050, 5149), range(5060, 5069));
    let elsewhere = any_source([239, 1, 1, 2], 32, PortMatch::Range(5000, 5149));
    let write = |writes: Vec<Write>, table: &mut Table| {
        for write in writes {
            table.write(write);
        }
    };
    for (key, number) in [(old, 1), (elsewhere, 9)] {
        write(
            index.open(key, FlowValue::new(number, None)).unwrap(),
            &mut table,
        );
    }
    let group = Ipv4Addr::new(239, 1, 1, 1).into();
    let of = |table: &mut Table, port| {
        let datagram = datagram(
            group,
            Ipv4Addr::new(10, 1, 1, 7).into(),
            port,
            Vlan::UNTAGGED,
        );
        table.look_up(0, &datagram)
    };
    write(
        index.open(new, FlowValue::new(2, None)).unwrap(),
        &mut table,
    );
    assert_eq!(
        [5000, 5049, 5149].map(|port| of(&mut table, port)),
        [Some(1), Some(1), Some(2)]
    );
    for write in index.close(&old) {
        table.write(write);
        for port in [5050, 5099, 5100, 5149] {
            assert_eq!(of(&mut table, port), Some(2), "{port} after {write:?}");
        }
    }
    assert_eq!(of(&mut table, 5049), None);
    write(
        index.open(other, FlowValue::new(3, None)).unwrap(),
        &mut table,
    );
    assert_eq!(of(&mut table, 5060), Some(3));
    write(index.close(&new), &mut table);
    assert_eq!(
        [5059, 5060, 5070].map(|port| of(&mut table, port)),
        [None, Some(3), None]
    );
    write(index.close(&other), &mut table);
    assert_eq!(of(&mut table, 5060), None);
}

#[test]
fn more_shapes_than_a_list_holds_are_refused_and_nothing_is_changed() {
    let mut index = Index::default();
    let mut refused = 0;
    for len in 4..=32 {
        for ports in [PortMatch::Any, PortMatch::One(1), PortMatch::Range(1, 2)] {
            let key = any_source([239, 255, 255, 255], len, ports);
            if key.is_exact() {
                continue;
            }
            match index.open(key, FlowValue::new(1, None)) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(index.get(&key), None);
                    assert!(error.to_string().contains("more than 32"), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(refused, 86 - 32);
    assert!(Shape::new(32, PortForm::One) > Shape::new(32, PortForm::Class));
}

#[test]
fn an_interface_says_whether_a_flow_names_the_address_of_a_host() {
    use relay_common::matching::{List, takes_unicast};
    let flow = |slot: u8, group: IpAddr, port: u16| MatchKey {
        slot,
        vlan: Vlan::UNTAGGED,
        group: group.into(),
        ports: PortMatch::One(port),
        source: None,
    };
    let host = IpAddr::from([10, 1, 0, 1]);
    let (mut index, mut table) = (Index::default(), Table::default());
    let mut number = 0;
    let mut change = |key: MatchKey, opens: bool| {
        number += 1;
        let writes = match opens {
            true => index.open(key, FlowValue::new(number, None)).unwrap(),
            false => index.close(&key),
        };
        writes.into_iter().for_each(|write| table.write(write));
        [3, 4].map(|slot| takes_unicast(&table, slot))
    };
    let range = MatchKey {
        ports: PortMatch::Range(1, 9),
        ..flow(3, host, 0)
    };
    assert_eq!(
        change(flow(3, [239, 1, 1, 1].into(), 1), true),
        [false, false]
    );
    assert_eq!(change(flow(3, host, 1), true), [true, false]);
    // Opened again with another value, it is still one.
    assert_eq!(change(flow(3, host, 1), true), [true, false]);
    assert_eq!(change(range, true), [true, false]);
    assert_eq!(change(flow(3, host, 1), false), [true, false]);
    assert_eq!(change(flow(3, host, 1), false), [true, false]);
    assert_eq!(change(range, false), [false, false]);
    assert_eq!(
        List::UNICAST
            & [List::Any4, List::Named4, List::Any6, List::Named6]
                .map(List::bit)
                .into_iter()
                .sum::<u64>(),
        0
    );
}
