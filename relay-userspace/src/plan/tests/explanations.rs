//! Which rule takes a datagram, or why none does.

use super::*;
use crate::config::rules::Vlan;

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
        group: [239, 129, 1, rule].into(),
        port,
        source: None,
        vlan: Vlan::Untagged,
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
        it leaves for 239.2.1.1:5002 on out0: 02:00:00:00:00:03 > 01:00:5e:02:01:01; \
        IPv4 10.0.3.1 > 239.2.1.1, DSCP kept, TTL auto; UDP kept > 5002\n  \
        it does not leave for 239.2.1.2:5002 on gone: waiting for interface gone: there is none of that name";
    assert_eq!(said(datagram("in0", 1, 5001)), expected);
    let priority = Datagram {
        vlan: Vlan::of_tags(Some(0), None),
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
                vlan: Vlan::Tag(7),
                ..datagram("in0", 1, 5001)
            },
            &[
                "rule `r1` takes it without a tag, not in VLAN 7",
                "it goes on to the host's own stack, and is counted as vlan",
            ],
        ),
        (
            Datagram {
                group: [10, 0, 0, 1].into(),
                ..datagram("in0", 1, 5001)
            },
            &["no rule has the address 10.0.0.1", "it goes on to"],
        ),
        (
            Datagram {
                group: [224, 0, 0, 251].into(),
                ..datagram("in0", 1, 5001)
            },
            &["224.0.0.251 is a link-local control group"],
        ),
        (
            Datagram {
                group: [239, 2, 1, 1].into(),
                vlan: Vlan::Tag(7),
                ..datagram("out0", 1, 5002)
            },
            &["no rule has out0 as input", "it goes on to"],
        ),
        (
            Datagram {
                group: [239, 2, 1, 1].into(),
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

/// Rules of every kind on in0, the less specific ones first.
fn specific() -> Document {
    let text = [
        ("wide", "group = \"239.1.0.0/16\", port = \"any\", join = false"),
        ("prefix", "group = \"239.1.1.0/24\", port = \"5000-5099\""),
        ("exact", "group = \"239.1.1.1\", port = 5001"),
        ("one", "group = \"239.1.0.0/16\", port = \"any\", join = false, source = [\"10.1.1.7\", \"10.1.1.8\"]"),
        ("tagged", "group = \"239.1.1.9\", port = 7, vlan = 100"),
        ("twice", "group = \"239.9.1.9\", port = 7, vlan = [100, 200]"),
        ("six", "group = \"ff3e::100/120\", port = 5001, source = \"2001:db8::7\""),
    ]
    .map(|(name, input)| {
        let group = if name == "six" { "ff3e::700/120" } else { "239.7.7.7" };
        let group = if name == "prefix" { "239.7.7.0/24" } else { group };
        let port = if name == "prefix" { "\"6000-6099\"" } else { "9" };
        format!(
            "[[rules]]\nname = \"{name}\"\ninput = {{ interface = \"in0\", {input} }}\n\
             outputs = [{{ interface = \"out0\", group = \"{group}\", port = {port} }}]\n"
        )
    });
    config::parse("relay.toml", &text.concat()).unwrap()
}

fn of_group<'a>(group: &str, port: u16, source: Option<&str>) -> Datagram<'a> {
    Datagram {
        interface: "in0",
        group: group.parse().unwrap(),
        port,
        source: source.map(|source| source.parse().unwrap()),
        vlan: Vlan::Untagged,
    }
}

#[test]
fn the_most_specific_rule_takes_it_and_its_rivals_are_named() {
    let tagged = |vlan| Datagram {
        vlan,
        ..of_group("239.1.1.9", 7, None)
    };
    let other = Some("10.1.1.9");
    let cases = [
        (of_group("239.1.1.1", 5001, other), "exact", "239.7.7.7:9"),
        (
            of_group("239.1.1.1", 5002, other),
            "prefix",
            "239.7.7.1:6002",
        ),
        (
            of_group("239.1.1.200", 5099, other),
            "prefix",
            "239.7.7.200:6099",
        ),
        (of_group("239.1.1.200", 5100, other), "wide", "239.7.7.7:9"),
        (
            of_group("239.1.1.1", 5001, Some("10.1.1.8")),
            "one",
            "239.7.7.7:9",
        ),
        (tagged(Vlan::Tag(100)), "tagged", "239.7.7.7:9"),
        (
            of_group("ff3e::177", 5001, Some("2001:db8::7")),
            "six",
            "[ff3e::777]:9",
        ),
    ];
    for (datagram, rule, destination) in cases {
        let found = explain(&specific(), None, &datagram);
        assert_eq!(
            found.verdict,
            Verdict::Taken { rule: rule.into() },
            "{found}"
        );
        let leaves = format!("it leaves for {destination} on out0: ");
        let leaves = found.why.iter().find(|line| line.starts_with(&leaves));
        let (group, port) = destination.rsplit_once(':').unwrap();
        let group = group.trim_matches(['[', ']']);
        let headers = leaves.unwrap();
        assert!(headers.contains(&format!(" > {group}, DSCP")), "{found}");
        assert!(
            headers.ends_with(&format!("; UDP kept > {port}")),
            "{found}"
        );
        let mut why = found.why.iter();
        let joins = !why.any(|line| line.starts_with("the relay does not join its groups"));
        assert_eq!(joins, !["wide", "one"].contains(&rule), "{found}");
    }
    let found = explain(&specific(), None, &of_group("239.1.1.1", 5001, None));
    let expected = "rule `exact` takes it\n  \
        its input is 239.1.1.1:5001 on in0\n  \
        it leaves for 239.7.7.7:9 on out0: its interface's MAC > 01:00:5e:07:07:07; \
        IPv4 its interface's address > 239.7.7.7, DSCP kept, TTL auto; UDP kept > 9\n  \
        rule `prefix` does not get it: it matches as well, and is less specific\n  \
        rule `wide` does not get it: it matches as well, and is less specific\n  \
        rule `one` takes it from 10.1.1.7, 10.1.1.8";
    assert_eq!(found.to_string(), expected);
    let mut disabled = specific();
    assert!(disabled.set_enabled("exact", false));
    let found = explain(&disabled, None, &of_group("239.1.1.1", 5001, None));
    assert_eq!(
        found.verdict,
        Verdict::Taken {
            rule: "prefix".into()
        }
    );
    let line = "rule `exact` is more specific and would take it, but is disabled".to_owned();
    assert!(found.why.contains(&line), "{found}");
}

#[test]
fn a_miss_by_source_or_tag_or_out_of_a_prefix_or_range_is_named() {
    let vlan = |vlan, group: &str| Datagram {
        vlan,
        ..of_group(group, 7, None)
    };
    let cases = [
        (
            of_group("ff3e::177", 5001, Some("2001:db8::8")),
            "rule `six` takes it from 2001:db8::7, not from 2001:db8::8",
        ),
        (
            of_group("ff3e::177", 5001, None),
            "rule `six` takes it from 2001:db8::7",
        ),
        (
            of_group("ff3e::277", 5001, Some("2001:db8::7")),
            "rule `six` takes groups ff3e::100/120, not ff3e::277",
        ),
        (
            vlan(Vlan::Tag(7), "239.1.1.9"),
            "rule `wide` takes it without a tag, not in VLAN 7",
        ),
        (
            vlan(Vlan::Tag(100), "239.9.1.9"),
            "rule `twice` takes it in VLAN [100, 200], not in VLAN 100",
        ),
        (
            of_group("ff02::fb", 5353, None),
            "ff02::fb is a link-local control group (ff02::/16)",
        ),
    ];
    for (datagram, expected) in cases {
        let found = explain(&specific(), None, &datagram);
        assert_eq!(found.verdict, Verdict::NotTaken, "{found}");
        assert!(found.why[0].starts_with(expected), "{found}");
    }
    let narrow = config::parse(
        "relay.toml",
        "[[rules]]\nname = \"a\"\noutputs = [{ interface = \"out0\" }]\n\
         input = { interface = \"in0\", group = \"239.1.1.0/24\", port = \"5000-5099\" }\n",
    );
    let found = explain(&narrow.unwrap(), None, &of_group("239.1.1.1", 5100, None));
    assert_eq!(found.why[0], "rule `a` takes ports 5000-5099, not 5100");
}

#[test]
fn the_headers_of_each_copy_are_told_as_they_will_be() {
    let text = "[[rules]]\nname = \"r\"\n\
        input = { interface = \"in0\", group = \"239.1.1.0/24\", port = \"any\", vlan = 7 }\n\
        outputs = [\n\
        { interface = \"out0\", group = \"239.7.7.0/24\", source = \"keep\", vlan = \"keep\" },\n\
        { interface = \"out0\", group = \"ff3e::700/120\", vlan = 200, pcp = 5, dscp = 46, ttl = 8, \
          source_port = 7000 },\n\
        ]\n";
    let document = config::parse("relay.toml", text).unwrap();
    let facts = host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)]);
    let arranged = arrange(&document, &facts, &Constraints::default()).unwrap();
    let datagram = |source| Datagram {
        vlan: Vlan::Tag(7),
        ..of_group("239.1.1.9", 5001, source)
    };
    let leaves = |source| {
        let found = explain(&document, Some(&arranged), &datagram(source));
        let why = found.why.into_iter();
        why.filter(|line| line.starts_with("it leaves"))
            .collect::<Vec<_>>()
    };
    let second = "it leaves for [ff3e::709]:5001 on out0, VLAN 200: \
        02:00:00:00:00:02 > 33:33:00:00:07:09; 802.1Q (0x8100) VLAN 200, PCP 5; \
        IPv6 2001:db8:0:2::1 > ff3e::709, DSCP 46, hop limit 8; UDP 7000 > 5001";
    let first = |source| {
        format!(
            "it leaves for 239.7.7.9:5001 on out0, VLAN 7: \
             02:00:00:00:00:02 > 01:00:5e:07:07:09; VLAN 7, TPID kept, PCP kept; \
             IPv4 {source} > 239.7.7.9, DSCP kept, TTL auto; UDP kept > 5001"
        )
    };
    assert_eq!(leaves(None), [first("kept"), second.to_owned()]);
    assert_eq!(
        leaves(Some("10.1.1.7")),
        [first("10.1.1.7"), second.to_owned()]
    );
}

#[test]
fn a_source_that_the_kernel_programs_refuse_is_not_relayed() {
    let from = |source: &str, rule: u8| {
        said(Datagram {
            source: Some(source.parse().unwrap()),
            ..datagram("in0", rule, 5001)
        })
    };
    for source in [
        "127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "239.1.1.1",
        "255.255.255.255",
    ] {
        let expected = format!(
            "no rule takes it\n  no host can send from {source} to 239.129.1.1\n  \
             rule `r1` takes it from a source that a host can have\n  \
             it goes on to the host's own stack, and is counted as martian"
        );
        assert_eq!(from(source, 1), expected);
        assert!(from(source, 9).ends_with("counted as martian"), "{source}");
    }
    let taken = "rule `r1` takes it\n";
    assert!(from("10.9.9.9", 1).starts_with(taken));
    assert_eq!(
        from("::1", 1),
        "no rule takes it\n  \
         there is no such datagram: ::1 and 239.129.1.1 are of different versions of IP"
    );
    assert_eq!(
        from("10.0.3.1", 1),
        "no rule takes it\n  \
         rule `r1` would take it, but copies of the relay have this source: it is taken for one that \
         came back\n  \
         it goes on to the host's own stack, and is counted as own_frame"
    );
}
