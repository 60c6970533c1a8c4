//! Rules that feed themselves and one another, as far as the file says it.

use std::net::IpAddr;

use super::*;
use crate::config::{
    fed_rules::FedRules,
    rules::{Header, Input, Output, Source},
};

/// Rules "interface group port > interface group port".
fn fed(rules: &[&str]) -> Vec<String> {
    let end = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [interface, group, port, more @ ..] = words.as_slice() else {
            panic!("{text}");
        };
        let to = match group.split('/').next().unwrap().parse::<IpAddr>() {
            Ok(address) if !address.is_multicast() => "address",
            _ => "group",
        };
        format!(
            "interface = \"{interface}\", {to} = \"{group}\", port = {port}{}",
            more.iter()
                .map(|more| format!(", {more}"))
                .collect::<String>()
        )
    };
    let text: String = (b'a'..)
        .zip(rules)
        .map(|(name, text)| {
            let (input, output) = text.split_once('>').unwrap();
            rule(&char::from(name).to_string(), &end(input), &[&end(output)])
        })
        .collect();
    match parse("x", &text) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(|m| m.cause.clone()).collect(),
    }
}

#[test]
fn what_feeds_its_own_input_or_goes_in_a_circle_is_found_through_prefixes_and_ranges() {
    const A: &str = "in0 239.1.1.1 5 > out0 239.2.2.2 5";
    let fine: &[&[&str]] = &[
        &[A, "out0 239.2.2.2 \"6-9\" > in0 239.1.1.1 5"],
        &[A, "out0 239.2.2.0/24 6 > in0 239.1.1.0/24 6"],
        // Copies leave untagged, and not from a source that the file has.
        &[A, "out0 239.2.2.2 5 vlan=7 > in0 239.1.1.1 5"],
        &[A, "out0 239.2.2.2 5 source=\"10.1.1.7\" > in0 239.1.1.1 5"],
        // A more specific rule, which goes nowhere, takes what would go round.
        &[
            A,
            "out0 239.2.2.0/24 5 > in0 239.1.1.0/24 5",
            "out0 239.2.2.2 5 > out1 239.3.3.3 5",
        ],
        &["in0 239.1.1.0/24 5 > in0 239.1.2.0/24 5"],
        &[
            "in0 239.1.0.0/16 5 join=false > in0 239.1.2.3 5",
            "in0 239.1.2.3 5 > out0 239.2.2.2 5",
        ],
        &["in0 239.1.1.1 \"5-9\" > in0 239.1.1.1 \"10-14\""],
    ];
    for rules in fine {
        assert_eq!(fed(rules), [""; 0], "{rules:?}");
    }
    let circle = "rules feed one another in a circle: rule `a` -> rule `b` -> rule `a`; this output closes it";
    let circles: &[&[&str]] = &[
        &[A, "out0 239.2.2.0/24 5 > in0 239.1.1.0/24 5"],
        &[A, "out0 239.2.2.2 \"1-9\" > in0 239.1.1.1 5"],
        &[A, "out0 239.2.2.2 \"any\" > in0 239.1.1.1 \"any\""],
        &[
            "in0 239.1.0.0/16 5 join=false > out0 239.2.0.0/16 5",
            "out0 239.2.2.2 5 > in0 239.1.1.1 5",
        ],
        &[
            "in0 ff3e::1 5 > out0 ff3e::2 5",
            "out0 ff3e::/112 5 join=false > in0 ff3e::/112 5",
        ],
    ];
    let within = [
        "in0 239.1.1.0/25 5 > out0 239.2.2.0/25 5",
        "out0 239.2.2.0/24 5 > in0 239.1.1.0/24 5",
    ];
    assert_eq!(fed(&within), [circle]);
    for rules in circles {
        assert_eq!(fed(rules), [circle], "{rules:?}");
    }
    for own in [
        "in0 239.1.1.0/24 5 > in0 239.1.1.0/24 5",
        "in0 239.1.0.0/16 5 join=false > in0 239.1.2.3 5",
        "in0 239.1.1.1 \"5-9\" > in0 239.1.1.1 \"9-13\"",
        "in0 239.1.1.1 \"any\" > in0 239.1.1.1 \"any\"",
        "in0 ff3e::1 5 > in0 ff3e::1 5",
    ] {
        let found = fed(&[own]);
        assert_eq!(found.len(), 1, "{own}: {found:?}");
        assert!(
            found[0].contains("output 1: it feeds the rule's own input"),
            "{found:?}"
        );
    }
}

#[test]
fn an_output_feeds_inputs_of_the_vlan_that_its_copies_have() {
    let back = "output 1: it feeds the rule's own input";
    for (own, feeds) in [
        ("in0 239.1.1.1 5 vlan=7 > in0 239.1.1.1 5 vlan=7", true),
        (
            "in0 239.1.1.1 5 vlan=7 > in0 239.1.1.1 5 vlan=\"keep\"",
            true,
        ),
        (
            "in0 239.1.1.1 5 vlan=[7,8] > in0 239.1.1.1 5 vlan=[7,8]",
            true,
        ),
        ("in0 239.1.1.1 5 > in0 239.1.1.1 5 vlan=\"keep\"", true),
        ("in0 239.1.1.1 5 vlan=7 > in0 239.1.1.1 5", false),
        ("in0 239.1.1.1 5 vlan=7 > in0 239.1.1.1 5 vlan=8", false),
        ("in0 239.1.1.1 5 > in0 239.1.1.1 5 vlan=7", false),
        ("in0 239.1.1.1 5 vlan=7 > in0 239.1.1.1 5 vlan=[7,7]", false),
        ("in0 239.1.1.1 5 > in0 ff3e::1 5", false),
        ("in0 239.1.1.1 5 > in0 10.1.1.1 5", false),
    ] {
        let found = fed(&[own]);
        assert_eq!(found.len(), usize::from(feeds), "{own}: {found:?}");
        assert!(found.iter().all(|found| found.contains(back)), "{found:?}");
    }
    let circle = "rules feed one another in a circle: rule `a` -> rule `b` -> rule `a`; this output closes it";
    const A: &str = "in0 239.1.1.1 5 vlan=7 > out0 239.2.2.2 5 vlan=\"keep\"";
    let round = [A, "out0 239.2.2.2 5 vlan=7 > in0 239.1.1.1 5 vlan=\"keep\""];
    assert_eq!(fed(&round), [circle]);
    let other = [A, "out0 239.2.2.2 5 vlan=8 > in0 239.1.1.1 5 vlan=7"];
    assert_eq!(fed(&other), [""; 0]);
    let changed = [A, "out0 239.2.2.2 5 vlan=7 > in0 239.1.1.1 5 vlan=8"];
    assert_eq!(fed(&changed), [""; 0]);
}

#[test]
fn an_output_feeds_inputs_that_take_the_source_of_its_copies() {
    let own = "output 1: it feeds the rule's own input";
    for (rule, feeds) in [
        ("in0 239.1.1.1 5 > in0 239.1.1.1 5 source=\"keep\"", true),
        (
            "in0 239.1.1.1 5 source=\"10.1.1.7\" > in0 239.1.1.1 5 source=\"keep\"",
            true,
        ),
        (
            "in0 239.1.1.1 5 source=\"10.1.1.7\" > in0 239.1.1.1 5 source=\"10.1.1.7\"",
            true,
        ),
        (
            "in0 239.1.1.1 5 > in0 239.1.1.1 5 source=\"10.1.1.7\"",
            true,
        ),
        (
            "in0 239.1.1.1 5 source=\"10.1.1.7\" > in0 239.1.1.1 5 source=\"10.1.1.8\"",
            false,
        ),
        (
            "in0 239.1.1.1 5 source=\"10.1.1.7\" > in0 239.1.1.1 5 source=\"interface\"",
            false,
        ),
        (
            "in0 239.1.1.0/24 5 source=\"10.1.1.7\" > in0 239.1.1.0/24 5 source=\"10.1.1.8\"",
            false,
        ),
        (
            "in0 239.1.1.0/24 5 source=\"10.1.1.7\" > in0 239.1.1.0/24 5 source=\"keep\"",
            true,
        ),
    ] {
        let found = fed(&[rule]);
        assert_eq!(found.len(), usize::from(feeds), "{rule}: {found:?}");
        assert!(found.iter().all(|found| found.contains(own)), "{found:?}");
    }
    let circle = |rules: &[&str]| {
        let found = fed(rules);
        let is_circle = |cause: &String| cause.contains("rules feed one another in a circle");
        assert!(found.iter().all(is_circle), "{found:?}");
        !found.is_empty()
    };
    const KEEPS: &str = "in0 239.1.1.1 5 > out0 239.2.2.2 5 source=\"keep\"";
    const BACK: &str = "> in0 239.1.1.1 5 source=\"keep\"";
    let named = format!("out0 239.2.2.2 5 source=\"10.1.1.7\" {BACK}");
    let any = format!("out0 239.2.2.2 5 {BACK}");
    assert!(
        circle(&[KEEPS, &named]),
        "a datagram of 10.1.1.7 goes round"
    );
    assert!(circle(&[KEEPS, &any]));
    const SETS: &str = "in0 239.1.1.1 5 > out0 239.2.2.2 5 source=\"10.1.1.8\"";
    assert!(!circle(&[SETS, &named]));
    assert!(circle(&[SETS, &any]));
    // Another rule, which names the source, takes what would go round.
    const AWAY: &str = "out0 239.2.2.2 5 source=\"10.1.1.8\" > out1 239.3.3.3 5";
    assert!(!circle(&[SETS, &any, AWAY]));
    const ONE: &str = "in0 239.1.1.1 5 source=\"10.1.1.8\" > out0 239.2.2.2 5 source=\"keep\"";
    assert!(!circle(&[ONE, &named]));
    assert!(circle(&[ONE, &any]));
    assert!(!circle(&[ONE, &any, AWAY]));
}

#[test]
fn unicast_outputs_feed_unicast_inputs_of_their_interface_or_of_any() {
    let input = |interface: &str, last: u8| Input {
        interface: interface.into(),
        matches: Match {
            group: [10, 1, 1, last].into(),
            ports: PortMatch::One(5),
            sources: Vec::new(),
            vlan: Vlan::Untagged,
        },
        join: true,
        local: false,
    };
    let (first, second) = (input("in0", 1), input("in1", 2));
    let fed_rules = FedRules::new(&[Some(&first), Some(&second)]);
    let output = |interface: Option<&str>, last: u8| Output {
        interface: interface.map(str::to_owned),
        group: [10, 1, 1, last].into(),
        port: PortMatch::One(5),
        source: Source::Interface,
        header: Header::default(),
        mark: None,
    };
    let fed = |output: &Output| {
        let mut fed = Vec::new();
        fed_rules.of(output, &first, |rule| fed.push(rule));
        fed
    };
    assert_eq!(fed(&output(None, 1)), [0]);
    assert_eq!(fed(&output(None, 2)), [1]);
    assert_eq!(fed(&output(Some("in1"), 2)), [1]);
    assert_eq!(fed(&output(Some("in0"), 2)), [0; 0]);
    assert_eq!(fed(&output(None, 3)), [0; 0]);
    assert!(fed_rules.feeds_itself(&output(None, 1), 0, &first));
    assert!(fed_rules.feeds_itself(&output(Some("in0"), 1), 0, &first));
    assert!(!fed_rules.feeds_itself(&output(Some("in1"), 1), 0, &first));
    assert!(!fed_rules.feeds_itself(&output(None, 2), 0, &first));
}
