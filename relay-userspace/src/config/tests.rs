//! Every mistake with its place, and the rules that a correct file becomes.

mod fed;
mod matched;
mod merged;
mod outputs;
mod own_address;
mod written;

use std::{fmt::Write as _, net::Ipv4Addr};

use super::{
    rules::{InterfaceOptions, Match, Offloads, PortMatch, Transmit, Ttl, Vlan},
    *,
};

const GOOD: &str = r#"[[rules]]
name = "feed-a"
input = { interface = "in0", group = "239.1.1.1", port = 5001 }
outputs = [
  { interface = "out0", group = "239.2.2.2", port = 5002 },
  { interface = "out0", group = "239.3.3.3", port = 0x138b, ttl = 8 },
  { interface = "in0", group = "239.3.3.3", port = 5_004, ttl = "decrement" },
]

[[interfaces]]
name = "in0"
queues = [3, 1]
cpus = [7, 2]
transmit = "segmented"
offloads = "manage"
"#;

fn mistakes(text: &str) -> Vec<Mistake> {
    match parse("relay.toml", text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(mistakes) => mistakes.iter().cloned().collect(),
    }
}

/// A `[[rules]]` table; `input` and `outputs` are the insides of the inline tables.
fn rule(name: &str, input: &str, outputs: &[&str]) -> String {
    let mut text = format!("[[rules]]\nname = \"{name}\"\ninput = {{ {input} }}\noutputs = [\n");
    for output in outputs {
        writeln!(text, "{{ {output} }},").unwrap();
    }
    text + "]\n"
}

fn at(interface: &str, group: &str, port: u32) -> String {
    format!("interface = \"{interface}\", group = \"{group}\", port = {port}")
}

#[test]
fn a_correct_file_becomes_rules_with_their_places() {
    let document = parse("relay.toml", GOOD).unwrap();
    let rule = &document.rules.rules[0];
    assert_eq!(rule.name, "feed-a");
    assert_eq!(rule.input.interface, "in0");
    let matches = Match {
        group: [239, 1, 1, 1].into(),
        ports: PortMatch::One(5001),
        sources: Vec::new(),
        vlan: Vlan::Untagged,
    };
    assert_eq!(rule.input.matches, matches);
    assert!(rule.input.join && !rule.input.local);
    let outputs: Vec<_> = rule
        .outputs
        .iter()
        .map(|o| (o.interface.as_deref(), o.port, o.header.ttl))
        .collect();
    assert_eq!(
        outputs,
        [
            (Some("out0"), PortMatch::One(5002), Ttl::Auto),
            (Some("out0"), PortMatch::One(5003), Ttl::Set(8)),
            (Some("in0"), PortMatch::One(5004), Ttl::Decrement)
        ]
    );
    let options = InterfaceOptions {
        name: "in0".into(),
        queues: Some(vec![1, 3]),
        cpus: Some(vec![7, 2]),
        transmit: Transmit::Segmented,
        offloads: Offloads::Manage,
    };
    assert_eq!(document.rules.interfaces, [options]);

    let places = &document.places.rules[0];
    let place = |line, column| Place { line, column };
    assert_eq!(places.rule, place(1, 1));
    assert_eq!(places.input, place(3, 9));
    assert_eq!(places.input_interface, place(3, 23));
    assert_eq!(places.outputs[1].output, place(6, 3));
    assert_eq!(places.outputs[1].interface, place(6, 17));
    let places = &document.places.interfaces[0];
    assert_eq!(places.name, place(11, 8));
    assert_eq!(
        places.queues,
        [place(12, 14), place(12, 11)],
        "in the order of the queues"
    );
    assert_eq!(places.cpus, [place(13, 9), place(13, 12)]);
    assert_eq!(places.transmit, Some(place(14, 12)));
    assert_eq!(places.offloads, Some(place(15, 12)));
}

/// One change to [`GOOD`], and the only mistake it makes.
#[test]
fn each_mistake_is_reported_with_place_cause_and_remedy() {
    #[rustfmt::skip]
    let cases = [
        ("port = 5001", "port = 0", "3:58", "rule `feed-a`, input: `port` 0 is out of range", "from 1 to 65535"),
        ("port = 5001", "port = 65536", "3:58", "`port` 65536 is out of range", "from 1 to 65535"),
        ("port = 5001", "port = -1", "3:58", "`port` -1 is out of range", "from 1 to 65535"),
        ("port = 5001", "port = 99999999999999999999", "3:58", "is out of range", "from 1 to 65535"),
        ("port = 5001", "port = \"5001\"", "3:58", "`port` is a string; it must be an integer", "`port = 5001`"),
        ("port = 5001", "port = 1.5", "3:58", "`port` is a float; it must be an integer or a string", "`port = 5001`"),
        ("port = 5001", "port = \"5100-5000\"", "3:58", "`port` \"5100-5000\" ends before it begins", "write \"5000-5100\""),
        ("port = 5001", "port = \"0-5000\"", "3:58", "`port` \"0-5000\" is out of range", "from 1 to 65535"),
        ("port = 5001", "port = \"5000-70000\"", "3:58", "is out of range", "\"5000-5099\""),
        ("port = 5001", "port = \"http\"", "3:58", "`port` \"http\" is unknown", "or \"any\""),
        ("port = 5001", "port = \"ayn\"", "3:58", "`port` \"ayn\" is unknown", "did you mean \"any\"?"),
        (", port = 5001", "", "3:9", "rule `feed-a`, input has no `port`", "add `port`"),
        ("port = 5001", "prot = 1, port = 5001", "3:51", "unknown key `prot`", "did you mean `port`?"),
        ("port = 5001", "tag = 1, port = 5001", "3:51", "unknown key `tag`", "`interface`, `group`, `address`, `port`, `source`, `vlan`, `join`, `local`, `limit`"),
        ("port = 5001", "sources = 1, port = 5001", "3:51", "unknown key `sources`", "did you mean `source`?"),
        ("port = 5001", "vlan = 0, port = 5001", "3:58", "`vlan` 0 is a priority tag", "leave `vlan` out"),
        ("port = 5001", "vlan = 4095, port = 5001", "3:58", "`vlan` 4095 is out of range", "from 1 to 4094"),
        ("port = 5001", "vlan = \"100\", port = 5001", "3:58", "`vlan` is a string; it must be an integer, or an array of two", "`vlan = 100`"),
        ("port = 5001", "vlan = [100], port = 5001", "3:58", "`vlan` is an array of one tag", "`vlan = [100, 200]`"),
        ("port = 5001", "vlan = [1, 2, 3], port = 5001", "3:58", "`vlan` is an array of 3 tags", "`vlan = 100`"),
        ("port = 5001", "vlan = [1, 0], port = 5001", "3:62", "`vlan` 0 is a priority tag", "1 to 4094"),
        ("port = 5001", "join = 1, port = 5001", "3:58", "`join` is an integer; it must be true or false", "`join = false`"),
        ("port = 5001", "local = \"yes\", port = 5001", "3:59", "`local` is a string; it must be true or false", "`local = false`"),
        ("port = 5001", "source = 7, port = 5001", "3:60", "`source` is an integer; it must be an address, or an array", "`source = \"10.1.1.7\"`"),
        ("port = 5001", "source = [], port = 5001", "3:60", "`source` is empty", "any source"),
        ("port = 5001", "source = [7], port = 5001", "3:61", "`source` is an integer; it must be a string", "10.1.1.7"),
        ("port = 5001", "source = \"10.1.1\", port = 5001", "3:60", "`source` \"10.1.1\" is not an IP address", "10.1.1.7"),
        ("port = 5001", "source = \"10.1.1.0/24\", port = 5001", "3:60", "`source` \"10.1.1.0/24\" is a range of addresses", "one by one"),
        ("port = 5001", "source = \"239.1.1.1\", port = 5001", "3:60", "is no address that a host sends from", "the sender has"),
        ("port = 5001", "source = \"127.0.0.1\", port = 5001", "3:60", "is no address that a host sends from", "the sender has"),
        ("port = 5001", "source = \"2001:db8::7\", port = 5001", "3:60", "is not of the IP version of `group`", "IPv4 source for an IPv4 group"),
        ("port = 5001", "source = [\"10.1.1.7\", \"10.1.1.8\", \"10.1.1.7\"], port = 5001", "3:85", "`source` lists 10.1.1.7 twice; first at line 3, column 61", "once"),
        ("port = 5001", "port = 5001, ttl = 3", "3:64", "input has the unknown key `ttl`", "the keys here"),
        ("\"239.1.1.1\"", "\"10.0.0.1\"", "3:38", "is not a multicast group", "224.0.1.0 to 239.255.255.255"),
        ("\"239.1.1.1\"", "\"224.0.0.251\"", "3:38", "link-local control group", "224.0.1.0"),
        ("\"239.1.1.1\"", "\"ff02::1\"", "3:38", "link-local control group (ff02::/16)", "ff3e::8000:1"),
        ("\"239.1.1.1\"", "\"ff01::1\"", "3:38", "does not leave its own host", "ff3e::8000:1"),
        ("\"239.1.1.1\"", "\"ff00::/8\"", "3:38", "has groups of several scopes in it", "at least 16 bits"),
        ("\"239.1.1.1\"", "\"2001:db8::1\"", "3:38", "is not a multicast group", "goes into `address`"),
        ("\"239.1.1.1\"", "\"239.1.1.1:5001\"", "3:38", "has a port in it", "`port`"),
        ("\"239.1.1.1\"", "\"239.1.1.1-239.1.1.9\"", "3:38", "is a range that is written with its ends", "\"239.1.1.0/24\""),
        ("\"239.1.1.1\"", "\"239.1.1.7/24\"", "3:38", "has bits behind its first 24", "write \"239.1.1.0/24\" for the prefix, or \"239.1.1.7\" for the one group"),
        ("\"239.1.1.1\"", "\"239.1.1.0/33\"", "3:38", "has a wrong length", "from 0 to 32"),
        ("\"239.1.1.1\"", "\"239.1.1.0/x\"", "3:38", "has a wrong length", "from 0 to 32"),
        ("\"239.1.1.1\"", "\"239.1.1/24\"", "3:38", "is not a prefix of groups", "\"239.1.1.0/24\""),
        ("\"239.1.1.1\"", "\"224.0.0.0/3\"", "3:38", "has other addresses than multicast groups in it", "longer prefix"),
        ("\"239.1.1.1\"", "\"224.0.0.0/16\"", "3:38", "has the link-local control groups (224.0.0.0/24) in it", "longer prefix"),
        ("\"239.1.1.1\"", "\"10.0.0.0/8\"", "3:38", "is not a multicast group", "224.0.1.0 to 239.255.255.255"),
        ("\"239.1.1.1\"", "\"239.0.0.0/16\"", "3:38", "239.0.0.0/16 has 65536 groups, and a rule joins at most 1024", "`join = false`"),
        ("\"239.1.1.1\"", "\"239.1.1\"", "3:38", "is not an IP address", "239.1.1.1"),
        ("\"239.2.2.2\"", "\"239.2.2.0/24\"", "5:33", "`group` \"239.2.2.0/24\" is a prefix, and the input has one group", "give one group"),
        ("port = 5002", "port = \"5000-5001\"", "5:53", "output 1: `port` \"5000-5001\" is a range, and the input's port is 5001", "give one port"),
        ("port = 5002", "port = \"any\"", "5:53", "`port` \"any\" does not go with the input's port 5001", "leave `port` out"),
        ("\"239.2.2.2\"", "\"10.0.0.1\"", "5:33", "`group` \"10.0.0.1\" is not a multicast group", "write `address = \"10.0.0.1\"` instead"),
        ("ttl = 8", "ttl = 0", "6:67", "rule `feed-a`, output 2: `ttl` 0 is out of range", "from 1 to 255"),
        ("ttl = 8", "ttl = 256", "6:67", "`ttl` 256 is out of range", "from 1 to 255"),
        ("ttl = 8", "ttl = \"inherit\"", "6:67", "`ttl` \"inherit\" is unknown", "\"decrement\""),
        ("ttl = 8", "ttl = true", "6:67", "`ttl` is a boolean", "ttl = 64"),
        ("ttl = 8", "tll = 8", "6:61", "output 2 has the unknown key `tll`", "did you mean `ttl`?"),
        ("name = \"feed-a\"\n", "", "1:1", "rule 1 has no `name`", "add `name`"),
        ("name = \"feed-a\"", "name = \" \"", "2:8", "rule 1: `name` is empty", "feed-a"),
        ("name = \"feed-a\"", "nam = \"feed-a\"\nname = \"x\"", "2:1", "unknown key `nam`", "did you mean `name`?"),
        ("\"out0\", group = \"239.2", "\"\", group = \"239.2", "5:17", "`interface` \"\" is empty", "ip link show"),
        ("\"out0\", group = \"239.2", "\"a234567890123456\", group = \"239.2", "5:17", "longer than 15 bytes", "ip link"),
        ("\"out0\", group = \"239.2", "\"out/0\", group = \"239.2", "5:17", "has a `/` or `:`", "ip link"),
        ("\"out0\", group = \"239.2", "\"out 0\", group = \"239.2", "5:17", "has white space", "ip link"),
        ("\"out0\", group = \"239.2", "\"..\", group = \"239.2", "5:17", "cannot be the name", "ip link"),
        ("\"239.3.3.3\", port = 0x138b", "\"239.2.2.2\", port = 5002", "6:3", "two outputs go to 239.2.2.2:5002 on out0; the first is at line 5, column 3", "remove one"),
        ("\"239.3.3.3\", port = 5_004", "\"239.1.1.1\", port = 5001", "7:3", "output 3: it feeds the rule's own input", "another group"),
        ("queues = [3, 1]", "queues = []", "12:10", "`queues` is empty", "all queues are used"),
        ("queues = [3, 1]", "queues = [3, 1, 3]", "12:17", "`queues` lists 3 twice; first at line 12, column 11", "once"),
        ("queues = [3, 1]", "queues = 2", "12:10", "`queues` is an integer", "[0, 1]"),
        ("queues = [3, 1]", "queues = [\"1\"]", "12:11", "`queues` is a string", "[0, 1]"),
        ("queues = [3, 1]", "queue = [3, 1]", "12:1", "unknown key `queue`", "did you mean `queues`?"),
        ("cpus = [7, 2]", "cpus = [7, 7]", "13:12", "`cpus` lists 7 twice", "once"),
        ("\"segmented\"", "\"fast\"", "14:12", "interface `in0`: `transmit` \"fast\" is unknown", "\"auto\", \"xsk\" or \"segmented\""),
        ("\"segmented\"", "1", "14:12", "`transmit` is an integer; it must be a string", "transmit = \"auto\""),
        ("cpus = [7, 2]", "cpus = []", "13:8", "`cpus` is empty", "not pinned"),
        ("\"manage\"", "\"off\"", "15:12", "interface `in0`: `offloads` \"off\" is unknown", "\"manage\""),
        ("\"manage\"", "true", "15:12", "`offloads` is a boolean; it must be a string", "`offloads = \"manage\"`"),
        ("[[interfaces]]\nname = \"in0\"", "[[interfaces]]\nname = \"im0\"", "11:8", "no rule uses the interface `im0`", "did you mean `in0`?"),
        ("[[interfaces]]", "[[interfaces]]\nname = \"in0\"\n[[interfaces]]", "13:8", "two [[interfaces]] tables; the first is at line 11, column 8", "one table"),
        ("[[interfaces]]", "[[interface]]", "10:3", "unknown key `interface`", "did you mean `interfaces`?"),
        ("[[interfaces]]", "[interfaces]", "10:1", "`interfaces` is a table", "[[interfaces]]"),
        ("[[rules]]", "[rules]", "1:1", "`rules` is a table, not an array", "[[rules]]"),
        ("[[rules]]", "[[rules]]\n[[rules]]", "1:1", "rule 1 has no `", "add"),
        ("name = \"feed-a\"", "name = feed-a", "2:8", "wrong TOML syntax", "correct the syntax"),
        ("name = \"feed-a\"", "name = \"a\"\nname = \"b\"", "3:1", "wrong TOML syntax", "correct the syntax"),
    ];
    for (from, to, place, cause, remedy) in cases {
        assert!(GOOD.contains(from), "{from}");
        let found = mistakes(&GOOD.replacen(from, to, 1));
        let first = &found[0];
        let shown = first.to_string();
        assert!(
            shown.starts_with(&format!("relay.toml:{place}: ")),
            "{from} -> {to}:\n{shown}"
        );
        assert!(first.cause.contains(cause), "{from} -> {to}:\n{shown}");
        assert!(first.remedy.contains(remedy), "{from} -> {to}:\n{shown}");
        if !cause.contains("syntax") && !cause.contains("rule 1 has no `") {
            assert_eq!(found.len(), 1, "{from} -> {to}: {found:#?}");
        }
    }
}

#[test]
fn one_wrong_type_hides_no_other_mistake() {
    let text = r#"
[[rules]]
name = 3
input = { interface = "in0", group = 5, port = 5001 }
outputs = []
[[rules]]
name = "b"
input = { interface = "in0", group = "239.1.1.2", port = 0 }
outputs = [{ interface = "out0", group = "10.1.1.1", port = "x", ttl = 0 }, 7]
extra = true
[[rules]]
outputs = "none"
[[interfaces]]
nme = "in0"
queues = [0, 0, true]
"#;
    let found = mistakes(text);
    let lines: Vec<usize> = found.iter().filter_map(|m| Some(m.place?.line)).collect();
    assert_eq!(
        lines,
        [3, 4, 5, 8, 9, 9, 9, 9, 10, 11, 11, 12, 13, 14, 15, 15],
        "{found:#?}"
    );
    let sorted = found.is_sorted_by_key(|m| m.place);
    assert!(sorted, "in the file's order");
}

#[test]
fn several_syntax_errors_are_reported_together() {
    let found = mistakes("[[rules]]\nname = \nport = 5 5\n");
    assert!(found.len() >= 2, "{found:#?}");
}

#[test]
fn an_empty_file_is_refused() {
    for text in ["", "# nothing\n"] {
        let found = mistakes(text);
        assert_eq!(found[0].cause, "the file has no rules", "{text}");
    }
}

#[test]
fn a_file_without_rules_must_say_so() {
    let none = parse("relay.toml", "# none now\nrules = []\n").unwrap();
    assert!(none.rules.rules.is_empty());
    let one = rule(
        "a",
        &at("in0", "239.1.1.1", 5001),
        &[&at("out0", "239.2.2.2", 1)],
    );
    let found = mistakes(&format!("rules = []\n{one}"));
    let causes: Vec<&str> = found.iter().map(|one| one.cause.as_str()).collect();
    assert_eq!(causes, ["`rules` is empty, and the file has rules"]);
    assert_eq!(found[0].place, Some(Place { line: 1, column: 9 }));
}

#[test]
fn duplicate_names_and_inputs_point_at_both_places() {
    let input = at("in0", "239.1.1.1", 5001);
    let text = rule("a", &input, &[&at("out0", "239.2.2.2", 1)])
        + &rule("a", &input, &[&at("out0", "239.2.2.3", 1)]);
    let found = mistakes(&text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(found[0].place, Some(Place { line: 8, column: 8 }));
    assert!(
        found[0].cause.contains("a rule at line 2, column 8 has it"),
        "{}",
        found[0]
    );
    assert_eq!(found[1].place, Some(Place { line: 9, column: 9 }));
    assert!(
        found[1]
            .cause
            .contains("the same input as rule `a` at line 3, column 9"),
        "{}",
        found[1]
    );
}

#[test]
fn the_same_group_on_another_interface_or_port_is_another_input() {
    let text = rule(
        "a",
        &at("in0", "239.1.1.1", 1),
        &[&at("out0", "239.1.1.1", 1)],
    ) + &rule(
        "b",
        &at("in1", "239.1.1.1", 1),
        &[&at("out0", "239.1.1.1", 1)],
    ) + &rule(
        "c",
        &at("in0", "239.1.1.1", 2),
        &[&at("out0", "239.1.1.1", 1)],
    );
    assert_eq!(parse("x", &text).unwrap().rules.rules.len(), 3);
}

#[test]
fn a_cycle_names_its_rules_and_a_chain_is_accepted() {
    let hop = |n: u8| at(&format!("if{n}"), &format!("239.0.1.{n}"), 5000);
    let chain = rule("entry", &hop(9), &[&hop(1)])
        + &rule("a", &hop(1), &[&hop(7), &hop(2)])
        + &rule("b", &hop(2), &[&hop(3)]);
    parse("x", &chain).unwrap();
    let found = mistakes(&(chain + &rule("c", &hop(3), &[&hop(8), &hop(1)])));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        found[0].cause,
        "rules feed one another in a circle: rule `a` -> rule `b` -> rule `c` -> rule `a`; this \
         output closes it"
    );
    assert_eq!(
        found[0].place,
        Some(Place {
            line: 25,
            column: 1
        })
    );
}

#[test]
fn a_long_cycle_is_found_without_recursion_and_abridged() {
    let hop = |n: u32| at("if0", &Ipv4Addr::from(0xef01_0000 + n).to_string(), 5000);
    let count = 20_000;
    let mut text = String::new();
    for n in 0..count {
        text += &rule(&format!("r{n}"), &hop(n), &[&hop((n + 1) % count)]);
    }
    let found = mistakes(&text);
    assert_eq!(found.len(), 1);
    assert!(
        found[0]
            .cause
            .contains("rule `r11` -> 19988 more -> rule `r0`"),
        "{}",
        found[0]
    );
}

#[test]
fn the_numbers_of_rules_and_outputs_are_bounded() {
    let found = mistakes(&"[[rules]]\n".repeat(MAX_RULES + 1));
    let cause = format!(
        "the file has {} rules; {MAX_RULES} are possible",
        MAX_RULES + 1
    );
    assert!(found.iter().any(|m| m.cause == cause));

    let outputs: Vec<String> = (0..=MAX_OUTPUTS as u32)
        .map(|n| at("out0", "239.2.2.2", n + 1))
        .collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let input = at("in0", "239.1.1.1", 5001);
    let found = mistakes(&rule("a", &input, &outputs));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        found[0].cause,
        "rule `a` has 1025 outputs; 1024 are possible"
    );
    parse("x", &rule("a", &input, &outputs[1..])).unwrap();
}

#[test]
fn tables_of_a_rule_may_be_written_out_behind_it() {
    let text = "[[interfaces]]\nname = \"in0\"\n\n[[rules]]\nname = \"a\" # the first\n\
                [rules.input]\ninterface = \"in0\"\ngroup = \"239.1.1.1\"\nport = 5001\n\
                [[rules.outputs]]\ninterface = \"out0\"\ngroup = \"239.2.2.2\"\nport = 5002\n\
                [[rules.outputs]]\ninterface = \"out0\"\ngroup = \"239.2.2.3\"\nport = 5003\n";
    let document = parse("x", text).unwrap();
    assert_eq!(document.rules.rules[0].outputs.len(), 2);
    let place = document.places.rules[0].outputs[1].output;
    assert_eq!((place.line, place.column), (14, 1));

    let stray = text.replacen(
        "[rules.input]",
        "[[interfaces]]\nname = \"out0\"\n[rules.input]",
        1,
    );
    let said: Vec<String> = mistakes(&stray).iter().map(ToString::to_string).collect();
    let part = "a table of `rules` stands behind a table of another kind";
    assert!(
        said.iter().any(|mistake| mistake.contains(part)),
        "{said:?}"
    );
}

#[test]
fn a_header_in_the_singular_and_a_key_of_other_programs_are_understood() {
    let found = mistakes(&GOOD.replace("[[rules]]", "[[rule]]"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].cause, "the file has the unknown key `rule`");
    assert_eq!(found[0].remedy, "did you mean `rules`?");

    let found = mistakes(&GOOD.replace("ttl = 8", "tos = 8"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].remedy.contains("DSCP"), "{}", found[0]);
}

#[test]
fn a_screenful_of_mistakes_is_shown_and_the_others_are_counted() {
    let rules = |count: usize| {
        let rule = "[[rules]]\nname = 1\ninput = 1\noutputs = 1\n";
        parse("x", &rule.repeat(count)).unwrap_err().to_string()
    };
    let said = rules(6);
    assert!(said.ends_with("\n18 mistakes"), "{said}");
    let said = rules(10);
    assert!(said.ends_with("\nand 10 more\n30 mistakes"), "{said}");
    assert_eq!(said.lines().count(), 42);
    let said = rules(1000);
    let end = "\nand 980 more\n1000 mistakes or more: the rest of the file was not read";
    assert!(said.ends_with(end), "{said}");
}

#[test]
fn a_long_value_is_quoted_in_part() {
    let long = "x".repeat(300);
    let found = mistakes(&GOOD.replacen("239.1.1.1", &long, 1));
    let quoted = format!("`group` \"{}... (300 bytes)\" is not", "x".repeat(60));
    assert!(found[0].cause.contains(&quoted), "{}", found[0]);
    let found = mistakes(&GOOD.replacen("feed-a", &long, 1));
    assert_eq!(found[0].cause, "rule 1: `name` is longer than 255 bytes");
}

#[test]
fn a_rule_name_fits_on_a_line_of_a_log() {
    let found = mistakes(&GOOD.replacen("\"feed-a\"", "\"a\\nb\"", 1));
    assert_eq!(
        found[0].cause,
        "rule 1: `name` has a control character in it"
    );
}

#[test]
fn escapes_in_names_cannot_reach_the_terminal() {
    let text = GOOD
        .replacen("\"feed-a\"", "\"\\u001b[2J\"", 1)
        .replacen("5001", "0", 1);
    let shown = mistakes(&text)[0].to_string();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn files_that_cannot_be_read_are_told_from_files_with_mistakes() {
    let missing = load(Path::new("/nonexistent/relay.toml")).unwrap_err();
    assert!(missing.is_unreadable());
    assert!(
        missing
            .to_string()
            .starts_with("/nonexistent/relay.toml: the rule file cannot be read")
    );

    let folder = std::env::temp_dir().join(format!("relay-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    assert!(load(&folder).unwrap_err().is_unreadable(), "a folder");
    // Nobody writes to it, and the relay must not wait for that.
    let pipe = folder.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [&folder, &pipe] {
        assert!(load_at_once(path).unwrap_err().is_unreadable());
    }
    let path = folder.join("relay.toml");
    std::fs::write(&path, b"# fine\nname = \"\xff\"\n").unwrap();
    let found = load(&path).unwrap_err();
    assert!(!found.is_unreadable());
    assert!(
        found.to_string().contains(":2:9: the file is not UTF-8"),
        "{found}"
    );
    File::create(&path)
        .unwrap()
        .set_len(MAX_FILE_BYTES + 1)
        .unwrap();
    assert!(
        load(&path)
            .unwrap_err()
            .to_string()
            .contains("larger than 16 MiB")
    );
    std::fs::write(&path, GOOD).unwrap();
    assert_eq!(load(&path).unwrap().rules.rules.len(), 1);
    std::fs::remove_dir_all(&folder).unwrap();
}
