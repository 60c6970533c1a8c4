//! Ten thousand rules of every form at once: each takes what it must and nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::encapsulation::{CUSTOMER, Encapsulation, SERVICE, Tag, vlan_key};
use relay_tests::frames::UdpFrame;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::Rule;
use relay_tests::scenario::ARRIVAL;
use relay_tests::sender::Pacer;
use relay_tests::topology::Testbed;

const RULES: u32 = 10_000;
/// Datagrams per second.
const RATE: u32 = 10_000;
/// Groups that no other rule has, from the rule's own on.
const BLOCK: u32 = 16;
const FIRST_GROUP: Ipv4Addr = Ipv4Addr::new(239, 16, 0, 0);
const FIRST_OUTPUT: Ipv4Addr = Ipv4Addr::new(238, 16, 0, 0);
const FORMS: u32 = 5;

/// A datagram as a test of matching sees it.
#[derive(Debug, Clone)]
struct Probe {
    source: IpAddr,
    group: IpAddr,
    port: u16,
    tags: Vec<Tag>,
}

/// A rule, a datagram that it must take, and one that it must not take, nor any other.
struct Case {
    rule: Rule,
    takes: Probe,
    leaves: Probe,
}

/// `number` places behind an address.
fn behind(address: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() + number)
}

fn case(number: u32) -> Case {
    let encapsulation = match number / FORMS % 4 {
        0 => Encapsulation::Ipv4,
        1 => Encapsulation::Ipv6,
        2 => Encapsulation::Tagged,
        _ => Encapsulation::DoubleTagged6,
    };
    let vlan = |of: u32| (of % 4094) as u16 + 1;
    let tags = match encapsulation.tags() {
        [] => Vec::new(),
        [_] => vec![(CUSTOMER, vlan(number))],
        _ => vec![(SERVICE, vlan(number)), (CUSTOMER, vlan(number / 7))],
    };
    let (group, port) = (
        behind(FIRST_GROUP, number * BLOCK),
        5000 + (number % 1000) as u16,
    );
    let host = |last: u32| Ipv4Addr::new(10, 9, 0, last as u8);
    let any = (number * 37 % 65_535) as u16 + 1;
    // The keys; what is taken, and what differs from it in one thing: source, group, port.
    let (keys, takes, leaves) = match number % FORMS {
        0 => (
            format!("group = \"{group}\", port = {port}"),
            (host(1), group, port),
            (host(1), group, port + 1),
        ),
        1 => {
            let sources: Vec<String> = (1..=1 + number / FORMS % 3)
                .map(|last| format!("\"{}\"", host(last)))
                .collect();
            let last = sources.len() as u32;
            (
                format!(
                    "group = \"{group}\", port = {port}, source = [{}]",
                    sources.join(", ")
                ),
                (host(last), group, port),
                (host(last + 1), group, port),
            )
        }
        2 => (
            format!("group = \"{group}/29\", port = {port}, join = false"),
            (host(1), behind(group, 7), port),
            (host(1), behind(group, 8), port),
        ),
        3 => (
            format!("group = \"{group}\", port = \"{port}-{}\"", port + 9),
            (host(1), group, port + 9),
            (host(1), group, port + 10),
        ),
        _ => (
            format!("group = \"{group}/30\", port = \"any\", join = false"),
            (host(1), behind(group, 3), any),
            (host(1), behind(group, 4), any),
        ),
    };
    // Its VLANs are those of the encapsulation no more.
    let untagged = match encapsulation.is_ipv6() {
        true => Encapsulation::Ipv6,
        false => Encapsulation::Ipv4,
    };
    let keys = untagged.input_keys(&keys) + &vlan_key(&tags);
    let output = encapsulation.output(behind(FIRST_OUTPUT, number));
    let rule = Rule::new(format!("rule-{number}"), "in0", group, port)
        .takes(&keys)
        .output("out0", output, 7000);
    let probe = |(source, group, port): (Ipv4Addr, Ipv4Addr, u16)| Probe {
        source: encapsulation.input(source),
        group: encapsulation.input(group),
        port,
        tags: tags.clone(),
    };
    let takes = probe(takes);
    let leaves = if number.is_multiple_of(3) {
        // It differs in its VLAN: another one, the outer one alone, or one where there must be
        // none.
        let tags = match tags.as_slice() {
            [] => vec![(CUSTOMER, vlan(number))],
            [(ether_type, id)] => vec![(*ether_type, id % 4094 + 1)],
            [outer, ..] => vec![*outer],
        };
        Probe {
            tags,
            ..takes.clone()
        }
    } else {
        probe(leaves)
    };
    Case {
        rule,
        takes,
        leaves,
    }
}

fn m10_each_of_ten_thousand_mixed_rules_takes_its_own_and_nothing_else(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let cases: Vec<Case> = (0..RULES).map(case).collect();
    let rules: Vec<Rule> = cases.iter().map(|case| case.rule.clone()).collect();
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let (sender, mut pacer) = (RawSender::open(&bed.sources[0])?, Pacer::new(RATE, 16));
    let mut send = |probe: &Probe, payload: String| -> Result<()> {
        let source = &bed.sources[0];
        let mut frame = UdpFrame::new(source, probe.group, probe.port, payload.into_bytes());
        frame.source = probe.source;
        frame.tags.clone_from(&probe.tags);
        pacer.wait();
        sender.send(&frame.build()?)
    };
    for (number, case) in cases.iter().enumerate() {
        send(&case.leaves, format!("left {number}"))?;
        send(&case.takes, format!("taken {number}"))?;
    }
    let all = |frames: &[Frame]| {
        frames
            .iter()
            .map(|one| one.datagrams().len())
            .sum::<usize>()
    };
    wire.wait_until(ARRIVAL, |frames| all(frames) >= RULES as usize);
    wire.settle();
    let mut arrived: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for copy in wire.datagrams() {
        let payload = String::from_utf8_lossy(&copy.payload).into_owned();
        arrived.entry(copy.destination).or_default().push(payload);
    }
    for (number, case) in cases.iter().enumerate() {
        let output = &case.rule.outputs[0].group;
        let found = arrived.remove(output).unwrap_or_default();
        let keys = &case.rule.takes;
        ensure!(
            found == [format!("taken {number}")],
            "rule {number} ({keys:?}), to which {:?} and {:?} were sent, gave {found:?}: {}",
            case.takes,
            case.leaves,
            relay.log()
        );
    }
    ensure!(arrived.is_empty(), "{arrived:?}");
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&vec![1; RULES as usize]);
    let passed = ["pass_no_rule", "pass_vlan"].map(|one| stopped.report.filter("in0", one));
    assert_eq!(passed.iter().sum::<u64>(), u64::from(RULES), "{passed:?}");
    Ok(())
}

relay_tests::on_both_backends! {
    m10_each_of_ten_thousand_mixed_rules_takes_its_own_and_nothing_else,
}
