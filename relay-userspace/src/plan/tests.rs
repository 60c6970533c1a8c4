//! Plans from hand-made facts: which worker owns which queue, what is refused, what is only noted.
#![expect(clippy::type_complexity, reason = "tables are read by column")]

mod arrangements;
mod backends;
mod differences;
mod explanations;
mod headers;
mod keys;
mod local;
mod matched;
mod modes;
mod offloads;
mod own_addresses;
mod sources;
mod unicast;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::*;
use crate::{
    config::{self, Document, Mistakes},
    host::{
        Bystanders, GsoLimits, HostError, HostFacts, InterfaceFacts, Ipv6Address, Offload,
        OffloadFacts, XdpFeatures,
    },
};

const NATIVE: u64 = XdpFeatures::BASIC | XdpFeatures::REDIRECT;
const ZERO_COPY: u64 = NATIVE | XdpFeatures::XSK_ZEROCOPY;

/// An interface with `rx` RX and `tx` TX queues; `index` also numbers its addresses.
fn nic(name: &str, index: u8, rx: u32, tx: u32) -> InterfaceFacts {
    InterfaceFacts {
        name: name.into(),
        index: index.into(),
        mac: Some([2, 0, 0, 0, 0, index]),
        mtu: 1500,
        addresses: vec![
            Ipv4Addr::new(10, 0, index, 1),
            Ipv4Addr::new(10, 0, index, 2),
        ],
        ipv6_addresses: vec![Ipv6Address {
            address: Ipv6Addr::new(0x2001, 0xdb8, 0, index.into(), 0, 0, 0, 1),
            avoided: false,
            temporary: false,
        }],
        is_up: true,
        is_loopback: false,
        driver: "ena".into(),
        rx_queues: rx,
        tx_queues: tx,
        segments_udp: true,
        offloads: OffloadFacts::default(),
        queueless: true,
        gso: GsoLimits::default(),
        xdp: Some(XdpFeatures::from_bits(NATIVE)),
    }
}

/// Facts of a host whose kernel has no GSO packets: all copies leave through TX rings.
fn host_facts(facts: impl IntoIterator<Item = InterfaceFacts>) -> HostFacts {
    let interfaces: HashMap<String, InterfaceFacts> = facts
        .into_iter()
        .map(|facts| (facts.name.clone(), facts))
        .collect();
    let mut addresses: HashMap<IpAddr, Vec<String>> = HashMap::new();
    for facts in interfaces.values() {
        let ipv4 = facts.addresses.iter().map(|&one| IpAddr::V4(one));
        let ipv6 = facts.ipv6_addresses.iter();
        for address in ipv4.chain(ipv6.map(|one| IpAddr::V6(one.address))) {
            addresses
                .entry(address)
                .or_default()
                .push(facts.name.clone());
        }
    }
    HostFacts {
        addresses,
        interfaces,
        failures: Vec::new(),
        cpus: 8,
        gso_packets: false,
        ..HostFacts::default()
    }
}

/// The plan without constraints.
fn auto(document: &Document, host_facts: &HostFacts) -> Result<Plan, Mistakes> {
    build(document, host_facts, &Constraints::default())
}

/// Rules "in -> out out", one per entry, named r1, r2, ...; then the rest of the file.
fn document(rules: &[&str], rest: &str) -> Document {
    let mut text = String::new();
    for (number, rule) in (1..).zip(rules) {
        let (input, outputs) = rule.split_once(" -> ").unwrap();
        let outputs: Vec<String> = (1..)
            .zip(outputs.split(' '))
            .map(|(o, name)| {
                format!("{{ interface = \"{name}\", group = \"239.2.{number}.{o}\", port = 5002 }}")
            })
            .collect();
        text += &format!(
            "[[rules]]\nname = \"r{number}\"\n\
             input = {{ interface = \"{input}\", group = \"239.129.1.{number}\", port = 5001 }}\n\
             outputs = [{}]\n",
            outputs.join(", ")
        );
    }
    config::parse("relay.toml", &(text + rest)).unwrap()
}

fn options(name: &str, rest: &str) -> String {
    format!("[[interfaces]]\nname = \"{name}\"\n{rest}\n")
}

/// The ports of every worker, for example `in0/0r out0/0t`, and `b` for both.
fn ports(plan: &Plan) -> Vec<String> {
    let port = |port: &Port| {
        let role = match (port.receives, port.transmits) {
            (true, true) => "b",
            (true, false) => "r",
            (false, true) => "t",
            (false, false) => "?",
        };
        format!(
            "{}/{}{role}",
            plan.interfaces[port.interface].name, port.queue
        )
    };
    let worker = |worker: &WorkerPlan| worker.ports.iter().map(port).collect::<Vec<_>>().join(" ");
    plan.workers.iter().map(worker).collect()
}

#[test]
fn every_queue_has_one_owner() {
    let cases: &[(&str, &[&str], &str, &[InterfaceFacts], &[&str])] = &[
        (
            "one of each",
            &["in0 -> out0"],
            "",
            &[nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)],
            &["in0/0r out0/0t"],
        ),
        (
            "as many",
            &["in0 -> out0"],
            "",
            &[nic("in0", 1, 2, 1), nic("out0", 2, 1, 2)],
            &["in0/0r out0/0t", "in0/1r out0/1t"],
        ),
        (
            "fewer TX",
            &["in0 -> out0"],
            "",
            &[nic("in0", 1, 5, 5), nic("out0", 2, 8, 2)],
            &["in0/0r in0/2r in0/4r out0/0t", "in0/1r in0/3r out0/1t"],
        ),
        (
            "fewer RX",
            &["in0 -> out0"],
            "",
            &[nic("in0", 1, 2, 9), nic("out0", 2, 1, 8)],
            &["in0/0r out0/0t", "in0/1r out0/1t"],
        ),
        (
            "the narrowest output decides",
            &["in0 -> out0 out1"],
            "",
            &[
                nic("in0", 1, 4, 4),
                nic("out0", 2, 4, 4),
                nic("out1", 3, 4, 2),
            ],
            &[
                "in0/0r in0/2r out0/0t out1/0t",
                "in0/1r in0/3r out0/1t out1/1t",
            ],
        ),
        (
            "an output on the input's own interface is one port",
            &["in0 -> in0 out0"],
            "",
            &[nic("in0", 1, 2, 2), nic("out0", 2, 2, 2)],
            &["in0/0b out0/0t", "in0/1b out0/1t"],
        ),
        (
            "more RX than TX on one interface",
            &["in0 -> in0"],
            "",
            &[nic("in0", 1, 4, 2)],
            &["in0/0b in0/2r", "in0/1b in0/3r"],
        ),
        (
            "more TX than RX on one interface",
            &["in0 -> in0", "in1 -> in0"],
            "",
            &[nic("in0", 1, 1, 4), nic("in1", 2, 2, 1)],
            &["in0/0b in1/0r", "in0/1t in1/1r"],
        ),
        (
            "both directions",
            &["a -> b", "b -> a"],
            "",
            &[nic("a", 1, 2, 2), nic("b", 2, 2, 2)],
            &["a/0b b/0b", "a/1b b/1b"],
        ),
        (
            "groups that share nothing have their own workers",
            &["in0 -> out0", "in1 -> out1"],
            "",
            &[
                nic("in0", 1, 2, 2),
                nic("out0", 2, 2, 2),
                nic("in1", 3, 1, 1),
                nic("out1", 4, 1, 1),
            ],
            &["in0/0r out0/0t", "in0/1r out0/1t", "in1/0r out1/0t"],
        ),
        (
            "a worker without an input's queues does not bind that input's outputs",
            &["in0 -> out0", "in1 -> out0 out1"],
            "",
            &[
                nic("in0", 1, 2, 1),
                nic("in1", 2, 1, 1),
                nic("out0", 3, 2, 2),
                nic("out1", 4, 2, 2),
            ],
            &["in0/0r out0/0t in1/0r out1/0t", "in0/1r out0/1t"],
        ),
        (
            "queues limits both directions",
            &["in0 -> in0 out0"],
            &(options("in0", "queues = [5, 1, 3]") + &options("out0", "queues = [2, 7]")),
            &[nic("in0", 1, 6, 6), nic("out0", 2, 1, 8)],
            &["in0/1b in0/5r out0/2t", "in0/3b out0/7t"],
        ),
    ];
    for (name, rules, rest, facts, expected) in cases {
        let plan = auto(&document(rules, rest), &host_facts(facts.to_vec())).unwrap();
        assert_eq!(ports(&plan), *expected, "{name}");
        let mut owned: Vec<(InterfaceId, u32)> = plan
            .workers
            .iter()
            .flat_map(|w| &w.ports)
            .map(|p| (p.interface, p.queue))
            .collect();
        let all = owned.len();
        owned.sort_unstable();
        owned.dedup();
        assert_eq!(owned.len(), all, "{name}: a queue has two owners");
        for worker in &plan.workers {
            for (id, flow) in plan.flows.with_ids() {
                let reads = worker
                    .ports
                    .iter()
                    .any(|p| p.receives && p.interface == flow.interface);
                assert_eq!(worker.flows.contains(&id), reads, "{name}");
                for output in flow.outputs.iter().filter(|_| reads) {
                    let ways = worker
                        .ports
                        .iter()
                        .filter(|p| p.transmits && p.interface == output.interface);
                    assert_eq!(ways.count(), 1, "{name}");
                }
            }
        }
    }
}

#[test]
fn names_become_positions_and_groups_become_addresses() {
    let facts = [
        nic("in0", 1, 1, 1),
        nic("out0", 2, 1, 1),
        nic("out1", 3, 1, 1),
    ];
    let plan = auto(
        &document(&["in0 -> out0 out1", "out1 -> in0"], ""),
        &host_facts(facts),
    )
    .unwrap();
    let names: Vec<&str> = plan.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["in0", "out0", "out1"], "in the order of the file");
    let roles: Vec<(bool, bool)> = plan
        .interfaces
        .iter()
        .map(|i| (i.is_input, i.is_output))
        .collect();
    assert_eq!(roles, [(true, true), (false, true), (true, true)]);
    assert_eq!(plan.interfaces[1].rx_queues, [0; 0]);
    assert_eq!(plan.interfaces[2].rx_queues, [0]);
    let flow = &plan.flows[0];
    assert_eq!(
        (flow.interface, flow.rule.as_str()),
        (InterfaceId::new(0), "r1")
    );
    let output = &flow.outputs[1];
    assert_eq!(output.interface, InterfaceId::new(2));
    assert_eq!(
        output.source,
        Some(Ipv4Addr::new(10, 0, 3, 1).into()),
        "the primary address"
    );
    assert_eq!(
        output.to,
        LinkDestination::Group([0x01, 0x00, 0x5e, 2, 1, 2])
    );
    assert_eq!(
        of_group(Ipv4Addr::new(239, 129, 1, 1)),
        [0x01, 0x00, 0x5e, 1, 1, 1],
        "23 bits"
    );
}

#[test]
fn what_cannot_be_is_refused_at_its_place() {
    type Change = fn(&mut HostFacts);
    fn of<'a>(host_facts: &'a mut HostFacts, name: &str) -> &'a mut InterfaceFacts {
        host_facts.interfaces.get_mut(name).unwrap()
    }
    let in0 = (3, 23);
    let out0 = (4, 26);
    #[rustfmt::skip]
    let cases: &[(&str, Change, (usize, usize), &str, &str)] = &[
        ("", |s| drop(s.interfaces.remove("in0")), in0, "there is no interface `in0`", "ip link show"),
        ("", |s| {
            s.interfaces.clear();
            let missing = |name: &str| HostError::Missing { name: name.into(), present: vec!["lo".into(), "x".into()] };
            s.failures = vec![missing("out0"), missing("in0")];
        }, in0, "no interface `in0` in this network namespace", "lists: lo, x"),
        ("", |s| of(s, "out0").addresses.clear(), out0, "output interface `out0` has no IPv4 address", "ip address add"),
        ("", |s| of(s, "in0").is_loopback = true, in0, "is the loopback interface, which the relay does not serve", "veth pair"),
        ("", |s| of(s, "out0").is_loopback = true, out0, "is the loopback interface", "veth pair"),
        ("", |s| of(s, "in0").mac = None, in0, "no Ethernet interface", "use an Ethernet interface"),
        ("", |s| of(s, "out0").mac = None, out0, "no Ethernet interface", "use an Ethernet interface"),
        ("", |s| of(s, "in0").xdp = Some(XdpFeatures::from_bits(0)), in0, "`in0` (driver ena) has no native XDP", "use an interface whose driver has native XDP"),
        ("", |s| (of(s, "in0").xdp, of(s, "in0").driver) = (Some(XdpFeatures::from_bits(0)), "veth".into()), in0, "`in0` (driver veth) has no native XDP", "at least as many RX queues"),
        ("", |s| of(s, "in0").offloads.unwanted = vec![Offload::StripTag], in0, "`in0` takes VLAN tags out of the frames before XDP sees them", "`ethtool -K in0 rx-vlan-offload off`"),
        ("", |s| {
            of(s, "in0").driver = "r8169".into();
            of(s, "in0").xdp = Some(XdpFeatures::from_bits(1));
        }, in0, "`in0` (driver r8169) has no native XDP", "of VLANs, bridges"),
        ("", |s| of(s, "in0").mtu = 3819, in0, "MTU 3819; a UMEM chunk takes at most 3818", "ip link set in0 mtu 3818"),
        ("", |s| of(s, "in0").rx_queues = 0, in0, "`in0` has no RX queue", "ethtool -L"),
        ("", |s| of(s, "out0").tx_queues = 0, out0, "`out0` has no TX queue", "ethtool -L"),
        ("[[interfaces]]\nname = \"in0\"\nqueues = [0, 2]", |_| (), (7, 14), "`in0` has no RX queue 2: it has 2, queues 0 to 1", "ethtool -L in0"),
        ("[[interfaces]]\nname = \"out0\"\nqueues = [0, 3]", |_| (), (7, 14), "`out0` has no TX queue 3: it has 3, queues 0 to 2", "ethtool -L out0"),
        ("[[interfaces]]\nname = \"in0\"\ncpus = [7, 8]", |_| (), (7, 12), "there is no CPU 8: this machine has 8", "lscpu"),
    ];
    for (rest, change, (line, column), cause, remedy) in cases {
        let mut host_facts = host_facts([nic("in0", 1, 2, 1), nic("out0", 2, 1, 3)]);
        change(&mut host_facts);
        let mistakes = auto(&document(&["in0 -> out0"], rest), &host_facts).unwrap_err();
        let first = mistakes.iter().next().unwrap();
        let place = first.place.unwrap();
        assert_eq!((place.line, place.column), (*line, *column), "{first}");
        assert!(first.cause.contains(cause), "{first}");
        assert!(first.remedy.contains(remedy), "{first}");
        assert!(!mistakes.is_unreadable());
    }
}

#[test]
fn an_interface_that_is_missing_says_which_rules_need_it_and_how_the_others_run() {
    let rules = |count: usize| {
        let mut rules = vec!["in0 -> gone"; count];
        rules.extend(["in0 -> out0", "gone -> out0"]);
        rules
    };
    let host_facts = host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)]);
    let remedy = |rules: &[&str]| {
        let mistakes = auto(&document(rules, ""), &host_facts).unwrap_err();
        assert_eq!(mistakes.iter().count(), 1, "{mistakes}");
        mistakes.iter().next().unwrap().remedy.clone()
    };
    let said = remedy(&rules(1));
    assert!(
        said.ends_with(
            "; rules `r1`, `r3` cannot run without; take them out of the file to run the other rule"
        ),
        "{said}"
    );
    let said = remedy(&rules(6));
    let end = "; rules `r1`, `r2`, `r3`, `r4` and 3 more cannot run without; take them out of the file to run the other rule";
    assert!(said.ends_with(end), "{said}");
    let said = remedy(&["gone -> gone"]);
    assert!(said.ends_with("; rule `r1` cannot run without"), "{said}");
}

#[test]
fn groups_that_need_a_source_or_that_others_want_are_noted() {
    let text = "[[rules]]\nname = \"a\"\n\
                input = { interface = \"in0\", group = \"232.1.1.1\", port = 5001 }\n\
                outputs = [{ interface = \"out0\", group = \"239.2.1.1\", port = 5002 }]\n\
                [[rules]]\nname = \"b\"\n\
                input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n\
                outputs = [{ interface = \"out0\", group = \"239.2.1.2\", port = 5002 }]\n";
    let document = config::parse("relay.toml", text).unwrap();
    let group = Ipv4Addr::new(239, 1, 1, 1);
    let host_facts = HostFacts {
        gso_packets: true,
        bystanders: Bystanders::default()
            .with_joined(1, group)
            .with_joined(2, Ipv4Addr::new(232, 1, 1, 1))
            .with_routed("in0", group),
        ..host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)])
    };
    let notes = |forced| {
        let constraints = Constraints {
            forced,
            ..Constraints::default()
        };
        build(&document, &host_facts, &constraints)
            .unwrap()
            .notes
            .join("\n")
    };
    let said = notes(Some(Backend::Xdp));
    for note in [
        "in0: 232.1.1.1: groups in 232.0.0.0/8 and ff3x::/32 are source-specific",
        "in0: 239.1.1.1: another program of this host has joined as well",
        "in0: 239.1.1.1: the kernel has a multicast route",
    ] {
        assert!(said.contains(note), "`{note}` in {said}");
    }
    let said = notes(Some(Backend::IoUring));
    assert!(said.contains("source-specific"), "{said}");
    assert!(
        !said.contains("another program") && !said.contains("route"),
        "{said}"
    );
}

#[test]
fn an_output_needs_no_native_xdp() {
    let mut out0 = nic("out0", 2, 1, 1);
    out0.xdp = Some(XdpFeatures::from_bits(0));
    let host_facts = host_facts([nic("in0", 1, 1, 1), out0]);
    let plan = auto(&document(&["in0 -> out0"], ""), &host_facts).unwrap();
    assert_eq!(plan.interfaces[1].expected_mode, Some(Mode::Copy));
    auto(&document(&["in0 -> out0", "out0 -> in0"], ""), &host_facts).unwrap_err();
}

#[test]
fn all_that_cannot_be_is_refused_in_one_go() {
    let mut out1 = nic("out1", 3, 1, 1);
    out1.addresses.clear();
    let rest = options("in0", "queues = [4]\ncpus = [99]");
    let document = document(&["in0 -> out0 out1", "in0 -> out1"], &rest);
    let mistakes = auto(&document, &host_facts([nic("in0", 1, 2, 1), out1])).unwrap_err();
    let shown = mistakes.to_string();
    assert_eq!(mistakes.iter().count(), 4, "{shown}");
    for part in [
        "no interface `out0`",
        "`out1` has no IPv4",
        "no RX queue 4",
        "no CPU 99",
        "4 mistakes",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn what_may_be_but_may_surprise_is_said() {
    type Change = fn(&mut InterfaceFacts, &mut InterfaceFacts);
    #[rustfmt::skip]
    let cases: &[(&[&str], &str, Change, &[&str])] = &[
        (&["in0 -> out0"], "", |_, _| (), &[]),
        (&["in0 -> out0"], "", |i, _| i.is_up = false, &["in0 is down; nothing moves there until it is up: `ip link set in0 up`."]),
        (&["in0 -> out0"], "", |i, _| i.addresses.clear(), &["in0 has no IPv4 address; its IGMP reports leave from 0.0.0.0"]),
        (&["in0 -> out0"], "", |i, _| i.xdp = None, &["The kernel does not tell what XDP can do on in0"]),
        (&["in0 -> out0"], "", |i, _| i.mtu = 1400, &[]),
        (&["in0 -> out0", "in0 -> out0"], "", |_, o| o.mtu = 1400, &["in0 has MTU 1500 and out0 has MTU 1400; larger datagrams from in0 do not leave by out0"]),
        (&["in0 -> out0"], "", |i, o| (i.mtu, o.mtu) = (3507, 9000), &[]),
        (&["in0 -> out0"], "", |i, o| (i.mtu, o.mtu, i.driver) = (3507, 9000, "veth".into()), &["in0 is a veth with MTU 3507; the kernel attaches XDP to it only if", "in0 is a veth: a VLAN tag that its other end leaves beside the bytes"]),
        (&["in0 -> out0"], "", |i, o| (i.mtu, o.mtu, i.driver) = (3800, 9000, "ice".into()), &[]),
        (&["in0 -> out0"], "", |i, _| i.rx_queues = 5, &["in0 has 5 RX queues and 2 workers, because out0 has 2 TX queues: worker 0 reads queues 0, 2, 4, worker 1 reads queues 1, 3."]),
        (&["in0 -> out0"], "", |_, o| o.tx_queues = 6, &["out0 has 6 TX queues for 2 workers: queues 0, 1 are used."]),
        (&["in0 -> out0"], "", |i, _| i.rx_queues = 1, &["out0 has 2 TX queues for 1 worker: queue 0 is used."]),
        (&["in0 -> out0"], "[[interfaces]]\nname = \"in0\"\nqueues = [1]", |i, o| (i.rx_queues, o.tx_queues) = (4, 1), &["in0 relays from RX queue 1 only, as `queues` says; datagrams that it steers to RX queues 0, 2, 3 are not relayed."]),
        (&["in0 -> out0"], "[[interfaces]]\nname = \"in0\"\ncpus = [1, 2, 3]", |_, _| (), &["in0 names 3 CPUs for 2 workers; the last is not used."]),
        (&["in0 -> out0"], "[[interfaces]]\nname = \"in0\"\ncpus = [1]", |_, _| (), &["in0 names 1 CPU for 2 workers; the last is not pinned."]),
        (&["in0 -> out0"], "[[interfaces]]\nname = \"out0\"\ncpus = [1]", |_, _| (), &["The `cpus` of out0 are not used: workers follow the queues of an input, and out0 is only an output."]),
        (&["in0 -> in0", "out0 -> out0"], "[[interfaces]]\nname = \"in0\"\ncpus = [3, 4]\n[[interfaces]]\nname = \"out0\"\ncpus = [4, 3]", |_, _| (), &["Workers 0, 3 are pinned to the same CPU 3", "Workers 1, 2 are pinned to the same CPU 4"]),
        (&["in0 -> out0", "out0 -> in0"], "[[interfaces]]\nname = \"out0\"\ncpus = [3, 4]\n[[interfaces]]\nname = \"in0\"\ncpus = [5, 6]", |_, _| (), &["The `cpus` of in0 are not used: its workers are pinned by those of out0."]),
        (&["in0 -> out0", "out0 -> in0"], "", |i, _| i.rx_queues = 1, &["in0 has 1 RX queue for 2 workers: only worker 0 reads from it."]),
        (&["in0 -> out0"], "[[interfaces]]\nname = \"in0\"\ntransmit = \"xsk\"", |_, _| (), &["The `transmit` of in0 is not used: no copy leaves there."]),
        (&["in0 -> out0"], "", |i, _| i.xdp = Some(XdpFeatures::from_bits(ZERO_COPY)), &["Zero copy is possible on in0 but not on out0; rules connect them"]),
    ];
    for (rules, rest, change, expected) in cases {
        let (mut input, mut output) = (nic("in0", 1, 2, 2), nic("out0", 2, 2, 2));
        change(&mut input, &mut output);
        let plan = auto(&document(rules, rest), &host_facts([input, output])).unwrap();
        assert_eq!(plan.notes.len(), expected.len(), "{:#?}", plan.notes);
        for (note, expected) in plan.notes.iter().zip(*expected) {
            assert!(note.starts_with(expected), "{note}\n{expected}");
        }
    }
}

#[test]
fn workers_are_pinned_in_the_order_of_the_cpus() {
    let facts = [
        nic("in0", 1, 2, 2),
        nic("in1", 2, 2, 2),
        nic("out0", 3, 2, 2),
    ];
    let rest = options("in1", "cpus = [7, 3]");
    let plan = auto(
        &document(&["in0 -> out0", "in1 -> out0"], &rest),
        &host_facts(facts),
    )
    .unwrap();
    let cpus: Vec<_> = plan.workers.iter().map(|worker| worker.cpu).collect();
    assert_eq!(cpus, [Some(7), Some(3)]);
}

#[test]
fn a_printed_plan_shows_all_that_matters() {
    let facts = [nic("in0", 1, 4, 1), nic("out0", 2, 1, 2)];
    let rest = options("in0", "cpus = [1]");
    let plan = auto(&document(&["in0 -> out0 out0"], &rest), &host_facts(facts)).unwrap();
    let expected = "\
interfaces
  in0              input, AF_XDP copy expected (no fault: every rule works in it), because in0 (driver ena) has no zero copy, and out0 (driver ena) has no zero copy
                   index 1, driver ena, 02:00:00:00:00:01, 10.0.1.1, MTU 1500, checksums complete, or partial by their value
  out0             output, AF_XDP copy expected (no fault: every rule works in it), because in0 (driver ena) has no zero copy, and out0 (driver ena) has no zero copy; transmits by AF_XDP TX rings
                   index 2, driver ena, 02:00:00:00:00:02, 10.0.2.1, MTU 1500

workers
  worker 0, CPU 1
    receives from  in0 queues 0, 2
    transmits by   out0 queue 0
    rules          r1
  worker 1, not pinned
    receives from  in0 queues 1, 3
    transmits by   out0 queue 1
    rules          r1

rules
  r1: 239.129.1.1:5001 on in0, 2 outputs
    -> 239.2.1.1:5002 by out0
       02:00:00:00:00:02 > 01:00:5e:02:01:01; IPv4 10.0.2.1 > 239.2.1.1, DSCP kept, TTL auto; UDP kept > 5002
    -> 239.2.1.2:5002 by out0
       02:00:00:00:00:02 > 01:00:5e:02:01:02; IPv4 10.0.2.1 > 239.2.1.2, DSCP kept, TTL auto; UDP kept > 5002

notes
  - in0 names 1 CPU for 2 workers; the last is not pinned.
  - in0 has 4 RX queues and 2 workers, because out0 has 2 TX queues: worker 0 reads queues 0, 2, worker 1 reads queues 1, 3.
";
    assert_eq!(plan.to_string(), expected);
}

#[test]
fn json_has_hardware_addresses_as_people_write_them() {
    let facts = [nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)];
    let plan = auto(&document(&["in0 -> out0"], ""), &host_facts(facts)).unwrap();
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["interfaces"][0]["mac"], "02:00:00:00:00:01");
    assert_eq!(json["interfaces"][0]["expected_mode"], "copy");
    assert_eq!(json["interfaces"][0]["checksums"], "by-value");
    assert_eq!(json["interfaces"][1]["checksums"], serde_json::Value::Null);
    let output = &json["flows"][0]["outputs"][0];
    assert_eq!(output["destination_mac"], "01:00:5e:02:01:01");
    assert_eq!(output["source"], "10.0.2.1");
    assert_eq!(output["ttl"], "auto");
}

#[test]
fn more_interfaces_than_one_relay_serves_are_a_mistake_in_the_file() {
    let plan_of = |count: usize| {
        let names: Vec<String> = (1..count).map(|n| format!("out{n}")).collect();
        let rules: Vec<String> = names
            .chunks(4)
            .map(|four| format!("in0 -> {}", four.join(" ")))
            .collect();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let outputs = (1..count).map(|n| nic(&format!("out{n}"), n as u8, 1, 1));
        let facts = outputs.chain([nic("in0", 0, 1, 1)]);
        auto(&document(&rules, ""), &host_facts(facts))
    };
    assert_eq!(plan_of(256).unwrap().interfaces.len(), 256);
    let mistakes = plan_of(257).unwrap_err();
    let mistake = mistakes.iter().next().unwrap();
    let cause = "the rules name 257 interfaces, and one relay serves at most 256";
    assert_eq!(mistake.cause, cause);
    assert_eq!(
        mistake.place.unwrap().line,
        4 * 63 + 4,
        "the fourth output of the last rule"
    );
}
