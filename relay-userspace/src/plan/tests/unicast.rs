//! Unicast outputs: where the kernel's routing leads, and what waits for a route.

use std::net::IpAddr;

use super::*;
use crate::host::{
    RouteAnswer,
    routes::{NoRoute, Route},
};

/// One rule from in0 with these outputs.
fn rule(outputs: &[&str]) -> Document {
    let outputs: Vec<String> = outputs
        .iter()
        .map(|output| format!("{{ {output} }}"))
        .collect();
    let text = format!(
        "[[rules]]\nname = \"r\"\n\
         input = {{ interface = \"in0\", group = \"239.1.1.1\", port = 5001 }}\n\
         outputs = [{}]\n",
        outputs.join(", ")
    );
    config::parse("relay.toml", &text).unwrap()
}

/// Facts of in0 (1), out0 (2) and out1 (3), with the kernel's answers by destination: interface,
/// gateway and source, as far as there are any.
fn facts_with(document: &Document, answers: &[(&str, Result<&str, NoRoute>)]) -> HostFacts {
    let names = ["in0", "out0", "out1"];
    let interfaces = (1..).zip(names);
    let mut facts = host_facts(interfaces.map(|(index, name)| nic(name, index, 1, 1)));
    for destination in destinations(document) {
        let to = destination.query.destination;
        let is_for = |(of, _): &&(&str, _)| of.parse::<IpAddr>().unwrap() == to;
        let Some((_, answer)) = answers.iter().find(is_for) else {
            continue;
        };
        let answer = answer.clone().map(|text| {
            let words: Vec<&str> = text.split(' ').collect();
            Route {
                interface: facts.interfaces[words[0]].index,
                gateway: words[1].parse().ok(),
                source: words[2].parse().ok(),
            }
        });
        let query = destination.query;
        facts
            .routes
            .insert(destination, RouteAnswer { query, answer });
    }
    facts
}

fn arranged(document: &Document, facts: &HostFacts) -> Arrangement {
    arrange(document, facts, &Constraints::default()).unwrap()
}

/// Every running output: its position, interface, next hop and source.
fn ways(plan: &Plan) -> Vec<String> {
    let way = |output: &Output| {
        let next_hop = match output.to {
            LinkDestination::NextHop(host) => host.to_string(),
            LinkDestination::Group(_) => "group".into(),
        };
        let source = output.source.map(|source| source.to_string());
        format!(
            "{} {} {next_hop} {}{}",
            output.position,
            plan.interfaces[output.interface].name,
            source.unwrap_or("keep".into()),
            if output.is_routed { " routed" } else { "" }
        )
    };
    let outputs = plan.flows.iter().flat_map(|flow| &flow.outputs);
    outputs.map(way).collect()
}

#[test]
fn a_unicast_output_has_the_interface_the_next_hop_and_the_source_of_its_route() {
    let document = rule(&[
        "address = \"10.20.0.1\", port = 1",
        "address = \"10.20.0.2\", port = 2, interface = \"out1\"",
        "address = \"10.20.0.3\", port = 3, source = \"keep\"",
        "address = \"10.20.0.4\", port = 4, source = \"192.0.2.1\"",
        "interface = \"out0\", group = \"239.2.2.2\", port = 5",
        "address = \"2001:db8:20::1\", port = 6",
        "address = \"10.20.0.5\", port = 7",
    ]);
    let mut facts = facts_with(
        &document,
        &[
            ("10.20.0.1", Ok("out0 10.0.2.9 10.0.2.2")),
            ("10.20.0.2", Ok("out1 - 10.0.3.1")),
            ("10.20.0.3", Ok("out0 10.0.2.9 10.0.2.1")),
            ("10.20.0.4", Ok("out1 fe80::9 10.0.3.1")),
            ("2001:db8:20::1", Ok("out1 fe80::9 2001:db8:0:3::1")),
            // Without an address of its own: that of another interface.
            ("10.20.0.5", Ok("out1 - 10.0.1.1")),
        ],
    );
    let right = [
        "0 out0 10.0.2.9 10.0.2.2 routed",
        "1 out1 10.20.0.2 10.0.3.1",
        "2 out0 10.0.2.9 keep routed",
        "3 out1 fe80::9 192.0.2.1 routed",
        "4 out0 group 10.0.2.1",
        "5 out1 fe80::9 2001:db8:0:3::1 routed",
        "6 out1 10.20.0.5 10.0.1.1 routed",
    ];
    let arrangement = arranged(&document, &facts);
    assert_eq!(ways(&arrangement.plan), right);
    assert_eq!(arrangement.pending_outputs, []);
    assert_eq!(ways(&auto(&document, &facts).unwrap()), right);
    // The route of each says its source, so the interface needs none.
    facts.interfaces.get_mut("out1").unwrap().addresses.clear();
    assert_eq!(ways(&arranged(&document, &facts).plan), right);
}

#[test]
fn an_output_without_a_route_waits_and_keeps_neither_its_rule_nor_the_others_from_running() {
    let document = rule(&[
        "address = \"10.20.0.1\", port = 1",
        "address = \"10.20.0.2\", port = 2",
        "address = \"10.20.0.3\", port = 3, mark = 7",
        "address = \"10.20.0.4\", port = 4",
        "address = \"10.20.0.5\", port = 5, interface = \"out9\"",
    ]);
    let facts = facts_with(
        &document,
        &[
            ("10.20.0.1", Err(NoRoute::Missing)),
            ("10.20.0.2", Ok("out0 - 10.0.2.1")),
            ("10.20.0.3", Err(NoRoute::Prohibited)),
            ("10.20.0.4", Err(NoRoute::Local)),
        ],
    );
    let arrangement = arranged(&document, &facts);
    assert_eq!(
        ways(&arrangement.plan),
        ["1 out0 10.20.0.2 10.0.2.1 routed"]
    );
    assert_eq!(arrangement.pending_rules, []);
    let pending = arrangement.pending_outputs.iter();
    let pending: Vec<_> = pending.map(|(_, at, why)| (*at, why.as_ref())).collect();
    assert_eq!(
        pending,
        [
            (
                0,
                "there is no route to 10.20.0.1; `ip route get 10.20.0.1` asks the kernel"
            ),
            (
                2,
                "no way to 10.20.0.3: the route is of type `prohibit`; `ip route get 10.20.0.3 \
                 mark 7` asks the kernel"
            ),
            (3, "10.20.0.4 is an address of this host; name another host"),
            (4, "waiting for interface out9: there is none of that name"),
        ]
    );
    let waits = arrangement.plan.flows[FlowId::new(0)].pending.iter();
    let waits: Vec<_> = waits.map(|one| (one.position, one.waits_for)).collect();
    let (route, interface) = (WaitsFor::Route, WaitsFor::Interface);
    assert_eq!(waits, [(0, route), (2, route), (3, route), (4, interface)]);
}

#[test]
fn a_rule_whose_outputs_all_wait_for_routes_runs_and_one_without_its_interfaces_does_not() {
    let outputs = [
        "address = \"10.20.0.1\", port = 1",
        "interface = \"out9\", group = \"239.2.2.2\"",
    ];
    let document = rule(&outputs);
    let missing = [("10.20.0.1", Err(NoRoute::Missing))];
    let facts = facts_with(&document, &missing);
    let arrangement = arranged(&document, &facts);
    assert_eq!(arrangement.pending_rules, []);
    let flow = &arrangement.plan.flows[FlowId::new(0)];
    assert_eq!((flow.outputs.len(), flow.pending.len()), (0, 2));
    assert_eq!(arrangement.plan.workers.len(), 1);
    let document = rule(&outputs[1..]);
    let arrangement = arranged(&document, &facts_with(&document, &[]));
    assert_eq!(arrangement.pending_rules.len(), 1);
    assert_eq!(arrangement.plan.flows.len(), 0);
    // Strictly, a route that is missing is no mistake.
    let document = rule(&outputs[..1]);
    let plan = auto(&document, &facts_with(&document, &missing)).unwrap();
    assert_eq!(plan.flows[FlowId::new(0)].pending.len(), 1);
    let notes: Vec<_> = plan
        .notes
        .iter()
        .filter(|note| note.contains("waits"))
        .collect();
    assert_eq!(
        notes,
        [
            "output 1 of rule r waits: there is no route to 10.20.0.1; `ip route get 10.20.0.1` asks \
          the kernel"
        ]
    );
}
