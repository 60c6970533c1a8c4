//! What inputs match: prefixes, ranges, sources and VLANs, which outputs go with them, and which
//! inputs and outputs of several rules do not go together.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::config::rules::{GroupPort, Prefix};

/// The one rule with this input and this output.
fn one(input: &str, output: &str) -> Result<rules::Rule, Vec<Mistake>> {
    let input = format!("interface = \"in0\", {input}");
    let output = format!("interface = \"out0\", {output}");
    match parse("x", &rule("a", &input, &[&output])) {
        Ok(document) => Ok(document.rules.rules[0].clone()),
        Err(mistakes) => Err(mistakes.iter().cloned().collect()),
    }
}

/// The mistakes of rules with these inputs on in0, named a, b, ...
fn of_inputs(inputs: &[&str]) -> Vec<String> {
    let rules: String = (b'a'..)
        .zip(inputs)
        .map(|(name, input)| {
            let input = format!("interface = \"in0\", {input}");
            rule(
                &char::from(name).to_string(),
                &input,
                &["interface = \"out0\""],
            )
        })
        .collect();
    match parse("x", &rules) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(|m| m.cause.clone()).collect(),
    }
}

#[test]
fn an_output_keeps_what_it_leaves_out_and_maps_what_is_as_long() {
    const PREFIX: &str = "group = \"239.1.1.0/24\", port = \"5000-5099\"";
    const SIX: &str = "group = \"ff3e::8000:100/120\", port = \"any\", source = \"2001:db8::7\"";
    let cases = [
        (PREFIX, "", "239.1.1.0/24:5000-5099"),
        (PREFIX, "group = \"239.7.7.0/24\"", "239.7.7.0/24:5000-5099"),
        (
            PREFIX,
            "group = \"239.7.7.0/24\", port = \"6000-6099\"",
            "239.7.7.0/24:6000-6099",
        ),
        (PREFIX, "group = \"239.7.7.7\", port = 9", "239.7.7.7:9"),
        (PREFIX, "port = 9", "239.1.1.0/24:9"),
        (SIX, "", "[ff3e::8000:100/120]:any"),
        (SIX, "port = \"any\"", "[ff3e::8000:100/120]:any"),
        (
            SIX,
            "group = \"ff05::700/120\", port = 7",
            "[ff05::700/120]:7",
        ),
        (SIX, "group = \"ff12::7\"", "[ff12::7]:any"),
        ("group = \"239.1.1.1\", port = \"7-7\"", "", "239.1.1.1:7"),
        (
            PREFIX,
            "group = \"ff3e::700/120\"",
            "[ff3e::700/120]:5000-5099",
        ),
        (PREFIX, "address = \"10.7.7.7\"", "10.7.7.7:5000-5099"),
        (SIX, "group = \"239.7.7.0/24\"", "239.7.7.0/24:any"),
        (SIX, "address = \"10.7.7.7\"", "10.7.7.7:any"),
    ];
    for (input, output, expected) in cases {
        let rule = one(input, output).unwrap();
        let output = &rule.outputs[0];
        assert_eq!(GroupPort(output.group, output.port).to_string(), expected);
    }
    let rule = one(PREFIX, "group = \"239.7.7.0/24\", port = \"6000-6099\"").unwrap();
    let (matches, output) = (&rule.input.matches, &rule.outputs[0]);
    let group = output.group.map(&matches.group, [239, 1, 1, 77].into());
    assert_eq!(group, IpAddr::from([239, 7, 7, 77]));
    assert_eq!(output.port.map(matches.ports, 5042), 6042);
    let rule = one(PREFIX, "group = \"ff3e::700/120\"").unwrap();
    let (matches, output) = (&rule.input.matches, &rule.outputs[0]);
    let group = output.group.map(&matches.group, [239, 1, 1, 77].into());
    assert_eq!(group, "ff3e::74d".parse::<IpAddr>().unwrap());
}

#[test]
fn an_output_that_does_not_go_with_its_input_is_told_what_would() {
    const PREFIX: &str = "group = \"239.1.1.0/24\", port = \"5000-5099\"";
    let cases = [
        (
            PREFIX,
            "group = \"239.7.7.0/25\"",
            "`group` \"239.7.7.0/25\" leaves 7 bits for the host part and the input's prefix, \
             239.1.1.0/24, leaves 8",
            "give a prefix of 24 bits, such as \"239.7.7.0/24\"",
        ),
        (
            PREFIX,
            "port = \"6000-6098\"",
            "`port` \"6000-6098\" has 99 ports and the input's \"5000-5099\" has 100",
            "such as \"6000-6099\"",
        ),
        (
            "group = \"239.1.1.1\", port = \"any\"",
            "port = \"1-9\"",
            "`port` \"1-9\" is a range, and the input's port is any",
            "give one port",
        ),
        (
            PREFIX,
            "group = \"ff3e::700/121\"",
            "leaves 7 bits for the host part and the input's prefix, 239.1.1.0/24, leaves 8",
            "give a prefix of 120 bits, such as \"ff3e::700/120\"",
        ),
        (
            "group = \"ff3e::/64\", port = 1, join = false",
            "group = \"239.0.0.0/8\"",
            "leaves 24 bits for the host part and the input's prefix, ff3e::/64, leaves 64",
            "give one group that all copies go to",
        ),
        (
            "group = \"ff3e::/98\", port = 1, join = false",
            "group = \"239.0.0.0/8\"",
            "leaves 24 bits for the host part and the input's prefix, ff3e::/98, leaves 30",
            "give one group that all copies go to",
        ),
    ];
    for (input, output, cause, remedy) in cases {
        let mistakes = one(input, output).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].cause.contains(cause), "{}", mistakes[0]);
        assert!(mistakes[0].remedy.contains(remedy), "{}", mistakes[0]);
    }
    let two = "group = \"10.0.0.0/8\", port = 0";
    let found = one(two, "").unwrap_err();
    assert_eq!(
        found.len(),
        2,
        "a wrong input makes no wrong output: {found:?}"
    );
}

#[test]
fn memberships_are_bounded_unless_the_relay_does_not_join() {
    assert!(one("group = \"239.1.0.0/22\", port = 1", OUT_GROUP).is_ok());
    let sources = "source = [\"10.0.0.1\", \"10.0.0.2\"]";
    let many = format!("group = \"239.1.0.0/22\", port = 1, {sources}");
    let found = one(&many, OUT_GROUP).unwrap_err();
    assert_eq!(
        found[0].cause,
        "rule `a`, input: 239.1.0.0/22 has 1024 groups of 2 sources each, and a rule joins at most 1024"
    );
    assert!(one(&format!("{many}, join = false"), OUT_GROUP).is_ok());
    assert!(one("group = \"239.0.0.0/8\", port = 1, join = false", OUT_GROUP).is_ok());

    let rules = |join: bool, last: u16| -> Result<Document, Mistakes> {
        let rules: String = (0..=last)
            .map(|number| {
                let group = format!("239.{}.{}.0/22", number / 64, number % 64 * 4);
                let input =
                    format!("interface = \"in0\", group = \"{group}\", port = 1, join = {join}");
                rule(&format!("r{number}"), &input, &["interface = \"out0\""])
            })
            .collect();
        parse("x", &rules)
    };
    assert!(rules(true, 255).is_ok());
    assert!(rules(false, 256).is_ok());
    let found = rules(true, 256).unwrap_err().to_string();
    let expected = "the rules up to rule `r256` join more than 262144 groups";
    assert!(found.contains(expected), "{found}");
}

#[test]
fn sources_are_bounded_by_what_the_tables_of_the_kernel_programs_hold() {
    let sources = |list: std::ops::Range<u16>| {
        let all = list.map(|last| format!("\"10.0.{}.{}\"", last / 200, last % 200 + 1));
        format!("[{}]", all.collect::<Vec<_>>().join(", "))
    };
    let all = sources(0..64);
    let rules = |count: usize, more: &str| -> Result<Document, Mistakes> {
        let rules: String = (0..count)
            .map(|number| {
                let group = format!("239.7.{}.{}", number / 250, number % 250);
                let input = format!(
                    "interface = \"in0\", group = \"{group}\", port = 1, source = {all}, join = false"
                );
                rule(&format!("r{number}"), &input, &["interface = \"out0\""])
            })
            .collect();
        parse("x", &(rules + more))
    };
    let exact = |source: &str| {
        let input =
            format!("interface = \"in0\", group = \"239.8.1.1\", port = 1{source}, join = false");
        rule("one", &input, &["interface = \"out0\""])
    };
    assert!(rules(2048, "").is_ok());
    assert!(rules(2048, &exact("")).is_ok(), "that is in another table");
    let expected = "the rules up to rule `one` match by more than 131072 sources";
    let found = rules(2048, &exact(", source = \"10.0.0.1\""))
        .unwrap_err()
        .to_string();
    assert!(found.contains(expected), "{found}");
    // A command adds to what runs.
    let fragment = parse("y", &exact(", source = \"10.0.0.1\"")).unwrap();
    let found = merge(&rules(2048, "").unwrap(), &fragment)
        .unwrap_err()
        .to_string();
    assert!(found.contains(expected), "{found}");
}

const OUT_GROUP: &str = "group = \"239.9.9.9\"";

#[test]
fn equally_specific_inputs_that_overlap_are_refused_and_others_are_not() {
    const S: &str = "source = \"10.1.1.7\"";
    let at = |group: &str, port: &str, more: &str| {
        let comma = if more.is_empty() { "" } else { ", " };
        format!("group = \"{group}\", port = {port}{comma}{more}")
    };
    let fine: &[&[String]] = &[
        &[at("239.1.1.1", "1", ""), at("239.1.1.1", "1", S)],
        &[at("239.1.1.1", "1", ""), at("239.1.1.0/24", "1", "")],
        &[at("239.1.1.1", "1", ""), at("239.1.1.1", "\"1-2\"", "")],
        &[
            at("239.1.1.1", "\"any\"", ""),
            at("239.1.1.1", "\"1-2\"", ""),
        ],
        &[
            at("239.1.1.1", "\"1-2\"", ""),
            at("239.1.1.1", "\"3-4\"", ""),
        ],
        &[at("239.1.1.1", "1", ""), at("239.1.1.1", "1", "vlan = 7")],
        &[
            at("239.1.1.1", "1", "vlan = [7, 7]"),
            at("239.1.1.1", "1", "vlan = 7"),
        ],
        &[at("239.1.1.0/25", "1", ""), at("239.1.1.128/25", "1", "")],
        &[
            at("239.1.1.1", "1", S),
            at("239.1.1.1", "1", "source = \"10.1.1.8\""),
        ],
        &[at("239.1.1.0/24", "\"any\"", S), at("239.1.1.1", "1", "")],
    ];
    for inputs in fine {
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        assert_eq!(of_inputs(&inputs), [""; 0], "{inputs:?}");
    }
    let two = "source = [\"10.1.1.8\", \"10.1.1.7\"]";
    let refused: &[(&[String], &str)] = &[
        (
            &[at("239.1.1.0/24", "1", ""), at("239.1.1.0/24", "1", "")],
            "rule `b` has the same input as rule `a` at line 3, column 9: 239.1.1.0/24:1 on in0",
        ),
        (
            &[
                at("239.1.1.1", "\"1-5\"", ""),
                at("239.1.1.1", "\"5-9\"", ""),
            ],
            "rule `b` is as specific as rule `a` at line 3, column 9, and both take 239.1.1.1:5 on in0",
        ),
        (
            &[at("239.1.1.1", "1", two), at("239.1.1.1", "1", S)],
            "rule `b` is as specific as rule `a` at line 3, column 9, and both take 239.1.1.1:1 from \
             10.1.1.7 on in0",
        ),
        (
            &[
                at("ff3e::/96", "\"any\"", "join = false"),
                at("ff3e::/96", "\"any\"", "join = false"),
            ],
            "rule `b` has the same input as rule `a` at line 3, column 9: [ff3e::/96]:any on in0",
        ),
        (
            &[
                at("239.1.1.1", "1", "vlan = [7, 8]"),
                at("239.1.1.1", "1", "vlan = [7, 8]"),
            ],
            "rule `b` has the same input as rule `a` at line 3, column 9: 239.1.1.1:1 on in0, VLAN [7, 8]",
        ),
        (
            // The second begins first, the third is in both.
            &[
                at("239.1.1.1", "\"50-99\"", ""),
                at("239.1.1.1", "\"1-49\"", ""),
                at("239.1.1.1", "\"40-60\"", ""),
            ],
            "rule `c` is as specific as rule `b` at line 9, column 9, and both take 239.1.1.1:40-49 on in0",
        ),
        (
            // The one between them does not hide the first from the last.
            &[
                at("239.1.1.1", "\"1-99\"", ""),
                at("239.1.1.1", "\"200-300\"", ""),
                at("239.1.1.1", "\"150-199\"", ""),
                at("239.1.1.1", "\"90-120\"", ""),
            ],
            "rule `d` is as specific as rule `a` at line 3, column 9, and both take 239.1.1.1:90-99 on in0",
        ),
    ];
    for (inputs, expected) in refused {
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        assert_eq!(of_inputs(&inputs), [*expected], "{inputs:?}");
    }
}

fn any_match() -> impl Strategy<Value = Match> {
    let ports = prop_oneof![
        (1..9_u16).prop_map(PortMatch::One),
        (1..5_u16, 1..5_u16).prop_map(|(first, more)| PortMatch::Range(first, first + more)),
        Just(PortMatch::Any),
    ];
    let sources = proptest::collection::btree_set(1..4_u8, 0..3);
    let vlan = prop_oneof![Just(Vlan::Untagged), Just(Vlan::Tag(7))];
    (0..8_u8, 0..4_u8, ports, sources, vlan).prop_map(|(last, host, ports, sources, vlan)| Match {
        group: Prefix::around([239, 1, 1, last].into(), 32 - host).unwrap(),
        ports,
        sources: sources
            .into_iter()
            .map(|last| [10, 0, 0, last].into())
            .collect(),
        vlan,
    })
}

proptest! {
    /// Two inputs are refused exactly if some frame has no most specific one.
    #[test]
    fn inputs_are_refused_exactly_where_a_frame_has_no_most_specific_rule(
        first in any_match(), second in any_match()
    ) {
        let takes = |one: &Match, group: u8, port, source: u8, vlan| {
            one.group.contains([239, 1, 1, group].into())
                && one.ports.contains(port)
                && one.takes_source(Some([10, 0, 0, source].into()))
                && one.vlan == vlan
        };
        let mut torn = false;
        for (group, port) in (0..8).flat_map(|group| (1..10).map(move |port| (group, port))) {
            for (source, vlan) in (0..4).flat_map(|s| [(s, Vlan::Untagged), (s, Vlan::Tag(7))]) {
                let both = [&first, &second].iter().all(|m| takes(m, group, port, source, vlan));
                torn |= both && first.specificity() == second.specificity();
            }
        }
        let input = |matches: &Match| rules::Input {
            interface: "in0".into(),
            matches: matches.clone(),
            join: true,
            local: false,
        };
        let (a, b) = (input(&first), input(&second));
        let found = equals::find(&[Some(&a), Some(&b)]);
        prop_assert_eq!(!found.is_empty(), torn, "{} and {}", a, b);
        let common = first.common(&second);
        let equal = first.specificity() == second.specificity();
        prop_assert_eq!(common.is_some() && equal, torn, "{} and {}", a, b);
    }
}
