//! Inputs that are an address of this host.

use std::net::IpAddr;

use super::*;
use crate::config::rules::Prefix;

/// A rule with these keys of its input behind `interface`, which begin in line 3, column 30.
fn with(input: &str, output: &str) -> String {
    format!(
        "[[rules]]\nname = \"a\"\ninput = {{ interface = \"in0\", {input} }}\noutputs = [\n  \
         {{ interface = \"out0\", {output} }},\n]\n"
    )
}

#[test]
fn an_address_is_a_prefix_of_one_and_nothing_is_joined() {
    for address in ["10.1.1.2", "2001:db8::2", "fe80::2", "255.255.255.254"] {
        let text = with(
            &format!("address = \"{address}\", port = \"5001-5002\", local = true"),
            "group = \"239.2.2.2\"",
        );
        let text = match address.contains(':') {
            true => text.replace("239.2.2.2", "ff3e::2"),
            false => text,
        };
        let document = parse("relay.toml", &text).unwrap();
        let rule = &document.rules.rules[0];
        let matches = &rule.input.matches;
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(matches.group, Prefix::from(address));
        assert!(matches.is_unicast() && rule.input.local && !rule.input.join);
        assert_eq!(rule.outputs[0].port, matches.ports);
    }
}

#[test]
#[rustfmt::skip]
fn what_no_datagram_to_this_host_has_is_a_mistake_with_place_cause_and_remedy() {
    const OUT: &str = "group = \"239.2.2.2\"";
    for (input, output, place, cause, remedy) in [
        ("address = \"239.1.1.1\", port = 1", OUT, "3:40", "rule `a`, input: `address` \"239.1.1.1\" is a multicast group", "write `group = \"239.1.1.1\"` instead"),
        ("address = \"ff3e::1\", port = 1", OUT, "3:40", "is a multicast group", "`group = \"ff3e::1\"`"),
        ("address = \"127.0.0.1\", port = 1", OUT, "3:40", "is a loopback address", "an address of this host"),
        ("address = \"::1\", port = 1", OUT, "3:40", "is a loopback address", "an address of this host"),
        ("address = \"0.0.0.0\", port = 1", OUT, "3:40", "is no address of a host", "such as \"10.1.1.2\""),
        ("address = \"::\", port = 1", OUT, "3:40", "is no address of a host", "such as \"10.1.1.2\""),
        ("address = \"255.255.255.255\", port = 1", OUT, "3:40", "is the broadcast address", "an address of this host"),
        ("address = \"::ffff:10.1.1.2\", port = 1", OUT, "3:40", "is an IPv4 address in the form of an IPv6 one", "write \"10.1.1.2\""),
        ("address = \"10.1.1.0/24\", port = 1", OUT, "3:40", "is a range of addresses", "write \"10.1.1.0\""),
        ("address = \"10.1.1.2:5001\", port = 1", OUT, "3:40", "has a port in it", "`port`"),
        ("address = \"fe80::2%in0\", port = 1", OUT, "3:40", "has a zone in it", "`interface` names the link"),
        ("address = \"relay.example\", port = 1", OUT, "3:40", "is not an IP address", "such as \"10.1.1.2\""),
        ("address = 10, port = 1", OUT, "3:40", "`address` is an integer; it must be a string", "`address = \"10.1.1.2\"`"),
        ("group = \"239.1.1.1\", address = \"10.1.1.2\", port = 1", OUT, "3:61", "rule `a`, input has both `group` and `address`", "leave one out"),
        ("port = 1", OUT, "3:9", "rule `a`, input has no `group`", "or `address`"),
        ("address = \"10.1.1.2\", port = 1, join = false", OUT, "3:69", "`join` does not go with `address`", "leave `join` out"),
        ("address = \"10.1.1.2\", port = 1, source = \"2001:db8::7\"", OUT, "3:71", "is not of the IP version of `address`", "IPv4 source for an IPv4 address"),
        ("address = \"10.1.1.2\", port = 1", "port = 2", "5:3", "output 1 has no `group`", "add `group`"),
        ("group = \"10.1.1.2\", port = 1", OUT, "3:38", "is not a multicast group", "goes into `address`"),
    ] {
        let found = mistakes(&with(input, output));
        let shown = found[0].to_string();
        assert!(shown.starts_with(&format!("relay.toml:{place}: ")), "{input}: {shown}");
        assert!(found[0].cause.contains(cause) && found[0].remedy.contains(remedy), "{shown}");
        assert_eq!(found.len(), 1, "{input}: {found:#?}");
    }
}

#[test]
fn equal_addresses_of_one_interface_are_one_input() {
    let rule = |name: &str, more: &str| {
        let input = format!("address = \"10.1.1.2\", port = 5001{more}");
        with(&input, "group = \"239.2.2.2\"").replace("\"a\"", &format!("\"{name}\""))
    };
    let two = rule("a", "") + &rule("b", "");
    let found = mistakes(&two);
    assert!(
        found[0]
            .cause
            .contains("rule `b` has the same input as rule `a`"),
        "{found:?}"
    );
    // A source, a VLAN and another interface are something else.
    let sourced = rule("a", "") + &rule("b", ", source = \"10.1.1.7\"");
    let tagged = rule("c", ", vlan = 100");
    let elsewhere = rule("d", "").replace("in0", "in1");
    parse("relay.toml", &(sourced + &tagged + &elsewhere)).unwrap();
}
