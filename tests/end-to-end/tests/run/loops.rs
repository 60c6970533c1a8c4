//! Loops in the network around relays: a datagram that is sent once must not circulate for ever,
//! and what is dropped for that is counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use relay_tests::backend::Backend;
use relay_tests::encapsulation::{CUSTOMER, Encapsulation};
use relay_tests::frames::{UdpFrame, group_mac};
use relay_tests::inspect::UdpChecksum;
use relay_tests::looped::{Bridged, Ring, foreign, onwards};
use relay_tests::payload::payload;
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::relay::{RelayProcess, RuleFile, relay};
use relay_tests::report::Report;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, output_destination};
use relay_tests::scenario::{Receivers, tx_methods};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

/// If no frame arrives for this long, none circulates any more: one round takes some ten
/// microseconds.
const REST: Duration = Duration::from_millis(300);
/// How long a test waits for that. A frame that circulates for ever shows long before.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until no frame arrives at any of `endpoints` any more, at most for [`PATIENCE`].
fn come_to_rest(endpoints: &[&Endpoint]) -> Result<()> {
    let arrived =
        || -> Result<Vec<u64>> { endpoints.iter().map(|e| e.frames_received()).collect() };
    let deadline = Instant::now() + PATIENCE;
    let mut last = arrived()?;
    while Instant::now() < deadline {
        thread::sleep(REST);
        let now = arrived()?;
        if now == last {
            return Ok(());
        }
        last = now;
    }
    bail!("frames still arrive after {PATIENCE:?}")
}

fn sum(reports: &[Report], of: impl Fn(&Report) -> u64) -> u64 {
    reports.iter().map(of).sum()
}

/// These copies leave untagged, so a loop brings no tagged ones back.
const VERSIONS: [Encapsulation; 2] = [Encapsulation::Ipv4, Encapsulation::Ipv6];

fn l1_in_a_ring_of_two_relays_a_datagram_passes_at_most_32_relays(backend: Backend) -> Result<()> {
    // The TTL that a datagram arrives with, and how many relays pass it on.
    const PASSES: [(u8, u64); 6] = [(1, 32), (8, 32), (32, 32), (33, 0), (64, 31), (255, 32)];
    let rules: Vec<Rule> = VERSIONS.map(onwards).concat();
    for (tables, _) in tx_methods(backend, &rules) {
        let ring = Ring::new()?;
        let relays = [
            RelayProcess::start_with(&ring.one, backend, &rules, &tables)?,
            RelayProcess::start_with(&ring.two, backend, &rules, &tables)?,
        ];
        let sender = RawSender::open(&ring.out_two)?;
        for version in VERSIONS {
            for (number, (ttl, _)) in (0..).zip(PASSES) {
                sender.send(&foreign(&ring.out_two, version, number, ttl).build()?)?;
            }
        }
        come_to_rest(&[&ring.in_one, &ring.in_two, &ring.out_one, &ring.out_two])?;
        let mut reports = Vec::new();
        for relay in relays {
            let report = relay.stop()?.report;
            report.assert_balanced();
            reports.push(report);
        }
        let passed: u64 = PASSES.iter().map(|(_, passes)| passes).sum();
        for (rule, version) in VERSIONS.iter().enumerate() {
            let outputs = reports.iter().map(|report| &report.rules[rule].outputs[0]);
            let sent: u64 = outputs.clone().map(|output| output.packets_sent).sum();
            assert_eq!(sent, passed, "{version:?}: {reports:#?}");
            let expired = outputs.map(|output| output.dropped.get("ttl_expired").unwrap_or(&0));
            let expired: u64 = expired.sum();
            assert_eq!(expired, PASSES.len() as u64, "{version:?}: {reports:#?}");
        }
        let expired = sum(&reports, |r| r.dropped_for("ttl_expired"));
        assert_eq!(
            sum(&reports, Report::dropped_total),
            expired,
            "{reports:#?}"
        );
    }
    Ok(())
}

/// Sends datagrams for `rules`, one of each version of IP, behind a bridge that brings every copy
/// back to the input, and fails unless each has one copy, which is told and not taken there.
fn assert_own_copies_stay_out(backend: Backend, rules: &[Rule]) -> Result<()> {
    const COUNT: u64 = 50;
    for (tables, _) in tx_methods(backend, rules) {
        let on = Bridged::new()?;
        let running = RelayProcess::start_with(&on.relay, backend, rules, &tables)?;
        let sender = RawSender::open(&on.port)?;
        for number in 0..COUNT {
            for version in VERSIONS {
                sender.send(&foreign(&on.port, version, number, 1).build()?)?;
            }
        }
        come_to_rest(&[&on.input, &on.back])?;
        let report = running.stop()?.report;
        report.assert_exact(&[COUNT; 2]);
        assert_eq!(report.filter("in0", "own_frame"), 2 * COUNT, "{report:#?}");
    }
    Ok(())
}

fn l1_a_bridge_from_an_output_back_to_the_input_gives_no_second_copy(
    backend: Backend,
) -> Result<()> {
    assert_own_copies_stay_out(backend, &VERSIONS.map(onwards).concat())
}

/// A source that the host does not have is no sign of an own frame: the host that has it is the
/// sender here. The Ethernet source alone tells the copies.
fn l1_copies_with_a_source_of_another_host_are_not_taken_and_that_host_is(
    backend: Backend,
) -> Result<()> {
    let with = |version: Encapsulation, keeps: bool| {
        let sender = version.input(Ipv4Addr::new(10, 9, 0, 77));
        let source = match keeps {
            true => "keep".to_owned(),
            false => sender.to_string(),
        };
        let group = version.input(GROUP_IN);
        let keys = format!("group = \"{group}\", port = {PORT_IN}, source = \"{source}\"");
        let rule = Rule::feed().over(version);
        rule.output_that_goes("out0", &keys)
    };
    [true, false].into_iter().try_for_each(|keeps| {
        let rules = VERSIONS.map(|version| with(version, keeps));
        assert_own_copies_stay_out(backend, &rules)
    })
}

fn l1_an_interface_that_hears_its_own_multicast_takes_none_of_it(backend: Backend) -> Result<()> {
    const COUNT: u64 = 50;
    let (group, port) = output_destination(0);
    // What the first rule of a version sends would match the second one.
    let of = |version| {
        [
            Rule::feed().output("in0", group, port),
            Rule::new("echo", "in0", group, port).output("out0", group, port),
        ]
        .map(|rule| rule.over(version))
    };
    let rules: Vec<Rule> = VERSIONS.map(of).concat();
    for (tables, _) in tx_methods(backend, &rules) {
        let bed = Testbed::builder().ipv6().without_capture().build()?;
        let (input, far) = (&bed.inputs[0], &bed.sources[0]);
        far.namespace
            .ip("link add bridge type bridge mcast_snooping 0")?;
        far.namespace
            .ip(&format!("link set {} master bridge", far.interface))?;
        // The bridge sends frames of its only port back to that port.
        far.namespace.ip(&format!(
            "link set {} type bridge_slave hairpin on",
            far.interface
        ))?;
        far.namespace.ip("link set bridge up")?;
        let relay = RelayProcess::start_with(&bed.relay, backend, &rules, &tables)?;
        let sender = RawSender::open(far)?;
        for number in 0..COUNT {
            for version in VERSIONS {
                sender.send(&foreign(far, version, number, 1).build()?)?;
            }
        }
        come_to_rest(&[input, &bed.receivers[0]])?;
        let report = relay.stop()?.report;
        report.assert_exact(&[COUNT, 0, COUNT, 0]);
        assert_eq!(report.filter("in0", "own_frame"), 2 * COUNT, "{report:#?}");
    }
    Ok(())
}

/// The counter of a frame in the table below, `None` if it is relayed.
type Verdict = Option<&'static str>;

/// Frames of a rule, to the MAC that they are sent to, and what becomes of them.
fn frames_of(version: Encapsulation, bed: &Testbed) -> Vec<(UdpFrame, [u8; 6], Verdict)> {
    let (source, input, output) = (&bed.sources[0], &bed.inputs[0], &bed.outputs[0]);
    let group = version.input(GROUP_IN);
    let plain = UdpFrame::new(source, group, PORT_IN, Vec::new());
    let from = |source: IpAddr| UdpFrame {
        source,
        ..plain.clone()
    };
    let from_mac = |source_mac| UdpFrame {
        source_mac,
        ..plain.clone()
    };
    let priority = UdpFrame {
        tags: vec![(CUSTOMER, 0)],
        ..plain.clone()
    };
    // The loopback address, the unspecified one, and one of each version that no host has.
    let martians: [IpAddr; 3] = match version.is_ipv6() {
        false => [
            Ipv4Addr::LOCALHOST.into(),
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::BROADCAST.into(),
        ],
        true => [
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        ],
    };
    let [first, second, third] = martians.map(from);
    let own = output.address_for(group);
    let to = group_mac(group);
    let mut other_group = to;
    other_group[5] ^= 1;
    vec![
        (plain.clone(), to, None),
        (plain.clone(), input.mac, None),
        (priority, to, None),
        (plain.clone(), output.mac, Some("pass_other_mac")),
        (plain.clone(), other_group, Some("pass_other_mac")),
        (plain.clone(), [0xff; 6], Some("pass_other_mac")),
        (first, to, Some("pass_martian")),
        (second, to, Some("pass_martian")),
        (third, to, Some("pass_martian")),
        (from(group), to, Some("pass_martian")),
        (from_mac([0; 6]), to, Some("pass_martian")),
        (from_mac(to), to, Some("pass_martian")),
        (from(own), to, Some("own_frame")),
        (from_mac(output.mac), to, Some("own_frame")),
    ]
}

fn only_frames_that_a_host_would_take_are_relayed(backend: Backend) -> Result<()> {
    const COUNT: u64 = 20;
    let rules = VERSIONS.map(|version| Rule::feed().outputs("out0", 2).over(version));
    for (tables, _) in tx_methods(backend, &rules) {
        let bed = Testbed::builder().ipv6().without_capture().build()?;
        // Frames, not GSO packets, and complete checksums.
        bed.outputs[0].set_checksum_offload(false)?;
        let receivers = Receivers::with_headers(&bed, &rules)?;
        let wire = RawReceiver::start(&bed.receivers[0])?;
        let relay = RelayProcess::start_with(&bed.relay, backend, &rules, &tables)?;
        let sender = RawSender::open(&bed.sources[0])?;
        let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
        let mut streams = Vec::new();
        for (flow, version) in (0..).zip(VERSIONS) {
            // Those that are relayed come first, and have the numbers from 0 on.
            let mut number = 0;
            let mut relayed = 0;
            for (frame, to, verdict) in frames_of(version, &bed) {
                for _ in 0..COUNT {
                    let payload = payload(flow, number, 100);
                    number += 1;
                    let mut bytes = UdpFrame {
                        payload,
                        ..frame.clone()
                    }
                    .build()?;
                    bytes[..6].copy_from_slice(&to);
                    sender.send(&bytes)?;
                }
                match verdict {
                    Some(counter) => *expected.entry(counter).or_default() += COUNT,
                    None => relayed += COUNT,
                }
            }
            streams.push(Stream::new(flow, relayed, 100));
        }
        receivers.assert_exact(&streams);
        for copy in wire.datagrams() {
            assert_eq!(copy.checksum, UdpChecksum::Valid, "{copy:?}");
        }
        let report = relay.stop()?.report;
        let relayed: Vec<u64> = streams.iter().map(|stream| stream.count).collect();
        report.assert_exact(&relayed);
        for (counter, times) in expected {
            assert_eq!(
                report.filter("in0", counter),
                times,
                "{counter}: {report:#?}"
            );
        }
    }
    Ok(())
}

/// The notes of the plan for `rules`.
fn notes(rules: &[Rule]) -> Result<String> {
    let bed = Testbed::builder().without_capture().build()?;
    let file = RuleFile::of(rules)?;
    let path = file.path().to_str().ok_or_else(|| anyhow!("a path"))?;
    Ok(relay(&bed.relay, &["plan", path])?.stdout)
}

#[test]
fn l1_the_plan_says_where_a_fixed_ttl_makes_a_ring_possible_and_where_rules_cannot_be_chained()
-> Result<()> {
    let (group, port) = output_destination(0);
    let shown = notes(&[Rule::feed().output("out0", group, port)])?;
    assert!(!shown.contains("for ever"), "{shown}");
    let shown = notes(&[Rule::feed()
        .output("out0", group, port)
        .ttl("\"decrement\"")])?;
    assert!(!shown.contains("for ever"), "{shown}");
    let shown = notes(&[Rule::feed().output("out0", group, port).ttl("8")])?;
    assert!(shown.contains("for ever"), "{shown}");
    let shown = notes(&[
        Rule::feed().output("in0", group, port),
        Rule::new("echo", "in0", group, port).output("out0", group, port),
    ])?;
    assert!(shown.contains("own copies"), "{shown}");
    Ok(())
}

relay_tests::on_both_backends! {
    l1_in_a_ring_of_two_relays_a_datagram_passes_at_most_32_relays,
    l1_a_bridge_from_an_output_back_to_the_input_gives_no_second_copy,
    l1_copies_with_a_source_of_another_host_are_not_taken_and_that_host_is,
    l1_an_interface_that_hears_its_own_multicast_takes_none_of_it,
    only_frames_that_a_host_would_take_are_relayed,
}
