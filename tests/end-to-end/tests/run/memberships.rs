//! Memberships as the network sees them: what the relay's host says in IGMP and MLD, at the other
//! ends of the inputs' wires.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::inspect::{Membership, memberships};
use relay_tests::raw::{Frame, RawReceiver};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{PORT_IN, Rule};
use relay_tests::scenario::ARRIVAL;
use relay_tests::topology::Testbed;

/// Groups of any source, and as many of one source: more than the 20 that the kernel allows one
/// socket.
const GROUPS: u8 = 50;
/// Sources of one rule: more than the 10 that the kernel allows one socket and group.
const SOURCES: u8 = 12;
const INPUTS: u8 = 2;

/// What a rule joins.
#[derive(Debug, Clone)]
struct Joins {
    name: String,
    /// The number of its input.
    input: u8,
    group: IpAddr,
    /// Empty for any.
    sources: Vec<IpAddr>,
}

impl Joins {
    /// What a host says that joins, or leaves, all of this. Hosts of the older versions say nothing
    /// of sources.
    fn said(&self, is_join: bool, with_sources: bool) -> Vec<Membership> {
        let group = self.group;
        let of_any = if is_join {
            Membership::Join
        } else {
            Membership::Leave
        };
        let of_one = if is_join {
            Membership::JoinSource
        } else {
            Membership::LeaveSource
        };
        if self.sources.is_empty() || !with_sources {
            return vec![of_any(group)];
        }
        self.sources.iter().map(|one| of_one(group, *one)).collect()
    }
}

/// Rules over both versions of IP, of any source, of one source, and of many.
fn rules() -> (Vec<Rule>, Vec<Joins>) {
    let (mut rules, mut joins) = (Vec::new(), Vec::new());
    let mut add = |number: u8, group: Ipv4Addr, sources: &[Ipv4Addr]| {
        let input = number % INPUTS;
        let quoted: Vec<String> = sources.iter().map(|one| format!("\"{one}\"")).collect();
        let mut keys = format!("group = \"{group}\", port = {PORT_IN}");
        if !sources.is_empty() {
            keys += &format!(", source = [{}]", quoted.join(", "));
        }
        for one in [Encapsulation::Ipv4, Encapsulation::Ipv6] {
            let to = Ipv4Addr::new(238, 1, 0, number);
            let rule = Rule::new(format!("{group}"), &format!("in{input}"), group, PORT_IN);
            let rule = rule
                .takes(&keys)
                .output("out0", to, 6000 + rules.len() as u16)
                .over(one);
            joins.push(Joins {
                name: rule.name.clone(),
                input,
                group: one.input(group),
                sources: sources.iter().map(|source| one.input(*source)).collect(),
            });
            rules.push(rule);
        }
    };
    let source = |number: u8| Ipv4Addr::new(10, 9, 0, number + 1);
    for number in 0..GROUPS {
        add(number, Ipv4Addr::new(239, 7, 0, number), &[]);
        add(number, Ipv4Addr::new(232, 7, 0, number), &[source(number)]);
    }
    let many: Vec<Ipv4Addr> = (0..SOURCES).map(source).collect();
    add(0, Ipv4Addr::new(232, 8, 0, 0), &many);
    (rules, joins)
}

/// All that was said.
fn heard(frames: &[Frame]) -> BTreeSet<Membership> {
    frames
        .iter()
        .flat_map(|frame| memberships(&frame.bytes))
        .collect()
}

/// Fails unless at the wire of each input everything is said that the rules of that input want, and
/// nothing of those that `others` has.
fn assert_said<'a>(
    wires: &[RawReceiver],
    wanted: impl Iterator<Item = &'a Joins> + Clone,
    others: impl Iterator<Item = &'a Joins> + Clone,
    is_join: bool,
    with_sources: bool,
) -> Result<()> {
    for (wire, input) in wires.iter().zip(0..) {
        let of = |joins: &Joins| joins.said(is_join, with_sources);
        let here = wanted.clone().filter(|one| one.input == input);
        let all: BTreeSet<Membership> = here.flat_map(of).collect();
        let said = wire.wait_until(ARRIVAL, |frames| heard(frames).is_superset(&all));
        let heard = heard(&wire.frames());
        let missing: Vec<_> = all.difference(&heard).collect();
        ensure!(said, "not said on in{input}: {missing:?}");
        let elsewhere = wanted.clone().filter(|one| one.input != input);
        let none: BTreeSet<Membership> = elsewhere.chain(others.clone()).flat_map(of).collect();
        let wrong: Vec<_> = none.intersection(&heard).collect();
        ensure!(wrong.is_empty(), "said on in{input}: {wrong:?}");
    }
    Ok(())
}

fn m8_groups_and_sources_are_asked_for_on_the_wire_and_left_with_their_rule(
    backend: Backend,
) -> Result<()> {
    // What the kernel speaks by itself, IGMPv3 and MLDv2, and what it speaks where it must.
    for (igmp, mld) in [("0", "0"), ("2", "1")] {
        let with_sources = igmp == "0";
        let bed = Testbed::builder().inputs(INPUTS.into()).ipv6();
        let bed = bed.without_capture().build()?;
        for near in &bed.inputs {
            let name = &near.interface;
            bed.relay
                .sysctl(&format!("ipv4/conf/{name}/force_igmp_version"), igmp)?;
            bed.relay
                .sysctl(&format!("ipv6/conf/{name}/force_mld_version"), mld)?;
        }
        let wires = bed.sources.iter().map(RawReceiver::start);
        let wires: Vec<RawReceiver> = wires.collect::<Result<_>>()?;
        let (rules, joins) = rules();
        let none = || std::iter::empty::<&Joins>();
        let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
        assert_said(&wires, joins.iter(), none(), true, with_sources)?;
        assert_said(&wires, none(), joins.iter(), false, with_sources)?;
        // One of any source, one of one source and one of many sources, of both versions of IP; and
        // the others go on.
        let is_removed = |joins: &&Joins| {
            let last = ["239.7.0.3-", "232.7.0.8-", "232.8.0.0-"];
            last.iter()
                .any(|beginning| joins.name.starts_with(beginning))
        };
        let removed = joins.iter().filter(is_removed);
        assert_eq!(removed.clone().count(), 6);
        for joins in removed.clone() {
            let answer = relay.verb(&["remove", &joins.name])?;
            ensure!(answer.code == Some(0), "{answer:?}");
        }
        let others = joins.iter().filter(|joins| !is_removed(joins));
        assert_said(&wires, removed, others, false, with_sources)?;
        relay.stop()?;
        assert_said(&wires, joins.iter(), none(), false, with_sources)?;
    }
    Ok(())
}

/// The kernel ends an interface's IPv6 where its MTU falls below 1280, and tells the sockets that
/// joined groups there nothing.
fn groups_are_asked_for_again_after_an_mtu_too_small_for_ipv6(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().inputs(INPUTS.into()).ipv6();
    let bed = bed.without_capture().build()?;
    let (rules, joins) = rules();
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    for near in &bed.inputs {
        near.namespace
            .ip(&format!("link set {} mtu 1279", near.interface))?;
    }
    let wires = bed.sources.iter().map(RawReceiver::start);
    let wires: Vec<RawReceiver> = wires.collect::<Result<_>>()?;
    for near in &bed.inputs {
        near.namespace
            .ip(&format!("link set {} mtu 1500", near.interface))?;
        // The settings of the interface went with it.
        let key = format!("ipv6/conf/{}/disable_ipv6", near.interface);
        near.namespace.sysctl(&key, "0")?;
    }
    let over_ipv6 = joins.iter().filter(|one| one.group.is_ipv6());
    assert_said(&wires, over_ipv6, std::iter::empty(), true, true)?;
    relay.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    groups_are_asked_for_again_after_an_mtu_too_small_for_ipv6,
    m8_groups_and_sources_are_asked_for_on_the_wire_and_left_with_their_rule,
}
