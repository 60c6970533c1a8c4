//! What is different between two documents.

use super::*;

const OLD: &str = r#"
[[rules]]
name = "a"
input = { interface = "in0", group = "239.1.1.1", port = 5001 }
outputs = [
  { interface = "out0", group = "239.2.1.1", port = 5002 },
  { interface = "out0", group = "239.2.1.2", port = 5002, ttl = 8 },
]
[[rules]]
name = "b"
input = { interface = "in0", group = "239.1.1.2", port = 5001 }
outputs = [{ interface = "out0", group = "239.2.2.1", port = 5002 }]
[[interfaces]]
name = "in0"
queues = [0, 1]
"#;

fn of(text: &str) -> Document {
    config::parse("relay.toml", text).unwrap()
}

/// The difference after one replacement in [`OLD`].
fn after(from: &str, to: &str) -> String {
    assert!(OLD.contains(from), "{from}");
    diff(&of(OLD), &of(&OLD.replacen(from, to, 1))).to_string()
}

#[test]
fn order_and_layout_change_nothing() {
    let (head, interfaces) = OLD.split_at(OLD.find("[[interfaces]]").unwrap());
    let (a, b) = head.split_at(head.rfind("[[rules]]").unwrap());
    let turned = format!("{b}\n# a comment\n{interfaces}\n{a}");
    let difference = diff(&of(OLD), &of(&turned));
    assert!(difference.is_empty());
    assert_eq!(difference.to_string(), "nothing changes: 2 rules as before");
    let outputs = "  { interface = \"out0\", group = \"239.2.1.1\", port = 5002 },\n";
    let last = OLD.replacen(outputs, "", 1).replacen(
        "]\n[[rules]]\nname = \"b\"",
        &format!("{outputs}]\n[[rules]]\nname = \"b\""),
        1,
    );
    assert!(diff(&of(OLD), &of(&last)).is_empty());
    assert_eq!(
        after(
            "name = \"in0\"\nqueues",
            "name = \"in0\"\ntransmit = \"auto\"\nqueues"
        ),
        "nothing changes: 2 rules as before"
    );
}

#[test]
fn each_change_of_a_rule_is_named() {
    let cases = [
        ("name = \"a\"", "name = \"a\"\nenabled = false", "disabled"),
        (
            "\"239.1.1.1\"",
            "\"239.1.1.9\"",
            "input 239.1.1.1:5001 on in0 -> 239.1.1.9:5001 on in0",
        ),
        (
            "port = 5001 }",
            "port = 5001, source = \"10.1.1.7\", vlan = 7, join = false, local = true }",
            "input 239.1.1.1:5001 on in0 -> 239.1.1.1:5001 from 10.1.1.7 on in0, VLAN 7\n      \
             join true -> false\n      local false -> true",
        ),
        (
            "port = 5001 }",
            "port = 5001, limit = { packets_per_second = 9, burst = 3 } }",
            "limit none -> 9 per second and 3 at once",
        ),
        (
            ", ttl = 8",
            "",
            "output 239.2.1.2:5002 on out0: ttl 8 -> auto",
        ),
        (
            ", ttl = 8",
            ", ttl = \"decrement\"",
            "output 239.2.1.2:5002 on out0: ttl 8 -> decrement",
        ),
        (
            ", ttl = 8",
            ", ttl = 8, dscp = 46, source = \"keep\", source_port = 7000",
            "output 239.2.1.2:5002 on out0: dscp keep -> 46\n      \
             output 239.2.1.2:5002 on out0: source interface -> keep\n      \
             output 239.2.1.2:5002 on out0: source_port keep -> 7000",
        ),
        (
            ", ttl = 8",
            ", ttl = 8, vlan = 200, pcp = 5",
            "output 239.2.1.2:5002 on out0, VLAN 200 added\n      \
             output 239.2.1.2:5002 on out0 removed",
        ),
        (
            ", ttl = 8 },",
            ", ttl = 8 }, { address = \"10.0.0.9\", mark = 7 }",
            "output 10.0.0.9:5001 added",
        ),
        (
            "\"239.2.1.1\"",
            "\"239.2.1.3\"",
            "output 239.2.1.3:5002 on out0 added\n      output 239.2.1.1:5002 on out0 removed",
        ),
    ];
    for (from, to, change) in cases {
        let expected =
            format!("rules: 0 added, 0 removed, 1 changed, 1 as before\n  ~ a\n      {change}");
        assert_eq!(after(from, to), expected);
    }
}

#[test]
fn sources_that_a_line_does_not_show_are_named() {
    let with = |last: u8| {
        let sources: Vec<String> = (1..=last).map(|n| format!("\"10.1.1.{n}\"")).collect();
        let to = format!("port = 5001, source = [{}] }}", sources.join(", "));
        of(&OLD.replacen("port = 5001 }", &to, 1))
    };
    let more = diff(&with(7), &with(8)).changed;
    let input = |others| {
        format!(
            "239.1.1.1:5001 from 10.1.1.1, 10.1.1.2, 10.1.1.3, 10.1.1.4 and {others} more on in0"
        )
    };
    assert_eq!(more[0].1, [format!("input {} -> {}", input(3), input(4))]);
    let mut other = with(8);
    other.rules.rules[0].input.matches.sources[7] = [10, 1, 1, 9].into();
    let changed = diff(&with(8), &other).changed;
    assert_eq!(
        changed[0].1,
        ["source 10.1.1.9 added", "source 10.1.1.8 removed"]
    );
}

#[test]
fn rules_that_come_and_go_and_options_are_named() {
    let expected = "rules: 1 added, 1 removed, 0 changed, 1 as before\n  + c\n  - b";
    assert_eq!(after("name = \"b\"", "name = \"c\""), expected);
    let expected = "rules: 0 added, 0 removed, 0 changed, 2 as before\n\
                    interface in0\n  queues [0, 1] -> all\n  cpus not pinned -> [3]\n  transmit auto -> xsk\n  offloads keep -> manage";
    let options = "queues = [0, 1]";
    assert_eq!(
        after(
            options,
            "cpus = [3]\ntransmit = \"xsk\"\noffloads = \"manage\""
        ),
        expected
    );
    let expected =
        "rules: 0 added, 0 removed, 0 changed, 2 as before\ninterface in0\n  queues [0, 1] -> all";
    assert_eq!(
        after("[[interfaces]]\nname = \"in0\"\nqueues = [0, 1]\n", ""),
        expected
    );
}

#[test]
fn a_large_difference_fits_a_screen() {
    let rules = vec!["in0 -> out0"; 200];
    let old = document(&rules, "");
    let mut new = old.clone();
    for rule in &mut new.rules.rules {
        rule.name += "-new";
    }
    let shown = diff(&old, &new).to_string();
    assert!(
        shown.starts_with("rules: 200 added, 200 removed, 0 changed, 0 as before\n  + r1-new\n")
    );
    assert!(shown.ends_with("\n  - r20\n  - 180 more"), "{shown}");
    assert_eq!(shown.lines().count(), 43);
}

#[test]
fn what_changes_of_an_output_that_stays_is_named() {
    let with = |keys: &str| {
        let to = format!(
            ", ttl = 8 }}, {{ interface = \"out0\", address = \"10.0.0.9\", vlan = 200{keys} }}"
        );
        of(&OLD.replacen(", ttl = 8 },", &to, 1))
    };
    let old = with(", pcp = 5, mark = 7, source = \"10.0.0.1\"");
    let changes = diff(&old, &with(", source = \"10.0.0.2\"")).changed;
    let output = "output 10.0.0.9:5001 on out0, VLAN 200";
    let expected = [
        format!("{output}: pcp 5 -> kept"),
        format!("{output}: source 10.0.0.1 -> 10.0.0.2"),
        format!("{output}: mark 7 -> none"),
    ];
    assert_eq!(changes[0].1, expected);
}
