//! Rules with `local`: what they need, and what is said of programs and routes of this host.

use super::*;
use std::net::Ipv6Addr;

const ANOTHER: &str = "another program of this host has joined as well";
const ROUTED: &str = "the kernel has a multicast route";
const GIVEN: &str = "each frame goes to this host's own stack as well";
const IN_VAIN: &str = "`local` changes nothing on io_uring";

/// The rule with this input on in0, and one without `local` on in1.
fn rules(input: &str) -> Document {
    let text = format!(
        "[[rules]]\nname = \"r\"\ninput = {{ interface = \"in0\", {input} }}\n\
         outputs = [{{ interface = \"out0\" }}]\n\
         [[rules]]\nname = \"s\"\ninput = {{ interface = \"in1\", group = \"239.9.9.9\", port = 1 }}\n\
         outputs = [{{ interface = \"out1\" }}]\n"
    );
    config::parse("relay.toml", &text).unwrap()
}

fn facts() -> HostFacts {
    let group6: Ipv6Addr = "ff3e::8000:7".parse().unwrap();
    HostFacts {
        gso_packets: true,
        bystanders: Bystanders::default()
            .with_joined(1, Ipv4Addr::new(239, 1, 1, 77))
            .with_joined(1, group6)
            .with_routed("in0", Ipv4Addr::new(239, 2, 2, 2))
            .with_routed("in0", group6),
        ..host_facts(
            ["in0", "in1", "out0", "out1"]
                .iter()
                .zip(1..)
                .map(|(name, index)| {
                    let mut nic = nic(name, index, 1, 1);
                    nic.ipv6_addresses = Ipv6Address::usable("2001:db8::1".parse().unwrap(), 0)
                        .into_iter()
                        .collect();
                    nic
                }),
        )
    }
}

#[test]
fn who_gets_nothing_on_xdp_is_noted_unless_the_rule_is_local() {
    for (input, expected) in [
        ("group = \"239.1.1.0/24\", port = 1", &[ANOTHER][..]),
        ("group = \"239.1.1.0/26\", port = 1", &[]),
        ("group = \"239.2.2.2\", port = 1", &[ROUTED]),
        (
            "group = \"ff3e::8000:0/112\", port = 1, join = false",
            &[ANOTHER, ROUTED],
        ),
        ("group = \"ff3e::8000:8\", port = 1", &[]),
        ("group = \"239.1.1.0/24\", port = 1, local = true", &[GIVEN]),
        ("group = \"ff3e::8000:7\", port = 1, local = true", &[GIVEN]),
    ] {
        let plan = auto(&rules(input), &facts()).unwrap();
        let notes = plan.notes.join("\n");
        for note in [ANOTHER, ROUTED, GIVEN, IN_VAIN] {
            assert_eq!(
                notes.contains(note),
                expected.contains(&note),
                "{input}: {notes}"
            );
        }
        let inputs: Vec<_> = plan
            .workers
            .iter()
            .map(|one| plan.local_inputs(one))
            .collect();
        let local = input.contains("local");
        assert_eq!(inputs[0].len(), usize::from(local), "{input}");
        assert_eq!(inputs[1].len(), 0, "{input}");
        assert_eq!(
            plan.to_string()
                .contains(" on in0, for this host too, 1 output"),
            local
        );
        assert!(!plan.to_string().contains(" on in1, for this host too"));
    }
}

#[test]
fn on_io_uring_local_changes_nothing() {
    let document = rules("group = \"239.1.1.77\", port = 1, local = true");
    let constraints = Constraints {
        forced: Some(Backend::IoUring),
        ..Constraints::default()
    };
    let facts = HostFacts {
        no_tap: Some("/dev/net/tun cannot be opened".into()),
        ..facts()
    };
    let plan = build(&document, &facts, &constraints).unwrap();
    let notes = plan.notes.join("\n");
    assert!(
        notes.contains(IN_VAIN) && !notes.contains(ANOTHER),
        "{notes}"
    );
    assert!(
        plan.workers
            .iter()
            .all(|one| plan.local_inputs(one).is_empty())
    );
}

#[test]
fn where_there_is_no_tap_device_an_input_with_a_local_rule_is_on_io_uring() {
    let plain = rules("group = \"239.1.1.1\", port = 1");
    let local = rules("group = \"239.1.1.1\", port = 1, local = true");
    let why = "/dev/net/tun cannot be opened: no; let the relay have it";
    let known = HostFacts {
        no_tap: Some(why.into()),
        ..facts()
    };
    let refused = Constraints {
        without_local_device: vec![Refusal {
            interface: "in0".into(),
            reason: why.into(),
        }],
        ..Constraints::default()
    };
    let said =
        format!("a rule with `local` receives on `in0`, which takes a TAP device on XDP: {why}");
    for (facts, constraints) in [(&known, &Constraints::default()), (&facts(), &refused)] {
        let reasons = |document: &Document| {
            let plan = build(document, facts, constraints).unwrap();
            let reasons = ["in0", "out0", "in1", "out1"].map(|name| {
                let mut interfaces = plan.interfaces.iter();
                let found = interfaces.find(|one| one.name == name).unwrap();
                (found.backend == Backend::IoUring).then(|| found.reason.clone())
            });
            reasons.to_vec()
        };
        assert_eq!(reasons(&plain), vec![None; 4]);
        let io_uring = Some(said.clone());
        assert_eq!(reasons(&local), [io_uring.clone(), io_uring, None, None]);
        // Where it must be XDP, the rule cannot run.
        let forced = Constraints {
            forced: Some(Backend::Xdp),
            ..constraints.clone()
        };
        let mistakes = build(&local, facts, &forced).unwrap_err().to_string();
        assert!(mistakes.contains(&said), "{mistakes}");
        assert!(
            mistakes.contains("take `local` out of the rule"),
            "{mistakes}"
        );
        let arranged = arrange(&local, facts, &forced).unwrap();
        assert_eq!(arranged.plan.flows.len(), 1);
    }
}
