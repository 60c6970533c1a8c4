//! What rules match: sources, prefixes, ports and VLANs, over IPv4 and IPv6. The most specific rule
//! takes a datagram, and no datagram is lost while that changes.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use relay_tests::encapsulation::Encapsulation;
use relay_tests::frames::UdpFrame;
use relay_tests::methods::Method;
use relay_tests::payload::payload;
use relay_tests::raw::RawSender;
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, to_toml};
use relay_tests::scenario::Receivers;
use relay_tests::sender::Pacer;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

use super::under_traffic;

/// Datagrams of each kind.
const COUNT: u64 = 80;
const SIZE: usize = 700;
/// Frames per second, of all kinds together.
const RATE: u32 = 5_000;
/// The flow of datagrams that no rule takes.
const NOBODY: u32 = 99;
/// Where the tags are what a test is about.
const UNTAGGED: [Encapsulation; 2] = [Encapsulation::Ipv4, Encapsulation::Ipv6];

const SENDER: [u8; 4] = [10, 1, 0, 2];
const SECOND: [u8; 4] = [10, 1, 0, 7];
const STRANGER: [u8; 4] = [10, 1, 0, 9];

/// A rule `name` for datagrams that `input` says, keys as a file has them, with two outputs of its
/// own.
fn rule(number: u8, name: &str, input: &str) -> Rule {
    let group = |block: u8| Ipv4Addr::new(239, block, 200, number);
    Rule::new(name, "in0", GROUP_IN, PORT_IN)
        .takes(input)
        .output("out0", group(2), 6000)
        .output("out0", group(3), 6001)
}

/// Datagrams that are alike, and the rule that takes them, by its position. The tags are in front
/// of those of the encapsulation.
#[derive(Debug, Clone, Copy)]
struct Kind {
    taken_by: Option<usize>,
    source: [u8; 4],
    group: [u8; 4],
    port: u16,
    /// EtherType and identifier of each tag, the outer one first.
    tags: &'static [(u16, u16)],
}

/// What the usual sender sends to the usual group.
const USUAL: Kind = Kind {
    taken_by: None,
    source: SENDER,
    group: GROUP_IN.octets(),
    port: PORT_IN,
    tags: &[],
};

/// Sends datagrams of all `kinds` in turns, and fails unless each arrived, once and in order, at
/// the outputs of the rule that takes it, and nowhere else. Receivers get untagged frames only.
///
/// The rules run in each of the encapsulations at the same time, and differ in nothing else.
fn each_at_its_rule(
    method: Method,
    encapsulations: &[Encapsulation],
    rules: &[Rule],
    kinds: &[Kind],
) -> Result<()> {
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let of = |one: &Encapsulation| rules.iter().map(|rule| rule.clone().over(*one)).collect();
    let every: Vec<Vec<Rule>> = encapsulations.iter().map(of).collect();
    let every = every.concat();
    let receivers = Receivers::with_headers(&bed, &every)?;
    let relay = method.start(&bed, &every)?;
    let source = &bed.sources[0];
    let sender = RawSender::open(source)?;
    let mut counts = vec![0; every.len()];
    let (mut unmatched, mut pacer) = (0, Pacer::new(RATE, 16));
    for round in 0..COUNT {
        // The relay finds some of each at once, and joins what it may.
        let paused = (round % 8 == 0).then(|| relay.pause()).transpose()?;
        for kind in kinds {
            for (number, encapsulation) in encapsulations.iter().enumerate() {
                let taken_by = kind.taken_by.map(|rule| number * rules.len() + rule);
                let next = match taken_by {
                    Some(rule) => &mut counts[rule],
                    None => &mut unmatched,
                };
                let flow = taken_by.map_or(NOBODY, |rule| rule as u32);
                let bytes = payload(flow, *next, SIZE);
                let group = encapsulation.input(kind.group.into());
                let mut frame = UdpFrame::new(source, group, kind.port, bytes);
                frame.source = encapsulation.input(kind.source.into());
                frame.tags = [encapsulation.tags(), kind.tags].concat();
                frame.source_port += method.port(*next);
                *next += 1;
                pacer.wait();
                sender.send(&frame.build()?)?;
            }
        }
        drop(paused);
    }
    let flows = counts.iter().zip(0..);
    let streams: Vec<Stream> = flows
        .map(|(&sent, flow)| Stream::new(flow, sent, SIZE))
        .collect();
    receivers.assert_exact(&streams);
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&counts);
    let passed = ["pass_no_rule", "pass_vlan"].map(|one| stopped.report.filter("in0", one));
    assert_eq!(passed.iter().sum::<u64>(), unmatched, "{}", stopped.log);
    method.assert_used(&stopped.report, &every)
}

fn m2_a_rule_with_sources_takes_those_and_one_without_takes_the_others(
    method: Method,
) -> Result<()> {
    let usual = "group = \"239.1.1.1\", port = 5001";
    #[rustfmt::skip]
    let rules = [
        rule(0, "any", usual),
        rule(1, "two", &format!("{usual}, source = [\"10.1.0.2\", \"10.1.0.7\"]")),
        rule(2, "one", "group = \"239.1.1.2\", port = 5001, source = \"10.1.0.2\""),
    ];
    let other = [239, 1, 1, 2];
    #[rustfmt::skip]
    let kinds = [
        Kind { taken_by: Some(1), ..USUAL },
        Kind { taken_by: Some(1), source: SECOND, ..USUAL },
        Kind { taken_by: Some(0), source: STRANGER, ..USUAL },
        Kind { taken_by: Some(2), group: other, ..USUAL },
        Kind { group: other, source: SECOND, ..USUAL },
        Kind { group: other, source: STRANGER, ..USUAL },
    ];
    each_at_its_rule(method, &Encapsulation::ALL, &rules, &kinds)
}

fn m7_a_longer_prefix_goes_before_a_shorter_one_and_a_source_before_both(
    method: Method,
) -> Result<()> {
    #[rustfmt::skip]
    let rules = [
        rule(0, "wide", "group = \"239.1.0.0/16\", port = 5001, join = false"),
        rule(1, "narrow", "group = \"239.1.1.0/24\", port = 5001"),
        rule(2, "one", "group = \"239.1.1.1\", port = 5001"),
        rule(3, "from", "group = \"239.1.0.0/16\", port = 5001, source = \"10.1.0.7\", join = false"),
    ];
    #[rustfmt::skip]
    let kinds = [
        Kind { taken_by: Some(2), ..USUAL },
        Kind { taken_by: Some(1), group: [239, 1, 1, 0], ..USUAL },
        Kind { taken_by: Some(1), group: [239, 1, 1, 255], ..USUAL },
        Kind { taken_by: Some(0), group: [239, 1, 2, 1], ..USUAL },
        Kind { taken_by: Some(3), source: SECOND, ..USUAL },
        Kind { taken_by: Some(3), source: SECOND, group: [239, 1, 99, 1], ..USUAL },
        Kind { group: [239, 2, 1, 1], ..USUAL },
        Kind { port: 5002, ..USUAL },
    ];
    each_at_its_rule(method, &Encapsulation::ALL, &rules, &kinds)
}

fn m7_one_port_goes_before_a_range_and_a_range_before_any(method: Method) -> Result<()> {
    #[rustfmt::skip]
    let rules = [
        rule(0, "any", "group = \"239.1.1.1\", port = \"any\""),
        rule(1, "range", "group = \"239.1.1.1\", port = \"5000-5099\""),
        rule(2, "one", "group = \"239.1.1.1\", port = 5001"),
        rule(3, "next", "group = \"239.1.1.1\", port = 5100"),
        rule(4, "elsewhere", "group = \"239.1.1.2\", port = \"5050-65535\""),
    ];
    let to = |rule, port| Kind {
        taken_by: Some(rule),
        port,
        ..USUAL
    };
    let elsewhere = [239, 1, 1, 2];
    #[rustfmt::skip]
    let kinds = [
        to(2, 5001),
        to(1, 5000),
        to(1, 5099),
        to(3, 5100),
        to(0, 1),
        to(0, 4999),
        to(0, 5101),
        to(0, 65535),
        Kind { group: elsewhere, ..to(4, 5050) },
        Kind { group: elsewhere, ..to(4, 65535) },
        Kind { group: elsewhere, port: 5049, ..USUAL },
    ];
    each_at_its_rule(method, &Encapsulation::ALL, &rules, &kinds)
}

fn m3_m7_tags_in_the_bytes_choose_the_rule_and_copies_leave_untagged(method: Method) -> Result<()> {
    let usual = "group = \"239.1.1.1\", port = 5001";
    #[rustfmt::skip]
    let rules = [
        rule(0, "untagged", usual),
        rule(1, "tagged", &format!("{usual}, vlan = 100")),
        rule(2, "double", &format!("{usual}, vlan = [100, 200]")),
        rule(3, "wide", "group = \"239.1.0.0/16\", port = \"any\", vlan = 200, join = false"),
    ];
    let tagged = |taken_by, tags| Kind {
        taken_by,
        tags,
        ..USUAL
    };
    #[rustfmt::skip]
    let kinds = [
        tagged(Some(0), &[]),
        // A priority tag.
        tagged(Some(0), &[(0x8100, 3 << 13)]),
        tagged(Some(1), &[(0x8100, 100)]),
        tagged(Some(1), &[(0x8100, 5 << 13 | 100)]),
        tagged(Some(2), &[(0x88a8, 100), (0x8100, 200)]),
        tagged(Some(2), &[(0x8100, 100), (0x8100, 200)]),
        tagged(Some(3), &[(0x8100, 200)]),
        tagged(None, &[(0x8100, 101)]),
        tagged(None, &[(0x88a8, 200), (0x8100, 100)]),
        Kind { group: [239, 2, 1, 1], ..tagged(None, &[(0x8100, 200)]) },
    ];
    each_at_its_rule(method, &UNTAGGED, &rules, &kinds)
}

/// Forms of one rule's input, each of which takes the same traffic, and each of which overlaps with
/// the one before it.
const FORMS: [&str; 11] = [
    "group = \"239.1.1.1\", port = 5001",
    "group = \"239.1.1.1\", port = 5001, source = \"10.1.0.2\"",
    "group = \"239.1.1.1\", port = 5001, source = [\"10.1.0.2\", \"10.1.0.7\"]",
    "group = \"239.1.1.0/24\", port = 5001, source = \"10.1.0.2\"",
    "group = \"239.1.1.0/24\", port = 5001",
    "group = \"239.1.0.0/22\", port = 5001, join = false",
    "group = \"239.1.0.0/22\", port = \"5000-5099\", join = false",
    "group = \"239.1.0.0/22\", port = \"4950-5049\", join = false",
    "group = \"239.1.0.0/22\", port = \"any\", join = false",
    "group = \"239.1.1.0/28\", port = \"any\", source = \"10.1.0.2\"",
    "group = \"239.1.1.1\", port = \"5001-5002\"",
];

fn o1_a_rule_that_takes_the_same_datagrams_by_other_means_loses_none(method: Method) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let of = |form: usize| [rule(0, "feed", FORMS[form])];
    let receivers = Receivers::start(&bed, &of(0))?;
    let relay = method.start(&bed, &of(0))?;
    let reload = |relay: &RelayProcess, form: usize| -> Result<()> {
        let tables = method.tables(&of(form));
        let answer = relay.reload(&format!("{}{tables}", to_toml(&of(form))))?;
        ensure!(answer.code == Some(0), "{}: {answer:?}", FORMS[form]);
        Ok(())
    };
    let (sent, ()) = under_traffic(&bed.sources[0], &of(0)[0], 0, 5_000, || {
        for form in (1..FORMS.len()).chain((0..FORMS.len()).rev()) {
            reload(&relay, form)?;
        }
        Ok(())
    })?;
    receivers.assert_exact(&[Stream::new(0, sent, 500)]);
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[sent]);
    method.assert_used(&stopped.report, &of(0))
}

relay_tests::on_all_methods!(
    m2_a_rule_with_sources_takes_those_and_one_without_takes_the_others,
    m7_a_longer_prefix_goes_before_a_shorter_one_and_a_source_before_both,
    m7_one_port_goes_before_a_range_and_a_range_before_any,
    m3_m7_tags_in_the_bytes_choose_the_rule_and_copies_leave_untagged,
    o1_a_rule_that_takes_the_same_datagrams_by_other_means_loses_none,
);
