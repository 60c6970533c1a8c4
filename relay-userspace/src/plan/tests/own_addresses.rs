//! Inputs that are an address of this host: what waits, what is noted, and what the kernel must not
//! answer.

use super::*;

/// A rule "r1", "r2" and so on for each input, which are on in0.
fn rules(inputs: &[&str]) -> Document {
    let mut text = String::new();
    for (number, input) in (1..).zip(inputs) {
        let group = if input.contains("2001:") {
            "ff3e::2"
        } else {
            "239.2.2.2"
        };
        text += &format!(
            "[[rules]]\nname = \"r{number}\"\ninput = {{ interface = \"in0\", {input} }}\n\
             outputs = [{{ interface = \"out0\", group = \"{group}\", port = {number} }}]\n"
        );
    }
    config::parse("relay.toml", &text).unwrap()
}

/// in0 has 10.0.1.1 and 2001:db8:0:1::1, out0 10.0.2.1 and 2001:db8:0:2::1.
fn host() -> HostFacts {
    HostFacts {
        gso_packets: true,
        ..host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)])
    }
}

/// The plan on `backend`.
fn on(backend: Backend, document: &Document) -> Plan {
    let constraints = Constraints {
        forced: Some(backend),
        ..Constraints::default()
    };
    build(document, &host(), &constraints).unwrap()
}

const WAITING: &str = "waiting for the address 10.9.9.9: no interface of this host has it";
const ELSEWHERE: &str = "in0: 10.0.2.1: the address is one of out0, and not of in0";
const ANSWERS: &str = "answers with ICMP (port unreachable)";
const TAKES_ALL: &str = "the relay takes every UDP datagram to the address";

#[test]
fn a_rule_waits_for_an_address_that_no_interface_has_and_the_others_run() {
    let document = rules(&[
        "address = \"10.9.9.9\", port = 5001",
        "address = \"10.0.1.1\", port = 5001",
        "group = \"239.1.1.1\", port = 5001",
    ]);
    let found = arrange(&document, &host(), &Constraints::default()).unwrap();
    assert_eq!(found.pending_rules, [("r1".to_owned(), WAITING.into())]);
    assert_eq!(found.pending_outputs, []);
    let running: Vec<&str> = found
        .plan
        .flows
        .iter()
        .map(|flow| flow.rule.as_str())
        .collect();
    assert_eq!(running, ["r2", "r3"]);
    assert!(
        !found
            .plan
            .notes
            .iter()
            .any(|note| note.contains("10.9.9.9"))
    );
    // Once an interface has it, whichever, nothing waits.
    let mut host = host();
    let address = [10, 9, 9, 9].into();
    host.addresses.insert(address, vec!["lo".to_owned()]);
    let found = arrange(&document, &host, &Constraints::default()).unwrap();
    assert_eq!(found.pending_rules, []);
    assert_eq!(found.plan.flows.len(), 3);
    // The plan of a file shows it, with a note.
    let plan = auto(&document, &self::host()).unwrap();
    let note = "in0: 10.9.9.9: no interface of this host has the address";
    assert!(
        plan.notes.iter().any(|one| one.starts_with(note)),
        "{:?}",
        plan.notes
    );
}

#[test]
fn no_group_is_joined_and_nothing_said_of_igmp() {
    let document = rules(&[
        "address = \"10.0.1.1\", port = 5001, source = \"10.0.1.7\"",
        "address = \"2001:db8:0:1::1\", port = 5001",
    ]);
    let mut host = host();
    if let Some(facts) = host.interfaces.get_mut("in0") {
        facts.addresses.clear();
    }
    let plan = auto(&document, &host).unwrap();
    assert!(plan.memberships().is_empty());
    assert_eq!(plan.notes, [""; 0]);
}

#[test]
fn what_may_surprise_is_noted() {
    for (input, backend, expected) in [
        ("address = \"10.0.1.1\", port = 5001", Backend::Xdp, None),
        (
            "address = \"10.0.1.1\", port = 5001",
            Backend::IoUring,
            None,
        ),
        (
            "address = \"10.0.2.1\", port = 5001",
            Backend::Xdp,
            Some(ELSEWHERE),
        ),
        (
            "address = \"10.0.2.1\", port = 5001, vlan = 7",
            Backend::Xdp,
            None,
        ),
        (
            "address = \"10.0.1.1\", port = \"any\"",
            Backend::Xdp,
            Some(TAKES_ALL),
        ),
        (
            "address = \"10.0.1.1\", port = \"any\"",
            Backend::IoUring,
            Some(ANSWERS),
        ),
        (
            "address = \"10.0.1.1\", port = \"1000-2023\"",
            Backend::IoUring,
            None,
        ),
        (
            "address = \"10.0.1.1\", port = \"1000-2024\"",
            Backend::IoUring,
            Some(ANSWERS),
        ),
    ] {
        let notes = on(backend, &rules(&[input])).notes;
        let of_input = |note: &&String| note.starts_with("in0: ");
        let notes: Vec<&String> = notes.iter().filter(of_input).collect();
        assert_eq!(
            notes.len(),
            usize::from(expected.is_some()),
            "{input}: {notes:?}"
        );
        let told = expected.is_none_or(|text| notes[0].contains(text));
        assert!(told, "{input}: {notes:?}");
    }
    let local = on(
        Backend::Xdp,
        &rules(&["address = \"10.0.1.1\", port = \"any\", local = true"]),
    );
    assert!(!local.notes.iter().any(|note| note.contains(TAKES_ALL)));
}

#[test]
fn on_io_uring_few_ports_are_held_that_no_program_may_want() {
    let document = rules(&[
        "address = \"10.0.1.1\", port = \"5001-5003\"",
        "address = \"10.0.1.1\", port = 5002, local = true",
        "address = \"10.0.1.1\", port = \"any\"",
        "address = \"10.0.1.1\", port = 5001, source = \"10.0.1.7\"",
        "address = \"2001:db8:0:1::1\", port = 5001",
        "group = \"239.1.1.1\", port = 5009",
    ]);
    let held = |backend| -> Vec<(String, u16, u32)> {
        let sinks = on(backend, &document).sinks().into_iter();
        sinks
            .map(|one| (one.address.to_string(), one.port, one.scope))
            .collect()
    };
    let at = |address: &str, port| (address.to_owned(), port, 0);
    let expected = [
        at("10.0.1.1", 5001),
        at("10.0.1.1", 5003),
        at("2001:db8:0:1::1", 5001),
    ];
    assert_eq!(held(Backend::IoUring), expected);
    assert_eq!(held(Backend::Xdp), []);
}

#[test]
fn a_program_that_listens_and_gets_nothing_on_xdp_is_noted() {
    const LISTENS: &str = "a program of this host listens on a port of the rule";
    let host = HostFacts {
        bystanders: Bystanders::default()
            .with_listening([10, 0, 1, 1], 5001)
            .with_listening([0, 0, 0, 0], 5002)
            .with_listening([10, 0, 2, 1], 5003),
        ..host()
    };
    for (input, backend, expected) in [
        ("port = 5001", Backend::Xdp, true),
        ("port = \"5002-5009\"", Backend::Xdp, true),
        ("port = 5003", Backend::Xdp, false),
        ("port = 5001, local = true", Backend::Xdp, false),
        ("port = 5001", Backend::IoUring, false),
    ] {
        let document = rules(&[&format!("address = \"10.0.1.1\", {input}")]);
        let constraints = Constraints {
            forced: Some(backend),
            ..Constraints::default()
        };
        let plan = build(&document, &host, &constraints).unwrap();
        let told = plan.notes.iter().any(|note| note.contains(LISTENS));
        assert_eq!(told, expected, "{input}: {:?}", plan.notes);
    }
}
