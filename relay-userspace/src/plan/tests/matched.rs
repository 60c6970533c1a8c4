//! What rules of every kind become in a plan, and what is refused as long as the datapath cannot do
//! it.

use std::net::IpAddr;

use super::*;
use crate::{config::rules::PortMatch, host::MembershipVersions};

/// The rule with this input on in0.
fn rule(input: &str) -> Document {
    let text = format!(
        "[[rules]]\nname = \"r\"\ninput = {{ interface = \"in0\", {input} }}\n\
         outputs = [{{ interface = \"out0\" }}]\n"
    );
    config::parse("relay.toml", &text).unwrap()
}

/// A rule with this input on in0 and one output group and port.
fn merging(input: &str) -> Document {
    let text = format!(
        "[[rules]]\nname = \"r\"\ninput = {{ interface = \"in0\", {input} }}\n\
         outputs = [{{ interface = \"out0\", group = \"239.2.2.2\", port = 7 }}]\n"
    );
    config::parse("relay.toml", &text).unwrap()
}

fn facts() -> HostFacts {
    host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)])
}

/// The plan, whether the datapath can run it or not.
fn planned(document: &Document, facts: &HostFacts) -> Plan {
    let checked = build::check(document, facts, &Constraints::default());
    assert!(checked.findings.is_empty());
    build::finish(
        document,
        facts,
        checked,
        &routes::Routed::new(document, facts),
    )
}

#[test]
fn every_form_of_an_input_and_of_an_output_is_planned() {
    let plain = "group = \"239.1.1.1\", port = 1";
    for more in [
        "",
        ", join = false",
        ", local = true",
        ", source = \"10.1.1.7\"",
        ", source = [\"10.1.1.7\", \"10.1.1.8\"]",
        ", vlan = 7",
        ", vlan = [7, 8]",
    ] {
        auto(&rule(&format!("{plain}{more}")), &facts()).unwrap();
    }
    for kept in [
        "group = \"239.1.1.0/24\", port = 1",
        "group = \"239.1.1.1\", port = \"1-2\"",
        "group = \"239.1.1.1\", port = \"any\"",
        "group = \"ff0e::/16\", port = \"any\", join = false",
    ] {
        auto(&rule(kept), &facts()).unwrap();
    }
    for merged in [
        "group = \"239.1.1.0/24\", port = 1",
        "group = \"239.1.1.1\", port = \"1-2\"",
        "group = \"239.1.1.0/24\", port = \"any\", source = \"10.1.1.7\", vlan = [7, 8]",
    ] {
        auto(&merging(merged), &facts()).unwrap();
    }
}

#[test]
fn a_flow_has_a_key_per_source_with_all_else_that_it_matches() {
    let keys = |input: &str| {
        let plan = auto(&merging(input), &facts()).unwrap();
        assert_eq!(
            plan.key_count(),
            plan.keys(&plan.flows[FlowId::new(0)]).count()
        );
        plan.keys(&plan.flows[FlowId::new(0)]).collect::<Vec<_>>()
    };
    let sources = "source = [\"10.1.1.8\", \"10.1.1.7\"]";
    let all = keys(&format!(
        "group = \"239.1.1.0/24\", port = \"1-9\", vlan = [7, 8], {sources}"
    ));
    let one = |source: Option<[u8; 4]>| FlowKey {
        interface: 1,
        vlan: relay_common::wire::Vlan::double(7, 8),
        group: "239.1.1.0/24".parse().unwrap(),
        ports: PortMatch::Range(1, 9),
        source: source.map(IpAddr::from),
    };
    assert_eq!(all, [one(Some([10, 1, 1, 7])), one(Some([10, 1, 1, 8]))]);
    let any = keys("group = \"239.1.1.0/24\", port = \"1-9\", vlan = [7, 8]");
    assert_eq!(any, [one(None)]);
}

#[test]
fn one_shape_more_than_the_kernel_programs_look_for_is_a_mistake() {
    let mut text = String::new();
    let lengths = (8..=31).flat_map(|length| [(length, "1"), (length, "\"any\"")]);
    for (number, (length, port)) in lengths.take(33).enumerate() {
        let vlan = number + 1;
        text += &format!(
            "[[rules]]\nname = \"r{number}\"\ninput = {{ interface = \"in0\", group = \
             \"239.0.0.0/{length}\", port = {port}, vlan = {vlan}, join = false }}\n\
             outputs = [{{ interface = \"out0\", group = \"238.2.2.2\", port = {vlan} }}]\n"
        );
    }
    let mut document = config::parse("relay.toml", &text).unwrap();
    let refused = auto(&document, &facts()).unwrap_err().to_string();
    let expected = "rule `r32`: the rules of `in0` have more than 32 combinations";
    assert!(refused.contains(expected), "{refused}");
    assert!(document.set_enabled("r7", false));
    auto(&document, &facts()).unwrap();
}

#[test]
fn a_rule_joins_each_group_of_a_prefix_of_each_source_or_nothing() {
    let joined = |input: &str| -> Vec<(u32, String, Option<IpAddr>)> {
        let all = planned(&rule(input), &facts()).memberships().into_iter();
        all.map(|one| (one.interface, one.group.to_string(), one.source))
            .collect()
    };
    let group =
        |group: &str, source: Option<[u8; 4]>| (1, group.to_owned(), source.map(IpAddr::from));
    assert_eq!(
        joined("group = \"239.1.1.4/31\", port = \"any\""),
        [group("239.1.1.4", None), group("239.1.1.5", None)]
    );
    assert_eq!(
        joined("group = \"232.1.1.0/31\", port = 1, source = [\"10.0.0.9\", \"10.0.0.1\"]"),
        [
            group("232.1.1.0", Some([10, 0, 0, 1])),
            group("232.1.1.0", Some([10, 0, 0, 9])),
            group("232.1.1.1", Some([10, 0, 0, 1])),
            group("232.1.1.1", Some([10, 0, 0, 9])),
        ]
    );
    assert_eq!(
        joined("group = \"ff3e::10/127\", port = 1"),
        [group("ff3e::10", None), group("ff3e::11", None)]
    );
    assert_eq!(
        joined("group = \"239.0.0.0/8\", port = 1, join = false"),
        []
    );
    assert_eq!(joined("group = \"239.1.0.0/22\", port = 1").len(), 1024);
}

#[test]
fn a_flow_shows_all_that_its_rule_matches() {
    let input =
        "group = \"239.1.1.0/24\", port = \"5000-5099\", source = \"10.0.0.9\", vlan = [7, 8]";
    let plan = planned(&rule(input), &facts());
    let shown = plan.to_string();
    let expected = "r: 239.1.1.0/24:5000-5099 from 10.0.0.9 on in0, VLAN [7, 8], 1 output\n    \
                    -> 239.1.1.0/24:5000-5099 by out0";
    assert!(shown.contains(expected), "{shown}");
    let json = serde_json::to_value(&plan).unwrap();
    let flow = &json["flows"][0];
    assert_eq!(flow["group"], "239.1.1.0/24");
    assert_eq!(flow["port"], "5000-5099");
    assert_eq!(flow["source"], serde_json::json!(["10.0.0.9"]));
    assert_eq!(flow["vlan"], serde_json::json!([7, 8]));
    assert_eq!(flow["outputs"][0]["port"], "5000-5099");
    let plain = auto(&rule("group = \"239.1.1.1\", port = 1"), &facts()).unwrap();
    let json = serde_json::to_value(&plain).unwrap();
    assert_eq!(json["flows"][0]["port"], 1);
    assert_eq!(json["flows"][0].get("vlan"), None);
}

#[test]
fn a_source_that_the_interface_cannot_ask_for_and_one_that_is_missing_are_noted() {
    let told = |input: &str, versions: MembershipVersions| {
        let facts = HostFacts {
            versions,
            ..facts()
        };
        planned(&rule(input), &facts).notes.join("\n")
    };
    let (old, new) = (
        || MembershipVersions::default().with(1, 2, true),
        || MembershipVersions::default().with(1, 3, false),
    );
    let four = "group = \"239.1.1.1\", port = 1, source = \"10.0.0.9\"";
    let six = "group = \"ff3e::1\", port = 1, source = \"2001:db8::7\"";
    let expected = "in0: 239.1.1.1: the interface speaks IGMPv2 now, which cannot name sources";
    assert!(
        told(four, old()).contains(expected),
        "{}",
        told(four, old())
    );
    let expected = "in0: ff3e::1: the interface speaks MLDv1 now, which cannot name sources";
    assert!(told(six, old()).contains(expected), "{}", told(six, old()));
    let unsaid = [
        (four, new()),
        (six, new()),
        ("group = \"239.1.1.1\", port = 1", old()),
        (&format!("{four}, join = false"), old()),
    ];
    for (input, versions) in unsaid {
        let notes = told(input, versions);
        assert!(!notes.contains("cannot name sources"), "{notes}");
    }
    for (group, is_noted) in [
        ("232.1.1.0/24", true),
        ("ff3e::1", true),
        ("ff35::8000:0/120", true),
        ("ff3e:1::1", false),
        ("ff1e::1", false),
        ("239.1.1.1", false),
    ] {
        let notes = told(&format!("group = \"{group}\", port = 1"), new());
        assert_eq!(
            notes.contains("give the rule a `source`"),
            is_noted,
            "{group}: {notes}"
        );
    }
    let shown = HostFacts {
        versions: old(),
        ..facts()
    };
    let shown = auto(&rule("group = \"239.1.1.1\", port = 1"), &shown).unwrap();
    assert_eq!(
        shown.to_string().matches(", IGMPv2").count(),
        1,
        "of the input"
    );
}

#[test]
fn a_rule_that_sends_into_a_prefix_of_another_is_told_of_unless_its_source_is_not_taken() {
    let told = |input: &str| {
        let text = format!(
            "[[rules]]\nname = \"a\"\ninput = {{ interface = \"in0\", group = \"239.1.1.1\", port = 1 }}\n\
             outputs = [{{ interface = \"out0\", group = \"239.2.2.2\", port = 7 }}]\n\
             [[rules]]\nname = \"b\"\ninput = {{ interface = \"out0\", {input} }}\n\
             outputs = [{{ interface = \"in0\", group = \"239.3.3.3\", port = 7 }}]\n"
        );
        let document = config::parse("relay.toml", &text).unwrap();
        let notes = planned(&document, &facts()).notes.join("\n");
        notes.contains("are sent by rule `a`")
    };
    assert!(told("group = \"239.2.2.0/24\", port = \"1-9\""));
    assert!(
        told("group = \"239.2.2.2\", port = \"any\", source = \"10.0.2.1\""),
        "out0's address"
    );
    assert!(!told(
        "group = \"239.2.2.2\", port = \"any\", source = \"10.0.2.9\""
    ));
    assert!(!told("group = \"239.2.2.2\", port = 7, vlan = 7"));
    assert!(!told("group = \"239.2.2.0/24\", port = \"8-9\""));
    assert!(!told("group = \"239.2.3.0/24\", port = 7"));
}

#[test]
fn another_program_in_a_prefix_is_noted_unless_the_rule_is_local() {
    let facts = HostFacts {
        bystanders: Bystanders::default().with_joined(1, Ipv4Addr::new(239, 1, 1, 77)),
        ..facts()
    };
    for (input, is_noted) in [
        ("group = \"239.1.1.0/24\", port = 1", true),
        ("group = \"239.1.1.0/26\", port = 1", false),
        ("group = \"239.1.1.0/24\", port = 1, local = true", false),
    ] {
        let notes = planned(&rule(input), &facts).notes.join("\n");
        assert_eq!(
            notes.contains("another program"),
            is_noted,
            "{input}: {notes}"
        );
    }
}

#[test]
fn an_ipv6_group_has_its_ethernet_address() {
    let group: IpAddr = "ff3e::8123:4567".parse().unwrap();
    assert_eq!(of_group(group), [0x33, 0x33, 0x81, 0x23, 0x45, 0x67]);
}
