//! What a plan shows of the headers of copies: as text, and as JSON.

use serde_json::{Value, json};

use super::*;
use crate::host::{
    Destination, RouteAnswer,
    routes::{Route, RouteQuery},
};

const RULE: &str = r#"
[[rules]]
name = "r"
input = { interface = "in0", group = "239.1.1.1", port = 5001, vlan = [7, 8] }
outputs = [
  { interface = "out0" },
  { interface = "out0", group = "239.2.2.2", ttl = 8, dscp = 46, vlan = 200, pcp = 5, source = "keep", source_port = 7000 },
  { interface = "out0", group = "ff0e::8000:7", vlan = "keep" },
  { address = "203.0.113.9", port = 6000 },
]
"#;

/// A plan whose unicast output is routed over out0 and a gateway.
fn plan() -> Plan {
    let query = RouteQuery {
        destination: [203, 0, 113, 9].into(),
        port: Some(6000),
        interface: None,
        mark: None,
        source: None,
    };
    let to = Destination {
        interface: None,
        query,
    };
    let answer = Ok(Route {
        interface: 2,
        gateway: Some([10, 0, 2, 254].into()),
        source: Some([10, 0, 2, 2].into()),
    });
    let host_facts = HostFacts {
        routes: [(to, RouteAnswer { query, answer })].into(),
        ..host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)])
    };
    auto(&config::parse("relay.toml", RULE).unwrap(), &host_facts).unwrap()
}

#[test]
fn the_printed_plan_has_every_field() {
    let printed = plan().to_string();
    let (_, rules) = printed.split_once("\nrules\n").unwrap();
    let (rules, _) = rules.split_once("\n\n").unwrap();
    let expected = "  r: 239.1.1.1:5001 on in0, VLAN [7, 8], 4 outputs
    -> 239.1.1.1:5001 by out0
       02:00:00:00:00:02 > 01:00:5e:01:01:01; IPv4 10.0.2.1 > 239.1.1.1, DSCP kept, TTL auto; UDP kept > 5001
    -> 239.2.2.2:5001 by out0, VLAN 200
       02:00:00:00:00:02 > 01:00:5e:02:02:02; 802.1Q (0x8100) VLAN 200, PCP 5; IPv4 kept > 239.2.2.2, DSCP 46, TTL 8; UDP 7000 > 5001
    -> [ff0e::8000:7]:5001 by out0, VLAN [7, 8]
       02:00:00:00:00:02 > 33:33:80:00:00:07; VLAN [7, 8], TPIDs kept, PCP kept; IPv6 2001:db8:0:2::1 > ff0e::8000:7, DSCP kept, hop limit auto; UDP kept > 5001
    -> 203.0.113.9:6000 by out0, chosen by routing
       02:00:00:00:00:02 > next hop 10.0.2.254; IPv4 10.0.2.2 > 203.0.113.9, DSCP kept, TTL auto; UDP kept > 6000";
    assert_eq!(rules, expected);
}

#[test]
fn a_plan_as_json_has_every_field_that_is_set() {
    let value = serde_json::to_value(plan()).unwrap();
    let outputs: &Value = &value["flows"][0]["outputs"];
    let expected = json!([
        {
            "interface": 1, "group": "239.1.1.1", "port": 5001, "source": "10.0.2.1", "ttl": "auto",
            "destination_mac": "01:00:5e:01:01:01",
        },
        {
            "interface": 1, "group": "239.2.2.2", "port": 5001, "source": "keep",
            "ttl": { "set": 8 }, "source_port": 7000, "dscp": 46, "vlan": 200, "pcp": 5,
            "destination_mac": "01:00:5e:02:02:02",
        },
        {
            "interface": 1, "group": "ff0e::8000:7", "port": 5001, "source": "2001:db8:0:2::1",
            "ttl": "auto", "vlan": "keep", "destination_mac": "33:33:80:00:00:07",
        },
        {
            "interface": 1, "address": "203.0.113.9", "port": 6000, "source": "10.0.2.2",
            "ttl": "auto", "next_hop": "10.0.2.254",
        },
    ]);
    assert_eq!(outputs, &expected, "{outputs:#}");
}

#[test]
fn a_copy_that_grows_beyond_the_mtu_is_noted() {
    let notes = |output: &str, mtu: u32| {
        let text = format!(
            "[[rules]]\nname = \"r\"\n\
             input = {{ interface = \"in0\", group = \"239.1.1.1\", port = 1 }}\n\
             outputs = [{{ interface = \"out0\", group = \"{output}\" }}]\n"
        );
        let mut facts = host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)]);
        facts.interfaces.get_mut("out0").unwrap().mtu = mtu;
        let plan = auto(&config::parse("relay.toml", &text).unwrap(), &facts).unwrap();
        let notes = plan.notes.into_iter();
        let found: Vec<String> = notes.filter(|note| note.contains("too_big")).collect();
        found.concat()
    };
    assert_eq!(notes("239.2.2.2", 1500), "");
    assert_eq!(notes("ff3e::1", 1520), "");
    let found = notes("ff3e::1", 1519);
    let expected =
        "in0 has MTU 1500 and out0 has MTU 1519, and over IPv6 a copy is 20 bytes longer; ";
    assert!(found.starts_with(expected), "{found}");
    let found = notes("239.2.2.2", 1499);
    assert!(
        found.starts_with("in0 has MTU 1500 and out0 has MTU 1499; "),
        "{found}"
    );
}

#[test]
fn a_copy_that_grows_beyond_a_chunk_is_noted_where_it_leaves_in_one() {
    let notes = |output: &str, options: &str, mtu: u32| {
        let text = format!(
            "[[rules]]\nname = \"r\"\n\
             input = {{ interface = \"in0\", group = \"239.1.1.1\", port = 1 }}\n\
             outputs = [{{ interface = \"out0\", {output} }}]\n\
             [[interfaces]]\nname = \"out0\"\n{options}"
        );
        let mut facts = host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)]);
        facts.gso_packets = true;
        facts.interfaces.get_mut("in0").unwrap().mtu = mtu;
        facts.interfaces.get_mut("out0").unwrap().mtu = 6000;
        let plan = auto(&config::parse("relay.toml", &text).unwrap(), &facts).unwrap();
        let notes = plan.notes.into_iter();
        let found: Vec<String> = notes.filter(|note| note.contains("too_big")).collect();
        found.concat()
    };
    let (xsk, ipv6) = ("transmit = \"xsk\"\n", "group = \"ff3e::1\"");
    let more_than = |found: &str, bytes: u32| {
        let expected = format!(
            "datagrams from in0 whose IPv4 packet has more than {bytes} bytes do not leave by out0, \
             whatever its MTU, and are counted there as too_big."
        );
        assert!(found.contains(&expected), "{found}");
    };
    more_than(&notes(ipv6, xsk, 3818), 3806);
    more_than(&notes(ipv6, xsk, 3807), 3806);
    assert_eq!(notes(ipv6, xsk, 3806), "");
    let tagged = format!("{ipv6}, vlan = [100, 200]");
    more_than(&notes(&tagged, xsk, 3806), 3798);
    assert_eq!(
        notes("group = \"239.2.2.2\", vlan = [100, 200]", xsk, 3818),
        ""
    );
    assert_eq!(notes(ipv6, "transmit = \"segmented\"\n", 3818), "");
}
