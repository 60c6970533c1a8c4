//! Which rule takes a datagram, or why none does.

use super::*;

fn rules() -> Document {
    // Inputs are 239.129.1.N:5001.
    let mut document = document(
        &[
            "in0 -> out0 gone",
            "in0 -> out0",
            "gone -> out0",
            "in1 -> out0",
        ],
        "",
    );
    assert!(document.set_enabled("r2", false));
    document
}

fn datagram(interface: &str, rule: u8, port: u16) -> Datagram<'_> {
    Datagram {
        interface,
        group: Ipv4Addr::new(239, 129, 1, rule),
        port,
        vlan: None,
    }
}

fn said(datagram: Datagram<'_>) -> String {
    let facts = ["in0", "in1", "out0"];
    let facts = facts
        .iter()
        .zip(1..)
        .map(|(name, index)| nic(name, index, 1, 1));
    let host_facts = host_facts(facts);
    let document = rules();
    let arrangement = arrange(&document, &host_facts, &Constraints::default()).unwrap();
    explain(&document, Some(&arrangement), &datagram).to_string()
}

#[test]
fn the_rule_that_takes_it_is_named_first_and_then_where_it_leaves() {
    let expected = "rule `r1` takes it\n  \
        its input is 239.129.1.1:5001 on in0\n  \
        it leaves for 239.2.1.1:5002 on out0, ttl auto\n  \
        it does not leave for 239.2.1.2:5002 on gone: waiting for interface gone: there is none of that name";
    assert_eq!(said(datagram("in0", 1, 5001)), expected);
    let priority = Datagram {
        vlan: Some(0),
        ..datagram("in0", 1, 5001)
    };
    assert_eq!(said(priority), expected, "a priority tag");
    let alone = explain(&rules(), None, &datagram("gone", 3, 5001));
    assert_eq!(alone.verdict, Verdict::Taken { rule: "r3".into() });
}

#[test]
fn a_rule_that_waits_or_is_disabled_says_so() {
    let waiting = said(datagram("gone", 3, 5001));
    let expected = "not taken now: rule `r3` would take it, and is pending\n  \
        waiting for interface gone: there is none of that name\n  its input is 239.129.1.3:5001 on gone\n";
    assert!(waiting.starts_with(expected), "{waiting}");
    let disabled = said(datagram("in0", 2, 5001));
    let expected =
        "not taken: rule `r2` would take it, and is disabled\n  `relay enable r2` lets it run\n";
    assert!(disabled.starts_with(expected), "{disabled}");
}

#[test]
fn where_none_takes_it_the_nearest_misses_are_named() {
    let cases: &[(Datagram<'_>, &[&str])] = &[
        (
            datagram("in0", 1, 5009),
            &["rule `r1` takes port 5001, not 5009", "it goes on to"],
        ),
        (
            datagram("in1", 1, 5001),
            &[
                "rule `r1` takes it on in0, not on in1",
                "rule `r4` takes group 239.129.1.4, not 239.129.1.1",
                "it goes on to",
            ],
        ),
        (
            datagram("in0", 9, 5001),
            &[
                "rule `r1` takes group 239.129.1.1, not 239.129.1.9",
                "rule `r2` (disabled) takes group 239.129.1.2, not 239.129.1.9",
                "no rule has the group 239.129.1.9",
                "it goes on to",
            ],
        ),
        (
            datagram("x", 4, 9),
            &[
                "rule `r4` takes 239.129.1.4:5001 on in1",
                "no rule has x as input: gone, in0, in1 are",
                "it goes on to",
            ],
        ),
        (
            Datagram {
                vlan: Some(7),
                ..datagram("in0", 1, 5001)
            },
            &[
                "it has a tag of VLAN 7",
                "rule `r1` would take it without the tag",
            ],
        ),
        (
            Datagram {
                group: Ipv4Addr::new(10, 0, 0, 1),
                ..datagram("in0", 1, 5001)
            },
            &["10.0.0.1 is no multicast group"],
        ),
        (
            Datagram {
                group: Ipv4Addr::new(224, 0, 0, 251),
                ..datagram("in0", 1, 5001)
            },
            &["224.0.0.251 is a link-local control group"],
        ),
        (
            Datagram {
                group: Ipv4Addr::new(239, 2, 1, 1),
                ..datagram("out0", 1, 5002)
            },
            &[
                "no rule has out0 as input",
                "rule `r1` sends it through out0",
                "it goes on to",
            ],
        ),
    ];
    for (datagram, expected) in cases {
        let text = said(*datagram);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("no rule takes it"), "{text}");
        assert_eq!(lines.clone().count(), expected.len(), "{text}");
        for (line, expected) in lines.zip(*expected) {
            assert!(
                line.trim_start().starts_with(expected),
                "{text}\n{expected}"
            );
        }
    }
}
