//! What runs on a host as it is now, and what waits.

use std::time::Instant;

use super::*;

const LINK: &str = "waiting for interface out1: there is none of that name";

fn arranged(document: &Document, host_facts: &HostFacts, constraints: &Constraints) -> Arrangement {
    arrange(document, host_facts, constraints).unwrap()
}

/// `in0`, `out0` and `out1` with GSO packets.
fn host() -> HostFacts {
    HostFacts {
        gso_packets: true,
        ..host_facts([
            nic("in0", 1, 2, 1),
            nic("in1", 2, 1, 1),
            nic("out0", 3, 1, 1),
            nic("out1", 4, 1, 1),
        ])
    }
}

/// The flows: "r1: 0 2" has outputs 0 and 2 of rule r1.
fn running(plan: &Plan) -> Vec<String> {
    let flow = |flow: &Flow| {
        let outputs: Vec<String> = flow
            .outputs
            .iter()
            .map(|o| o.position.to_string())
            .collect();
        format!("{}: {}", flow.rule, outputs.join(" "))
    };
    plan.flows.iter().map(flow).collect()
}

/// The pending rules "r1: reason" and outputs "r1/0: reason".
fn pending(arrangement: &Arrangement) -> Vec<String> {
    let rules = arrangement.pending_rules.iter();
    let rules = rules.map(|(rule, reason)| format!("{rule}: {reason}"));
    let outputs = arrangement.pending_outputs.iter();
    let outputs = outputs.map(|(rule, at, reason)| format!("{rule}/{at}: {reason}"));
    rules.chain(outputs).collect()
}

#[test]
fn where_all_is_there_the_arrangement_is_the_plan() {
    let document = document(&["in0 -> out0 out1", "in1 -> in1"], "");
    let (host, none) = (host(), Constraints::default());
    let found = arranged(&document, &host, &none);
    assert_eq!(*found.plan, build(&document, &host, &none).unwrap());
    assert_eq!(running(&found.plan), ["r1: 0 1", "r2: 0"]);
    assert_eq!(pending(&found), [""; 0]);
}

#[test]
fn without_an_address_of_one_version_of_ip_the_outputs_of_the_other_run() {
    let text = |name: &str, group: &str, outputs: &str| {
        format!(
            "[[rules]]\nname = \"{name}\"\ninput = {{ interface = \"in0\", group = \"{group}\", \
             port = 5001 }}\noutputs = [{outputs}]\n"
        )
    };
    let out = |interface: &str, group: &str| {
        format!("{{ interface = \"{interface}\", group = \"{group}\", port = 6000 }}, ")
    };
    let four = [out("out0", "239.2.2.2"), out("out1", "239.2.2.2")].concat();
    let six = [out("out1", "ff3e::2"), out("out0", "ff3e::2")].concat();
    let both = text("four", "239.1.1.1", &four) + &text("six", "ff3e::1", &six);
    let document = config::parse("relay.toml", &both).unwrap();
    let found = |change: fn(&mut InterfaceFacts)| {
        let mut host = host();
        change(host.interfaces.get_mut("out1").unwrap());
        arranged(&document, &host, &Constraints::default())
    };
    let all = found(|_| ());
    assert_eq!(running(&all.plan), ["four: 0 1", "six: 0 1"]);
    let sources: Vec<String> = all.plan.flows[FlowId::new(1)]
        .outputs
        .iter()
        .map(|output| output.source.unwrap().to_string())
        .collect();
    assert_eq!(sources, ["2001:db8:0:4::1", "2001:db8:0:3::1"]);
    assert_eq!(
        all.plan.interfaces[InterfaceId::new(2)].ipv6_sources,
        ["2001:db8:0:4::1".parse::<Ipv6Addr>().unwrap()]
    );
    let without_six = found(|out1| out1.ipv6_addresses.clear());
    assert_eq!(running(&without_six.plan), ["four: 0 1", "six: 1"]);
    let reason = "six/0: the output interface `out1` has no IPv6 address to send from; give it one";
    let waiting = pending(&without_six);
    assert!(
        waiting.len() == 1 && waiting[0].starts_with(reason),
        "{waiting:?}"
    );
    let without_four = found(|out1| out1.addresses.clear());
    assert_eq!(running(&without_four.plan), ["four: 0", "six: 0 1"]);
    let down = found(|out1| out1.is_up = false);
    assert_eq!(running(&down.plan), ["four: 0", "six: 1"]);
}

#[test]
fn whatever_is_wrong_with_an_interface_only_what_needs_it_waits() {
    type Change = fn(&mut HostFacts, &mut Constraints);
    fn of<'a>(host: &'a mut HostFacts, name: &str) -> &'a mut InterfaceFacts {
        host.interfaces.get_mut(name).unwrap()
    }
    fn without_native(host: &mut HostFacts, name: &str) {
        of(host, name).xdp = Some(XdpFeatures::from_bits(0));
    }
    let queues = |name| options(name, "queues = [1]");
    // "in0 -> out0 out1 out0", "in1 -> out1", "out1 -> out0": out1 is both.
    let as_output = ["r1: 0 2", "r3: 0"];
    let as_input = ["r1: 0 1 2", "r2: 0"];
    let at_all = ["r1: 0 2"];
    #[rustfmt::skip]
    let cases: &[(&str, &str, Change, &[&str], &[&str])] = &[
        ("missing", "", |h, _| drop(h.interfaces.remove("out1")), &at_all, &[LINK]),
        ("gone", "", |h, _| {
            h.interfaces.remove("out1");
            h.failures.push(HostError::Missing { name: "out1".into(), present: vec!["lo".into()] });
        }, &at_all, &[LINK]),
        ("unknown", "", |h, _| {
            h.interfaces.remove("out1");
            h.failures.push(HostError::Refused { name: "out1".into(), what: "ask", error: "EPERM".into() });
        }, &at_all, &["interface `out1`: ask: EPERM; try `ip -d link show`"]),
        ("down", "", |h, _| of(h, "out1").is_up = false, &at_all, &["out1 is down; `ip link set out1 up`"]),
        ("down, and another of that name was in use", "", |h, c| {
            of(h, "out1").is_up = false;
            c.in_use.insert(("out1".into(), 77));
        }, &at_all, &["out1 is down"]),
        ("down in use", "", |h, c| {
            of(h, "out1").is_up = false;
            c.in_use.insert(("out1".into(), 4));
        }, &["r1: 0 1 2", "r2: 0", "r3: 0"], &[]),
        ("unavailable", "", |_, c| {
            c.unavailable.push(Refusal { interface: "out1".into(), reason: "another relay has out1; stop it".into() });
        }, &at_all, &["another relay has out1; stop it"]),
        ("down and unavailable", "", |h, c| {
            of(h, "out1").is_up = false;
            c.unavailable.push(Refusal { interface: "out1".into(), reason: "no memory for out1".into() });
        }, &at_all, &["no memory for out1. out1 is down; `ip link set out1 up`"]),
        ("loopback", "", |h, _| of(h, "out1").is_loopback = true, &at_all, &["interface `out1` (driver ena) is the loopback interface"]),
        ("no Ethernet", "", |h, _| of(h, "out1").mac = None, &at_all, &["interface `out1` (driver ena) is no Ethernet interface"]),
        ("no address", "", |h, _| of(h, "out1").addresses.clear(), &as_output, &["the output interface `out1` has no IPv4 address to send from; give it one: `ip address add"]),
        ("no RX queue", "", |h, _| of(h, "out1").rx_queues = 0, &as_input, &["interface `out1` has no RX queue; `ethtool -l out1`"]),
        ("no TX queue", "", |h, _| of(h, "out1").tx_queues = 0, &as_output, &["interface `out1` has no TX queue; `ethtool -l out1`"]),
        ("listed queue", &queues("out1"), |h, _| of(h, "out1").tx_queues = 2, &as_input, &["interface `out1` has no RX queue 1: it has 1, queue 0; correct `queues`"]),
        ("listed CPU", &options("out1", "cpus = [99]"), |_, _| (), &as_input, &["there is no CPU 99: this machine has 8, counted from 0; `lscpu`"]),
        ("listed CPU, only an output", &options("out0", "cpus = [99]"), |_, _| (), &["r1: 0 1 2", "r2: 0", "r3: 0"], &[]),
        ("GSO packets", &options("out1", "transmit = \"segmented\""), |h, _| {
            (of(h, "out1").segments_udp, of(h, "out1").queueless) = (false, false);
        }, &as_output, &["`transmit` \"segmented\": interface `out1` does not take UDP GSO packets; `ethtool -k out1`"]),
        ("GSO packets, only an input", &options("in0", "transmit = \"segmented\""), |h, _| {
            (of(h, "in0").segments_udp, of(h, "in0").queueless) = (false, false);
        }, &["r1: 0 1 2", "r2: 0", "r3: 0"], &[]),
        ("--backend xdp", "", |h, c| {
            c.forced = Some(Backend::Xdp);
            without_native(h, "out1");
        }, &as_input, &["interface `out1` (driver ena) has no native XDP, which an input needs; use an interface"]),
        ("--backend xdp refused", "", |_, c| {
            c.forced = Some(Backend::Xdp);
            c.refused.push(Refusal { interface: "out1".into(), reason: "cannot attach".into() });
        }, &at_all, &["XDP was refused on `out1`: cannot attach; use another interface; or leave `--backend xdp` out"]),
        ("no native XDP", "", |h, _| without_native(h, "out1"), &["r1: 0 1 2", "r2: 0", "r3: 0"], &[]),
    ];
    for (what, rest, change, expected, reasons) in cases {
        let rules = ["in0 -> out0 out1 out0", "in1 -> out1", "out1 -> out0"];
        let (mut host, mut constraints) = (host(), Constraints::default());
        change(&mut host, &mut constraints);
        let found = arranged(&document(&rules, rest), &host, &constraints);
        assert_eq!(running(&found.plan), *expected, "{what}");
        let is_input = *expected == as_input || *expected == at_all;
        let is_output = *expected == as_output || *expected == at_all;
        let mut waiting = Vec::new();
        for reason in *reasons {
            waiting.extend(is_output.then(|| format!("r2: {reason}")));
            waiting.extend(is_input.then(|| format!("r3: {reason}")));
            waiting.extend(is_output.then(|| format!("r1/1: {reason}")));
            waiting.extend(is_output.then(|| format!("r2/0: {reason}")));
        }
        let found = pending(&found);
        assert_eq!(found.len(), waiting.len(), "{what}: {found:#?}");
        for (found, waiting) in found.iter().zip(waiting) {
            assert!(found.starts_with(&waiting), "{what}: {found}\n{waiting}");
        }
    }
}

#[test]
fn without_what_waits_the_others_may_be_on_another_backend_and_are_checked_anew() {
    // While `bridge` is there all are on io_uring, where `queues` says nothing.
    let mut host = host();
    let bridge = InterfaceFacts {
        xdp: Some(XdpFeatures::from_bits(0)),
        ..nic("bridge", 9, 1, 1)
    };
    host.interfaces.insert("bridge".into(), bridge);
    let rules = ["in0 -> out0", "bridge -> out0", "in1 -> out0"];
    let document = document(&rules, &options("in1", "queues = [3]"));
    let none = Constraints::default();
    let found = arranged(&document, &host, &none);
    assert!(found.plan.is_on(Backend::IoUring));
    assert_eq!(pending(&found), [""; 0]);

    host.interfaces.get_mut("bridge").unwrap().is_up = false;
    let found = arranged(&document, &host, &none);
    assert!(!found.plan.is_on(Backend::IoUring), "{}", found.plan);
    assert_eq!(running(&found.plan), ["r1: 0"]);
    let waiting = pending(&found);
    assert_eq!(waiting.len(), 2, "{waiting:?}");
    assert!(waiting[0].starts_with("r2: bridge is down"), "{waiting:?}");
    assert!(
        waiting[1].starts_with("r3: interface `in1` has no RX queue 3"),
        "{waiting:?}"
    );
}

#[test]
fn a_rule_without_any_output_waits_for_each_of_them() {
    let document = document(&["in0 -> a b a c d"], "");
    let found = arranged(&document, &host(), &Constraints::default());
    assert_eq!(found.pending_outputs.len(), 5);
    let missing = |name| format!("waiting for interface {name}: there is none of that name");
    let expected = format!(
        "r1: {}. {}. {}. And 1 more reason",
        missing("a"),
        missing("b"),
        missing("c")
    );
    assert_eq!(pending(&found)[0], expected);
    let plan = found.plan;
    assert!(plan.flows.is_empty() && plan.interfaces.is_empty() && plan.workers.is_empty());
}

#[test]
fn a_disabled_rule_neither_runs_nor_waits_and_hinders_nothing() {
    let mut document = document(&["in0 -> out0", "gone -> out0", "in1 -> out1"], "");
    for rule in ["r2", "r3"] {
        assert!(document.set_enabled(rule, false));
    }
    let found = arranged(&document, &host(), &Constraints::default());
    assert_eq!(running(&found.plan), ["r1: 0"]);
    assert_eq!(pending(&found), [""; 0]);
    assert_eq!(auto(&document, &host()).unwrap(), *found.plan);
}

#[test]
fn what_no_interface_can_cure_is_a_mistake() {
    let outputs: Vec<String> = (0..256).map(|n| format!("out{n}")).collect();
    let rules: Vec<String> = outputs
        .iter()
        .map(|name| format!("in0 -> {name}"))
        .collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).take(255).collect();
    arranged(&document(&rules, ""), &host(), &Constraints::default());
    let text = "[[rules]]\nname = \"last\"\n\
                input = { interface = \"x\", group = \"239.1.1.1\", port = 1 }\n\
                outputs = [{ interface = \"x\", group = \"239.2.1.1\", port = 1 }]\n";
    let more = config::parse("more.toml", text).unwrap();
    let both = config::merge(&document(&rules, ""), &more).unwrap();
    let mistakes = arrange(&both, &host(), &Constraints::default()).unwrap_err();
    let said = mistakes.to_string();
    assert!(
        said.starts_with("more.toml:3:23: the rules name 257 interfaces"),
        "{said}"
    );

    let old = HostFacts {
        gso_packets: false,
        ..host()
    };
    let forced = Constraints {
        forced: Some(Backend::IoUring),
        ..Constraints::default()
    };
    arrange(&document(&["in0 -> out0"], ""), &old, &forced).unwrap_err();
}

#[test]
fn mistakes_name_the_file_that_a_rule_comes_from() {
    let base = document(&["in0 -> out0"], "");
    let text = "# the fragment\n\n[[rules]]\nname = \"more\"\n\
                input = { interface = \"gone\", group = \"239.1.1.1\", port = 1 }\n\
                outputs = [{ interface = \"out0\", group = \"239.2.1.1\", port = 1 }]\n\
                [[interfaces]]\nname = \"gone\"\ncpus = [8]\n";
    let both = config::merge(&base, &config::parse("more.toml", text).unwrap()).unwrap();
    let mistakes = auto(&both, &host()).unwrap_err();
    let said: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert!(
        said[0].starts_with("more.toml:5:23: there is no interface `gone`"),
        "{said:?}"
    );
    assert!(
        said[1].starts_with("more.toml:9:9: there is no CPU 8"),
        "{said:?}"
    );
}

#[test]
fn the_most_rules_are_arranged_in_a_moment() {
    let one = document(&["in0 -> out0"], "");
    let rules = (0..config::MAX_RULES).map(|number| {
        let mut rule = one.rules.rules[0].clone();
        rule.name = format!("r{number}");
        let group = |block| Ipv4Addr::new(239, block, (number >> 8) as u8, number as u8);
        rule.input.interface = format!("i{}", number % 128);
        rule.input.matches.group = group(1).into();
        rule.outputs[0].interface = Some(format!("i{}", 128 + number % 127));
        rule.outputs[0].group = group(2).into();
        (rule, one.places.rules[0].clone())
    });
    let document = one.with_rules(rules);
    let facts = (0..200).map(|n| InterfaceFacts {
        is_up: n % 3 > 0,
        ..nic(&format!("i{n}"), n as u8, 1, 1)
    });
    let host = HostFacts {
        gso_packets: true,
        ..host_facts(facts)
    };
    let start = Instant::now();
    let found = arranged(&document, &host, &Constraints::default());
    println!("arranged in {:?}", start.elapsed());
    assert_eq!(
        found.plan.flows.len() + found.pending_rules.len(),
        config::MAX_RULES
    );
    assert!(found.plan.flows.len() > 1000 && found.pending_rules.len() > 1000);
}
