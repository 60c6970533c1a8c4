//! What rules take beside an IPv4 group and port: IPv6, and sources.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use relay_tests::frames::UdpFrame;
use relay_tests::inspect::{Membership, memberships};
use relay_tests::ipv6::{self, COPIES, GROUP, SENDER, give_addresses, parsed, rule};
use relay_tests::lab;
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{PORT_IN, Rule};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::Pacer;
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

use super::Nics;

/// Datagrams of each kind.
const COUNT: u64 = 24;
const SOURCE_PORT: u16 = 40_000;

/// A testbed with IPv6 on every wire, whose far ends hear every group.
fn bed_with_ipv6(nics: Nics) -> Result<Testbed> {
    let bed = nics.testbed(2)?;
    give_addresses(&bed)?;
    for far in bed.sources.iter().chain(&bed.receivers) {
        far.receive_all_groups()?;
    }
    Ok(bed)
}

/// What the frames say of memberships.
fn heard(frames: &[Frame]) -> BTreeSet<Membership> {
    frames.iter().flat_map(|f| memberships(&f.bytes)).collect()
}

/// Fails unless the relay's host asks for `wanted` at the source's end of a wire.
fn assert_heard(wire: &RawReceiver, wanted: &[Membership], relay: &RelayProcess) {
    let wanted: BTreeSet<Membership> = wanted.iter().copied().collect();
    let all = wire.wait_until(ARRIVAL, |frames| heard(frames).is_superset(&wanted));
    let is = heard(&wire.frames());
    assert!(all, "{is:?}, not {wanted:?}: {}", relay.log());
}

pub fn m4_ipv6_copies_have_right_headers_in_every_byte(nics: Nics) -> Result<()> {
    let bed = bed_with_ipv6(nics)?;
    let rules = [rule(&COPIES)];
    let wire = RawReceiver::start(&bed.sources[0])?;
    let relay = lab::start(&bed, &rules)?;
    assert_heard(&wire, &[Membership::Join(parsed(GROUP).into())], &relay);
    let (sender, mut pacer) = (RawSender::open(&bed.sources[0])?, Pacer::new(500, 4));
    let sizes = [0, 1, 1000, 1452];
    for size in sizes {
        let receivers = [0, 1].map(|at| RawReceiver::start(&bed.receivers[at]));
        let receivers = receivers.into_iter().collect::<Result<Vec<_>>>()?;
        for number in 0..COUNT {
            let bytes = payload(0, number, size);
            pacer.wait();
            sender.send(&ipv6::frame(&bed.sources[0], SENDER, SOURCE_PORT, &bytes)?)?;
        }
        for copy in &COPIES {
            let (receiver, near) = (&receivers[copy.at], &bed.outputs[copy.at]);
            copy.assert_all(receiver, near, (size, COUNT), |_| SOURCE_PORT);
        }
    }
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[COUNT * sizes.len() as u64]);
    nics.assert_mode(&stopped)?;
    stopped.report.assert_tx_method(&rules, "xsk")
}

/// Two sources send to a group of IPv4 and to one of IPv6. Of each, the rule takes what one of them
/// sends, and the kernel asks the network for nothing else.
pub fn m2_of_two_sources_only_the_one_in_the_rule_passes_and_is_joined(nics: Nics) -> Result<()> {
    const SIZE: usize = 700;
    let bed = bed_with_ipv6(nics)?;
    let source = &bed.sources[0];
    let stranger = Ipv4Addr::new(10, 1, 0, 7);
    let (group, group6) = (Ipv4Addr::new(232, 1, 1, 1), parsed(GROUP));
    let six = &COPIES[0];
    let rules = [
        Rule::new("four", "in0", group, PORT_IN)
            .takes("group = \"232.1.1.1\", port = 5001, source = \"10.1.0.2\"")
            .outputs("out0", 2),
        Rule {
            name: "six".to_owned(),
            ..rule(&COPIES[..1])
        }
        .takes(&format!(
            "group = \"{GROUP}\", port = {}, source = \"{SENDER}\"",
            ipv6::PORT
        )),
    ];
    let receivers = Receivers::start(&bed, &rules[..1])?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    let wire = RawReceiver::start(source)?;
    let relay = lab::start(&bed, &rules)?;
    let joins = [
        Membership::JoinSource(group.into(), source.address.into()),
        Membership::JoinSource(group6.into(), parsed(SENDER).into()),
    ];
    assert_heard(&wire, &joins, &relay);
    let (sender, mut pacer) = (RawSender::open(source)?, Pacer::new(500, 4));
    for number in 0..COUNT {
        for (flow, from, from6) in [(0, source.address, SENDER), (9, stranger, "2001:db8:1::7")] {
            let bytes = payload(flow, number, SIZE);
            let four = UdpFrame {
                source: from.into(),
                ..UdpFrame::new(source, group, PORT_IN, bytes.clone())
            };
            pacer.wait();
            sender.send(&four.build()?)?;
            sender.send(&ipv6::frame(source, from6, SOURCE_PORT, &bytes)?)?;
        }
    }
    six.assert_all(&raw, &bed.outputs[0], (SIZE, COUNT), |_| SOURCE_PORT);
    receivers.assert_exact(&[Stream::new(0, COUNT, SIZE)]);
    raw.settle();
    assert_eq!(six.count_in(&raw.frames(), SIZE), COUNT);
    let groups = [IpAddr::from(group), group6.into()];
    let any = groups.map(Membership::Join);
    let asked = heard(&wire.frames());
    assert!(any.iter().all(|join| !asked.contains(join)), "{asked:?}");
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[COUNT; 2]);
    let passed = stopped.report.filter("in0", "pass_no_rule");
    assert!(passed >= 2 * COUNT, "{stopped:#?}");
    nics.assert_mode(&stopped)?;
    stopped.report.assert_tx_method(&rules, "xsk")
}
