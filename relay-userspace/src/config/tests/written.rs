//! Rules that are written as a file, and rules that are taken out or disabled.

use std::collections::BTreeSet;

use proptest::{collection, prelude::*, sample::subsequence, string::string_regex};

use super::*;
use crate::config::rules::{Input, Limit, Output, Rule, Rules};

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

/// Groups of outputs are never those of inputs, so that no rule feeds another.
fn outputs() -> impl Strategy<Value = Vec<Output>> {
    let output = (interface(), 0..4_u8, 1..=u16::MAX, ttl());
    collection::vec(output, 1..6).prop_map(|outputs| {
        let mut seen = BTreeSet::new();
        let outputs = outputs
            .into_iter()
            .map(|(interface, group, port, ttl)| Output {
                interface,
                group: Ipv4Addr::new(239, 2, 0, group),
                port,
                ttl,
            });
        outputs
            .filter(|o| seen.insert((o.interface.clone(), o.group, o.port)))
            .collect()
    })
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

fn rules() -> impl Strategy<Value = Rules> {
    let rule = (
        name(),
        any::<bool>(),
        interface(),
        proptest::option::of(limit()),
        outputs(),
    );
    let options = (numbers(), cpus(), 0..3_usize);
    let rules = collection::vec(rule, 1..8);
    (rules, collection::vec(options, INTERFACES.len())).prop_map(|(rules, options)| {
        let rules = rules.into_iter().zip(1..).map(
            |((name, enabled, interface, limit, outputs), number)| Rule {
                name: format!("{name}{number}"),
                enabled,
                input: Input {
                    interface,
                    group: Ipv4Addr::new(239, 1, 0, number),
                    port: 5000 + u16::from(number),
                },
                limit,
                outputs,
            },
        );
        let mut rules = Rules {
            rules: rules.collect(),
            interfaces: Vec::new(),
        };
        let used: BTreeSet<String> = rules.interfaces_used().map(str::to_owned).collect();
        let tables = used.into_iter().zip(options);
        rules.interfaces = tables
            .map(|(name, (queues, cpus, transmit))| InterfaceOptions {
                name,
                queues,
                cpus,
                transmit: [Transmit::Auto, Transmit::Xsk, Transmit::Segmented][transmit],
            })
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

#[test]
fn the_file_is_written_as_people_write_it() {
    let text = GOOD.replacen(
        "name = \"feed-a\"",
        "name = \"a \\\"b\\\"\"\nenabled = false",
        1,
    );
    let text = text.replace(
        "port = 5001 }",
        "port = 5001, limit = { packets_per_second = 10, burst = 2 } }",
    );
    let document = parse("relay.toml", &text).unwrap();
    let expected = r#"[[rules]]
name = "a \"b\""
enabled = false
input = { interface = "in0", group = "239.1.1.1", port = 5001, limit = { packets_per_second = 10, burst = 2 } }
outputs = [
  { interface = "out0", group = "239.2.2.2", port = 5002 },
  { interface = "out0", group = "239.3.3.3", port = 5003, ttl = 8 },
  { interface = "in0", group = "239.3.3.3", port = 5004, ttl = "decrement" },
]

[[interfaces]]
name = "in0"
queues = [1, 3]
cpus = [7, 2]
transmit = "segmented"
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
    assert_eq!(to_toml(&none.rules), "");
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
