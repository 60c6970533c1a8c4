//! Rules that are written as a file, and rules that are taken out or disabled.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    time::Duration,
};

use proptest::{collection, prelude::*, sample::subsequence, string::string_regex};

use super::*;
use crate::config::rules::{
    Counter, Header, Health, Input, Limit, Listen, Metrics, Monitor, Order, Output, OutputVlan,
    Prefix, Rule, Rules, Source,
};

const INTERFACES: [&str; 5] = ["in0", "out0", "wlan-1.5", "a\"b", "é\\"];

fn name() -> impl Strategy<Value = String> {
    string_regex("[a-z0-9 \"\\\\'#=.ß漢\u{202e}]{0,20}x").unwrap()
}

fn interface() -> impl Strategy<Value = String> {
    (0..INTERFACES.len()).prop_map(|at| INTERFACES[at].to_owned())
}

fn ttl() -> impl Strategy<Value = Ttl> {
    prop_oneof![
        Just(Ttl::Auto),
        Just(Ttl::Decrement),
        (1..=255_u8).prop_map(Ttl::Set)
    ]
}

/// What an input matches. Inputs of different numbers do not overlap.
fn matches() -> impl Strategy<Value = (u8, PortMatch, BTreeSet<u8>, Vlan)> {
    let ports = prop_oneof![
        (1..=u16::MAX).prop_map(PortMatch::One),
        (1..u16::MAX, 1..=999_u16)
            .prop_map(|(first, more)| PortMatch::Range(first, first.saturating_add(more))),
        Just(PortMatch::Any),
    ];
    let vlan = prop_oneof![
        Just(Vlan::Untagged),
        (1..=4094_u16).prop_map(Vlan::Tag),
        (1..=4094_u16, 1..=4094_u16).prop_map(|(outer, inner)| Vlan::Double(outer, inner)),
    ];
    let sources = collection::btree_set(1..=9_u8, 0..4);
    (0..5_u8, ports, sources, vlan)
}

/// The groups of the input with this number, 1 to 15, that differ in `host` bits.
fn groups(block: u8, number: u8, host: u8, is_ipv6: bool) -> Prefix {
    let group = if is_ipv6 {
        let last = u16::from(number) << 8;
        IpAddr::from([0xff3e, 0, 0, 0, 0, 0, 0x8000 + u16::from(block), last])
    } else {
        IpAddr::from([239, block, number, 0])
    };
    Prefix::around(group, Prefix::from(group).length() - host).unwrap()
}

/// The address of this host that the input with this number names.
fn own_address(number: u8, is_ipv6: bool) -> Prefix {
    match is_ipv6 {
        true => IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, number.into()]).into(),
        false => IpAddr::from([10, 2, 2, number]).into(),
    }
}

/// An output by numbers, which fit any input.
#[derive(Debug, Clone)]
struct Numbers {
    interface: String,
    number: u8,
    port: Option<u16>,
    /// All copies go to one group and port.
    merges: bool,
    is_ipv6: bool,
    /// `Some(true)` where the kernel's routing chooses the interface.
    unicast: Option<bool>,
    /// 0 is the interface's, 1 that of the datagram, the others are addresses.
    source: u8,
    header: Header,
    mark: Option<u32>,
}

fn header() -> impl Strategy<Value = Header> {
    let vlan = prop_oneof![
        Just(OutputVlan::Untagged),
        Just(OutputVlan::Keep),
        (1..=4094_u16).prop_map(OutputVlan::Tag),
        (1..=4094_u16, 1..=4094_u16).prop_map(|(outer, inner)| OutputVlan::Double(outer, inner)),
    ];
    let option = proptest::option::of::<std::ops::RangeInclusive<u8>>;
    let source_port = proptest::option::of(1..=u16::MAX);
    (ttl(), source_port, option(0..=63), vlan, option(0..=7)).prop_map(
        |(ttl, source_port, dscp, vlan, pcp)| Header {
            ttl,
            source_port,
            dscp,
            vlan,
            pcp,
        },
    )
}

/// The outputs of a rule, by numbers. Their groups are never those of inputs, so that no rule feeds
/// another.
fn outputs() -> impl Strategy<Value = Vec<Numbers>> {
    let to = (
        interface(),
        0..4_u8,
        proptest::option::of(1..=60_000_u16),
        any::<[bool; 2]>(),
        proptest::option::of(any::<bool>()),
    );
    let output = (to, 0..4_u8, header(), proptest::option::of(any::<u32>()));
    let output = output.prop_map(|(to, source, header, mark)| {
        let (interface, number, port, [merges, is_ipv6], unicast) = to;
        Numbers {
            interface,
            number,
            port,
            merges,
            is_ipv6,
            unicast,
            source,
            header,
            mark,
        }
    });
    collection::vec(output, 1..6)
}

/// The output with these numbers, of a rule with this input.
fn output(input: &Input, numbers: Numbers) -> Output {
    let Numbers {
        number,
        merges,
        is_ipv6,
        unicast,
        mut header,
        ..
    } = numbers;
    let from = input.matches.group;
    let host = match merges {
        true => 0,
        false => from.host_bits(),
    };
    let port = match (numbers.port, input.matches.ports) {
        (Some(first), PortMatch::Range(from, to)) if !merges => {
            PortMatch::Range(first, first.saturating_add(to - from))
        }
        (Some(port), PortMatch::One(_)) => PortMatch::One(port),
        (Some(port), _) if merges => PortMatch::One(port),
        (_, ports) => ports,
    };
    let host_address = |last: u8| match is_ipv6 {
        true => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 2, last.into()]),
        false => IpAddr::from([10, 2, 0, last]),
    };
    let routed = unicast == Some(true);
    if routed {
        header.vlan = OutputVlan::Untagged;
    }
    if header.vlan.of_copy(input.matches.vlan).is_untagged() {
        header.pcp = None;
    }
    Output {
        interface: (!routed).then_some(numbers.interface),
        group: match unicast {
            Some(_) => host_address(number + 1).into(),
            None => groups(2, number, host, is_ipv6),
        },
        port,
        source: match numbers.source {
            1 if is_ipv6 == from.address().is_ipv6() => Source::Keep,
            0 | 1 => Source::Interface,
            last => Source::Address(host_address(last + 100)),
        },
        header,
        mark: numbers.mark.filter(|_| unicast.is_some()),
    }
}

fn limit() -> impl Strategy<Value = Limit> {
    (1..=Limit::MAX_RATE, 1..=Limit::MAX_BURST).prop_map(|(packets_per_second, burst)| Limit {
        packets_per_second,
        burst,
    })
}

/// Ascending.
fn numbers() -> impl Strategy<Value = Option<Vec<u32>>> {
    let some = subsequence((0..9).chain([65_535]).collect::<Vec<u32>>(), 1..=10);
    proptest::option::of(some)
}

/// In any order.
fn cpus() -> impl Strategy<Value = Option<Vec<u32>>> {
    let some = Just((0..9).chain([65_535]).collect::<Vec<u32>>()).prop_shuffle();
    proptest::option::of((some, 1..=10_usize).prop_map(|(mut list, count)| {
        list.truncate(count);
        list
    }))
}

fn health() -> impl Strategy<Value = Health> {
    let seconds = (1..=86_400_u64).prop_map(|seconds| seconds * 1000);
    let silence = prop_oneof![20..=999_u64, seconds];
    let counter =
        (0..=Counter::MAX_OFFSET, 0..4_u8, any::<bool>()).prop_map(|(offset, bytes, is_big)| {
            Counter {
                offset,
                bytes: 1 << bytes,
                order: if is_big { Order::Big } else { Order::Little },
            }
        });
    let monitor = prop_oneof![
        Just(Monitor::Rtp),
        Just(Monitor::MpegTs),
        Just(Monitor::MoldUdp64),
        counter.prop_map(Monitor::Counter),
    ];
    let (silence, monitor) = (proptest::option::of(silence), proptest::option::of(monitor));
    (silence, monitor).prop_map(|(silence, monitor)| Health {
        silence: silence.map(Duration::from_millis),
        monitor,
    })
}

fn metrics() -> impl Strategy<Value = Metrics> {
    let listen = prop_oneof![
        Just(Listen::Tcp("127.0.0.1:9474".parse().unwrap())),
        Just(Listen::Tcp("[::1]:1".parse().unwrap())),
        Just(Listen::Unix("/run/a \"b\"/\\c".into())),
    ];
    (listen, any::<bool>()).prop_map(|(listen, outputs)| Metrics { listen, outputs })
}

fn rules() -> impl Strategy<Value = Rules> {
    let input = (
        interface(),
        matches(),
        any::<[bool; 4]>(),
        proptest::option::of(limit()),
    );
    let rule = (name(), any::<bool>(), input, outputs(), health());
    let options = (numbers(), cpus(), 0..3_usize, any::<bool>());
    let rules = collection::vec(rule, 1..8);
    let options = collection::vec(options, INTERFACES.len());
    (rules, options, proptest::option::of(metrics())).prop_map(|(rules, options, metrics)| {
        let rules = rules.into_iter().zip(1..).map(
            |((name, enabled, (interface, matches, flags, limit), outputs, health), number)| {
                let (host, ports, sources, vlan) = matches;
                let [is_ipv6, join, local, is_unicast] = flags;
                let group = match is_unicast {
                    true => own_address(number, is_ipv6),
                    false => groups(1, number, host, is_ipv6),
                };
                let source = |last: u8| match is_ipv6 {
                    true => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()]),
                    false => IpAddr::from([10, 1, 1, last]),
                };
                let input = Input {
                    interface,
                    matches: Match {
                        group,
                        ports,
                        sources: sources.into_iter().map(source).collect(),
                        vlan,
                    },
                    join: join && !is_unicast,
                    local,
                };
                let mut seen = HashSet::new();
                let outputs = outputs.into_iter().map(|numbers| output(&input, numbers));
                let outputs: Vec<Output> = outputs
                    .filter(|o| {
                        let vlan = o.header.vlan.of_copy(input.matches.vlan);
                        seen.insert((o.interface.clone(), o.group, o.port, vlan))
                    })
                    .collect();
                Rule {
                    name: format!("{name}{number}"),
                    enabled,
                    input,
                    limit,
                    health,
                    outputs,
                }
            },
        );
        let mut rules = Rules {
            rules: rules.collect(),
            interfaces: Vec::new(),
            metrics,
        };
        let used: BTreeSet<String> = rules.interfaces_used().map(str::to_owned).collect();
        let tables = used.into_iter().zip(options);
        rules.interfaces = tables
            .map(
                |(name, (queues, cpus, transmit, manage))| InterfaceOptions {
                    name,
                    queues,
                    cpus,
                    transmit: [Transmit::Auto, Transmit::Xsk, Transmit::Segmented][transmit],
                    offloads: [Offloads::Keep, Offloads::Manage][usize::from(manage)],
                },
            )
            .collect();
        rules
    })
}

proptest! {
    #[test]
    fn rules_that_are_written_are_read_as_they_were(rules in rules()) {
        let text = to_toml(&rules);
        let read = parse("relay.toml", &text).map_err(|mistakes| {
            TestCaseError::fail(format!("{mistakes}\n{text}"))
        })?;
        prop_assert_eq!(&read.rules, &rules, "{}", text);
    }
}

/// As where all rules were removed by command.
#[test]
fn a_file_without_rules_keeps_its_metrics() {
    for outputs in [true, false] {
        let rules = Rules {
            metrics: Some(Metrics {
                listen: Listen::Tcp("[::1]:9474".parse().unwrap()),
                outputs,
            }),
            rules: Vec::new(),
            interfaces: Vec::new(),
        };
        let text = to_toml(&rules);
        assert!(
            text.starts_with("rules = []\n\n[metrics]\nlisten = \"[::1]:9474\"\n"),
            "{text}"
        );
        assert_eq!(parse("relay.toml", &text).unwrap().rules, rules);
    }
}

#[test]
fn the_file_is_written_as_people_write_it() {
    let text = GOOD.replacen(
        "name = \"feed-a\"",
        "name = \"a \\\"b\\\"\"\nenabled = false",
        1,
    );
    let text = text.replace(
        "port = 5001 }",
        "port = 5001, local = true, join = false, vlan = [7, 8], limit = { packets_per_second = 10, \
         burst = 2 }, source = [\"10.1.1.8\", \"10.1.1.7\"] }",
    );
    let text = text.replace(", port = 5_004", "");
    let text = text.replace(
        "5002 },",
        "5002, source = \"keep\", vlan = \"keep\", dscp = \"keep\" },\n\
         { mark = 7, port = 6000, source_port = 7000, address = \"2001:db8::9\", dscp = 46 },\n\
         { interface = \"out1\", vlan = [100, 200], source = \"10.9.0.1\", pcp = 5 },",
    );
    let document = parse("relay.toml", &text).unwrap();
    let expected = r#"[[rules]]
name = "a \"b\""
enabled = false
input = { interface = "in0", group = "239.1.1.1", port = 5001, source = ["10.1.1.7", "10.1.1.8"], vlan = [7, 8], join = false, local = true, limit = { packets_per_second = 10, burst = 2 } }
outputs = [
  { interface = "out0", group = "239.2.2.2", port = 5002, vlan = "keep", source = "keep" },
  { address = "2001:db8::9", port = 6000, dscp = 46, source_port = 7000, mark = 7 },
  { interface = "out1", group = "239.1.1.1", port = 5001, vlan = [100, 200], pcp = 5, source = "10.9.0.1" },
  { interface = "out0", group = "239.3.3.3", port = 5003, ttl = 8 },
  { interface = "in0", group = "239.3.3.3", port = 5001, ttl = "decrement" },
]

[[interfaces]]
name = "in0"
queues = [1, 3]
cpus = [7, 2]
transmit = "segmented"
offloads = "manage"
"#;
    assert_eq!(to_toml(&document.rules), expected);
}

fn two_rules() -> Document {
    let text = rule(
        "a",
        &at("in0", "239.1.1.1", 1),
        &[&at("out0", "239.2.1.1", 1)],
    ) + &rule(
        "b",
        &at("in0", "239.1.1.2", 1),
        &[&at("out1", "239.2.1.2", 1)],
    ) + "[[interfaces]]\nname = \"out1\"\ncpus = [1]\n[[interfaces]]\nname = \"in0\"\ncpus = [2]\n";
    parse("relay.toml", &text).unwrap()
}

#[test]
fn a_rule_is_taken_out_with_the_options_that_only_it_needs() {
    let document = two_rules();
    let left = document.without("b").unwrap();
    assert_eq!(left.rules.rules, document.rules.rules[..1]);
    assert_eq!(left.places.rules, document.places.rules[..1]);
    assert_eq!(left.rules.interfaces, document.rules.interfaces[1..]);
    assert_eq!(left.places.interfaces, document.places.interfaces[1..]);
    parse("relay.toml", &to_toml(&left.rules)).unwrap();
    assert_eq!(document.without("c"), None);
    let none = left.without("a").unwrap();
    assert_eq!(to_toml(&none.rules), "rules = []\n");
    let read = parse("relay.toml", &to_toml(&none.rules)).unwrap();
    assert_eq!(read.rules, none.rules);
}

#[test]
fn a_disabled_rule_stays_in_the_file_and_can_be_enabled_again() {
    let mut document = two_rules();
    assert!(document.set_enabled("a", false));
    assert!(
        !document.set_enabled("c", false),
        "there is none of that name"
    );
    let read = parse("relay.toml", &to_toml(&document.rules)).unwrap();
    assert_eq!(read.rules, document.rules);
    let enabled = read.enabled();
    assert_eq!(enabled.rules.rules, document.rules.rules[1..]);
    assert_eq!(enabled.places.rules, read.places.rules[1..]);
    assert!(document.set_enabled("a", true));
    assert_eq!(document.enabled().into_owned(), two_rules());
}

#[test]
fn enabled_is_true_or_false() {
    let text = GOOD.replacen(
        "name = \"feed-a\"",
        "name = \"feed-a\"\nenabled = \"no\"",
        1,
    );
    let found = mistakes(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0]
            .cause
            .contains("rule `feed-a`: `enabled` is a string")
    );
    assert!(
        found[0].remedy.contains("`enabled = false`"),
        "{}",
        found[0]
    );
}
