//! Source addresses that are not those of the output's interface.

use std::{collections::BTreeSet, net::IpAddr};

use super::*;

/// A rule with these outputs, which have an interface and a group.
fn with(outputs: &[&str]) -> Document {
    let outputs = outputs.iter().zip(1..);
    let outputs = outputs.map(|(keys, number)| {
        format!("{{ interface = \"out0\", group = \"239.2.2.{number}\", port = 5002{keys} }}")
    });
    let text = format!(
        "[[rules]]\nname = \"r\"\ninput = {{ interface = \"in0\", group = \"239.1.1.1\", port = 1 }}\n\
         outputs = [{}]\n",
        outputs.collect::<Vec<_>>().join(", ")
    );
    config::parse("relay.toml", &text).unwrap()
}

fn facts() -> HostFacts {
    HostFacts {
        // One that no interface of the rules has.
        addresses: [([10, 0, 9, 1].into(), vec!["lo".to_owned()])].into(),
        ..host_facts([nic("in0", 1, 1, 1), nic("out0", 2, 1, 1)])
    }
}

#[test]
fn only_addresses_of_this_host_are_own_sources() {
    let own = |outputs: &[&str]| {
        let plan = auto(&with(outputs), &facts()).unwrap();
        let notes = plan.notes.iter().filter(|note| note.contains("leave with"));
        (plan.own_sources.clone(), notes.cloned().collect::<Vec<_>>())
    };
    let set = |list: &[[u8; 4]]| -> BTreeSet<IpAddr> {
        list.iter().map(|&address| address.into()).collect()
    };
    assert_eq!(own(&[""]), (set(&[[10, 0, 2, 1]]), Vec::new()));
    assert_eq!(own(&[", source = \"keep\""]).0, set(&[]));
    // Of this interface, of another one that the rules name, of one that they do not name.
    let three = [
        ", source = \"10.0.2.2\"",
        ", source = \"10.0.1.1\"",
        ", source = \"10.0.9.1\"",
    ];
    let all = set(&[[10, 0, 2, 2], [10, 0, 1, 1], [10, 0, 9, 1]]);
    assert_eq!(own(&three), (all, Vec::new()));
    let foreign = [", source = \"10.0.2.2\"", ", source = \"203.0.113.7\""];
    let (sources, notes) = own(&foreign);
    assert_eq!(sources, set(&[[10, 0, 2, 2]]));
    assert_eq!(notes.len(), 1, "{notes:?}");
    let said =
        "Copies of rule `r` leave with a source that no interface of this host has: 203.0.113.7.";
    assert!(notes[0].starts_with(said), "{notes:?}");
}

#[test]
fn copies_with_another_source_need_no_address_on_their_interface() {
    let mut facts = facts();
    facts.interfaces.get_mut("out0").unwrap().addresses.clear();
    let others = with(&[", source = \"keep\"", ", source = \"203.0.113.7\""]);
    let plan = auto(&others, &facts).unwrap();
    let sources: Vec<Option<IpAddr>> = plan.flows[0].outputs.iter().map(|o| o.source).collect();
    assert_eq!(sources, [None, Some([203, 0, 113, 7].into())]);
    let kept = "Copies of rule `r` keep the source of their datagrams";
    assert!(
        plan.notes.iter().any(|note| note.starts_with(kept)),
        "{:?}",
        plan.notes
    );

    let mixed = with(&[", source = \"keep\"", ""]);
    let mistakes = auto(&mixed, &facts).unwrap_err().to_string();
    assert!(
        mistakes.contains("`out0` has no IPv4 address to send from"),
        "{mistakes}"
    );
    let arranged = arrange(&mixed, &facts, &Constraints::default()).unwrap();
    assert_eq!(arranged.plan.flows[0].outputs.len(), 1);
    assert_eq!(arranged.plan.flows[0].outputs[0].source, None);
    let (_, position, reason) = &arranged.pending_outputs[0];
    assert_eq!(*position, 1);
    assert!(reason.contains("no IPv4 address to send from"), "{reason}");
}
