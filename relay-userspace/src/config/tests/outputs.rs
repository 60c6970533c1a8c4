//! What outputs set in the headers of their copies, and every contradiction.

use std::net::IpAddr;

use super::*;
use crate::config::rules::{Header, Output, OutputVlan, Source};

/// The outputs of a rule whose input has these keys beside its interface.
fn outputs(input: &str, outputs: &[&str]) -> Result<Vec<Output>, Vec<Mistake>> {
    let input = format!("interface = \"in0\", {input}");
    match parse("relay.toml", &rule("a", &input, outputs)) {
        Ok(mut document) => Ok(document.rules.rules.remove(0).outputs),
        Err(mistakes) => Err(mistakes.iter().cloned().collect()),
    }
}

const FOUR: &str = "group = \"239.1.1.1\", port = 5001";
const SIX: &str = "group = \"ff3e::1\", port = 5001";
const TAGGED: &str = "group = \"239.1.1.1\", port = 5001, vlan = 100";
const PREFIX: &str = "group = \"239.1.1.0/24\", port = \"5000-5099\"";

#[test]
fn an_output_sets_what_its_keys_say_and_keeps_the_rest() {
    let one = |input: &str, keys: &str| {
        let output = format!("interface = \"out0\", {keys}");
        outputs(input, &[&output]).unwrap().remove(0)
    };
    let output = one(FOUR, "group = \"239.2.2.2\"");
    assert_eq!(output.source, Source::Interface);
    assert_eq!(output.header, Header::default());
    assert_eq!(output.mark, None);

    let all = "address = \"203.0.113.9\", port = 6000, ttl = 8, dscp = 0x2e, vlan = [100, 200], \
               pcp = 5, source = \"10.9.0.1\", source_port = 7000, mark = 0xffff_ffff";
    let output = one(FOUR, all);
    assert!(output.is_unicast());
    assert_eq!(output.group, [203, 0, 113, 9].into());
    assert_eq!(output.source, Source::Address([10, 9, 0, 1].into()));
    assert_eq!(output.mark, Some(u32::MAX));
    let header = Header {
        ttl: Ttl::Set(8),
        source_port: Some(7000),
        dscp: Some(46),
        vlan: OutputVlan::Double(100, 200),
        pcp: Some(5),
    };
    assert_eq!(output.header, header);
    assert_eq!(
        output.destination().to_string(),
        "203.0.113.9:6000 on out0, VLAN [100, 200]"
    );

    let kept =
        "source = \"keep\", source_port = \"keep\", dscp = \"keep\", vlan = \"keep\", pcp = 0";
    let output = one(TAGGED, kept);
    assert_eq!(output.source, Source::Keep);
    let header = Header {
        vlan: OutputVlan::Keep,
        pcp: Some(0),
        ..Header::default()
    };
    assert_eq!(output.header, header);
    assert_eq!(
        output.destination().to_string(),
        "239.1.1.1:5001 on out0, VLAN kept"
    );
    let output = one(FOUR, "dscp = 0, source = \"interface\"");
    assert_eq!(
        (output.header.dscp, output.source),
        (Some(0), Source::Interface)
    );
}

#[test]
fn an_output_may_be_of_the_other_version_of_ip_and_of_any_interface() {
    for (input, output, group, source) in [
        (
            FOUR,
            "interface = \"out0\", group = \"ff0e::8000:7\"",
            "ff0e::8000:7",
            None,
        ),
        (
            SIX,
            "interface = \"out0\", group = \"239.2.2.2\"",
            "239.2.2.2",
            None,
        ),
        (SIX, "address = \"203.0.113.9\"", "203.0.113.9", None),
        (FOUR, "address = \"2001:db8::9\"", "2001:db8::9", None),
        (
            FOUR,
            "address = \"2001:db8::9\", source = \"2001:db8::1\"",
            "2001:db8::9",
            Some("2001:db8::1"),
        ),
        (
            FOUR,
            "interface = \"out0\", address = \"fe80::9\"",
            "fe80::9",
            None,
        ),
        (PREFIX, "address = \"203.0.113.9\"", "203.0.113.9", None),
    ] {
        let output = outputs(input, &[output]).unwrap().remove(0);
        assert_eq!(
            output.group.one(),
            Some(group.parse().unwrap()),
            "{output:?}"
        );
        let source = source.map(|source: &str| source.parse::<IpAddr>().unwrap());
        let source = source.map_or(Source::Interface, Source::Address);
        assert_eq!(output.source, source, "{output:?}");
    }
    let routed = outputs(PREFIX, &["address = \"203.0.113.9\", mark = 7"]).unwrap();
    assert_eq!(routed[0].interface, None);
    let shown = routed[0].destination().to_string();
    assert_eq!(
        shown, "203.0.113.9:5000-5099",
        "ports are kept as with groups"
    );
}

/// Each is the only mistake in its output, which is the fifth line, and stands behind the third
/// text.
#[test]
fn each_contradiction_is_reported_with_place_cause_and_remedy() {
    const OUT: &str = "interface = \"out0\", ";
    #[rustfmt::skip]
    let cases = [
        (FOUR, "group = \"239.2.2.2\"", "", "output 1 has no `interface`", "add `interface`"),
        (FOUR, "port = 7", "", "output 1 has no `interface`", "add `interface`"),
        (FOUR, "group = \"239.2.2.2\", address = \"10.0.0.9\"", "address = ", "has both `group` and `address`", "leave one out"),
        (FOUR, "address = 7", "address = ", "`address` is an integer; it must be a string", "address = \"203.0.113.9\""),
        (FOUR, "address = \"239.2.2.2\"", "address = ", "`address` \"239.2.2.2\" is a multicast group", "write `group = \"239.2.2.2\"` instead"),
        (FOUR, "address = \"ff0e::1\"", "address = ", "is a multicast group", "write `group = \"ff0e::1\"` instead"),
        (FOUR, "address = \"0.0.0.0\"", "address = ", "is no address", "the address of one host"),
        (FOUR, "address = \"::\"", "address = ", "is no address", "the address of one host"),
        (FOUR, "address = \"127.1.2.3\"", "address = ", "is a loopback address", "`local = true`"),
        (FOUR, "address = \"::1\"", "address = ", "is a loopback address", "`local = true`"),
        (FOUR, "address = \"255.255.255.255\"", "address = ", "is the broadcast address", "`group`"),
        (FOUR, "address = \"fe80::9\"", "address = ", "is a link-local address", "add `interface`"),
        (FOUR, "address = \"fe80::9%out0\"", "address = ", "`address` \"fe80::9%out0\" has a zone in it", "write \"fe80::9\"; `interface` names the link"),
        (FOUR, "address = \"::ffff:10.0.0.9\"", "address = ", "is an IPv4 address in the form of an IPv6 one", "write \"10.0.0.9\""),
        (FOUR, "address = \"10.0.0.0/24\"", "address = ", "is a range of addresses", "one output for each"),
        (FOUR, "address = \"10.0.0.9:5002\"", "address = ", "has a port in it", "a key of its own"),
        (FOUR, "address = \"[2001:db8::9]:5002\"", "address = ", "has a port in it", "a key of its own"),
        (FOUR, "address = \"receiver.example\"", "address = ", "is not an IP address", "looks no names up"),
        (FOUR, "address = \"10.0.0.9\", vlan = 200", "vlan = ", "`vlan` without `interface`", "add `interface`, or leave `vlan` out"),
        (FOUR, "address = \"10.0.0.9\", vlan = \"keep\"", "vlan = ", "`vlan` without `interface`", "add `interface`"),
        (FOUR, "address = \"10.0.0.9\", pcp = 5", "pcp = ", "these copies leave untagged", "add `vlan`"),
        (FOUR, "address = \"10.0.0.9\", mark = -1", "mark = ", "`mark` -1 is out of range", "from 0 to 4294967295"),
        (FOUR, "address = \"10.0.0.9\", mark = \"x\"", "mark = ", "`mark` is a string; it must be an integer", "mark = 100"),
        (FOUR, "OUT mark = 7", "mark = ", "`mark` is for the kernel's policy routing", "leave `mark` out, or give `address`"),
        (FOUR, "OUT group = \"239.2.2.2\", mark = 7", "mark = ", "copies to multicast groups are not routed", "leave `mark` out, or give `address`"),
        (FOUR, "OUT group = \"10.0.0.9\"", "group = ", "`group` \"10.0.0.9\" is not a multicast group", "write `address = \"10.0.0.9\"` instead"),
        (FOUR, "OUT group = \"2001:db8::9\"", "group = ", "is not a multicast group", "write `address = \"2001:db8::9\"` instead"),
        (FOUR, "OUT group = \"ff3e::1\", source = \"keep\"", "source = ", "`source` \"keep\": the input's datagrams have IPv4 sources, and these copies leave over IPv6", "give an IPv6 address"),
        (SIX, "OUT address = \"10.0.0.9\", source = \"keep\"", "source = ", "the input's datagrams have IPv6 sources, and these copies leave over IPv4", "give an IPv4 address"),
        (FOUR, "OUT source = \"2001:db8::1\"", "source = ", "`source` \"2001:db8::1\" is an IPv6 address, and these copies leave over IPv4", "give an IPv4 address"),
        (FOUR, "OUT group = \"ff3e::1\", source = \"10.0.0.1\"", "source = ", "is an IPv4 address, and these copies leave over IPv6", "give an IPv6 address"),
        (FOUR, "OUT source = \"239.1.1.1\"", "source = ", "is no address that a host sends from", "\"keep\" or \"interface\""),
        (FOUR, "OUT source = \"0.0.0.0\"", "source = ", "is no address that a host sends from", "\"keep\" or \"interface\""),
        (FOUR, "OUT source = \"127.0.0.1\"", "source = ", "is no address that a host sends from", "\"keep\" or \"interface\""),
        (FOUR, "OUT source = \"255.255.255.255\"", "source = ", "is no address that a host sends from", "\"keep\" or \"interface\""),
        (SIX, "OUT source = \"::1\"", "source = ", "is no address that a host sends from", "\"keep\" or \"interface\""),
        (SIX, "OUT source = \"fe80::1%out0\"", "source = ", "has a zone in it", "write \"fe80::1\""),
        (FOUR, "OUT source = \"::ffff:10.0.0.1\"", "source = ", "is an IPv4 address in the form of an IPv6 one", "write \"10.0.0.1\""),
        (FOUR, "OUT source = \"10.0.0.0/24\"", "source = ", "is a range of addresses", "one host"),
        (FOUR, "OUT source = \"kep\"", "source = ", "`source` \"kep\" is unknown", "did you mean \"keep\"?"),
        (FOUR, "OUT source = \"sender\"", "source = ", "`source` \"sender\" is unknown", "the default is \"interface\""),
        (FOUR, "OUT source = [\"10.0.0.1\"]", "source = ", "`source` is an array; it must be a string", "source = \"keep\""),
        (FOUR, "OUT source_port = 0", "source_port = ", "`source_port` 0 is out of range", "from 1 to 65535"),
        (FOUR, "OUT source_port = 65536", "source_port = ", "`source_port` 65536 is out of range", "from 1 to 65535"),
        (FOUR, "OUT source_port = \"7000\"", "source_port = ", "`source_port` is a string; it must be an integer or \"keep\"", "source_port = 7000"),
        (FOUR, "OUT source_port = \"any\"", "source_port = ", "`source_port` \"any\" is unknown", "the default is \"keep\""),
        (FOUR, "OUT dscp = 64", "dscp = ", "`dscp` 64 is out of range", "from 0 to 63"),
        (FOUR, "OUT dscp = -1", "dscp = ", "`dscp` -1 is out of range", "from 0 to 63"),
        (FOUR, "OUT dscp = \"ef\"", "dscp = ", "`dscp` \"ef\" is unknown", "from 0 to 63"),
        (FOUR, "OUT dscp = true", "dscp = ", "`dscp` is a boolean; it must be an integer or \"keep\"", "dscp = 46"),
        (FOUR, "OUT vlan = 0", "vlan = ", "`vlan` 0 is a priority tag", "from 1 to 4094"),
        (FOUR, "OUT vlan = 4095", "vlan = ", "`vlan` 4095 is out of range", "from 1 to 4094"),
        (FOUR, "OUT vlan = [100, 4095]", "[100, ", "`vlan` 4095 is out of range", "from 1 to 4094"),
        (FOUR, "OUT vlan = [100]", "vlan = ", "`vlan` is an array of one tag", "`vlan = 100`"),
        (FOUR, "OUT vlan = \"200\"", "vlan = ", "`vlan` is a string; it must be an integer, an array of two, or \"keep\"", "vlan = 200"),
        (FOUR, "OUT vlan = \"keeps\"", "vlan = ", "`vlan` \"keeps\" is unknown", "did you mean \"keep\"?"),
        (FOUR, "OUT vlan = \"none\"", "vlan = ", "`vlan` \"none\" is unknown", "without `vlan` copies leave untagged"),
        (FOUR, "OUT vlan = 1.5", "vlan = ", "`vlan` is a float", "vlan = 200"),
        (FOUR, "OUT vlan = 200, pcp = 8", "pcp = ", "`pcp` 8 is out of range", "from 0 to 7"),
        (FOUR, "OUT pcp = 5", "pcp = ", "`pcp` is the priority in a VLAN tag, and these copies leave untagged", "add `vlan`"),
        (FOUR, "OUT vlan = \"keep\", pcp = 5", "pcp = ", "the input's datagrams have none to keep", "add `vlan`"),
        (FOUR, "OUT vlan = 200, pcp = \"keep\"", "pcp = ", "`pcp` is a string", "pcp = 5"),
        (FOUR, "OUT tos = 184", "\"out0\", ", "output 1 has the unknown key `tos`", "`dscp` of an output"),
        (FOUR, "OUT adress = \"10.0.0.9\"", "\"out0\", ", "unknown key `adress`", "did you mean `address`?"),
    ];
    for (input, output, behind, cause, remedy) in cases {
        let output = output.replacen("OUT ", OUT, 1);
        let found = outputs(input, &[&output]).expect_err(&output);
        assert_eq!(found.len(), 1, "{output}: {found:#?}");
        let shown = found[0].to_string();
        assert!(found[0].cause.contains(cause), "{output}:\n{shown}");
        assert!(found[0].remedy.contains(remedy), "{output}:\n{shown}");
        let column = match behind {
            "" => 1,
            behind => 3 + output.find(behind).unwrap() + behind.len(),
        };
        assert!(
            shown.starts_with(&format!("relay.toml:5:{column}: ")),
            "{output}:\n{shown}"
        );
    }
    let input = "group = \"239.1.1.1\", port = 5001, dscp = 46";
    let found = outputs(input, &["interface = \"out0\""]).unwrap_err();
    assert!(found[0].remedy.contains("an output sets it"), "{found:?}");
}

#[test]
fn the_vlan_belongs_to_where_copies_go() {
    const OUT: &str = "interface = \"out0\", group = \"239.2.2.2\", port = 5002";
    let on = |vlan: &str| format!("{OUT}, vlan = {vlan}");
    let two = |first: &str, second: &str| outputs(TAGGED, &[first, second]);
    assert!(two(OUT, &on("200")).is_ok());
    assert!(two(&on("100"), &on("200")).is_ok());
    assert!(two(&on("200"), &on("[200, 200]")).is_ok());
    assert!(two(&on("\"keep\""), &on("200")).is_ok());
    let address = "address = \"10.0.0.9\"";
    assert!(two(address, &format!("interface = \"out0\", {address}")).is_ok());
    for (first, second, both) in [
        (on("200"), on("200"), "239.2.2.2:5002 on out0, VLAN 200"),
        (
            on("\"keep\""),
            on("100"),
            "239.2.2.2:5002 on out0, VLAN 100",
        ),
        (
            on("200"),
            format!("{}, dscp = 1, pcp = 1", on("200")),
            "VLAN 200",
        ),
        (
            address.to_owned(),
            format!("{address}, mark = 7"),
            "10.0.0.9:5001",
        ),
    ] {
        let found = two(&first, &second).unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        let cause = format!("{both}; the first is at line 5, column 1");
        assert!(found[0].cause.contains(&cause), "{}", found[0]);
        assert!(
            found[0]
                .remedy
                .contains("another group, port, VLAN or interface")
        );
    }
}
