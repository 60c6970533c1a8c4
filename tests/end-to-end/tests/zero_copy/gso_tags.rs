//! GSO packets with VLAN tags through a NIC that cuts GSO packets of UDP itself
//! (`tx-udp-segmentation`).
//!
//! QEMU's igb makes no datagrams of such a packet, but the fragments of one datagram with all of
//! its payload. So what arrives in fragments has reached the NIC whole, and what arrives as
//! datagrams the relay sent frame by frame.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use etherparse::Ipv4Slice;
use relay_tests::encapsulation::{CUSTOMER, SERVICE, Tag};
use relay_tests::frames::UdpFrame;
use relay_tests::lab;
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::{RelayProcess, RuleFile};
use relay_tests::rules::{Rule, transmit_by};
use relay_tests::scenario::ARRIVAL;

use super::IGB;

const COUNT: u64 = 8;
const SIZE: usize = 700;
/// Bytes of a UDP header.
const UDP: usize = 8;

/// A packet, or a fragment of one.
struct Part {
    tags: Vec<Tag>,
    destination: Ipv4Addr,
    identification: u16,
    /// In bytes.
    offset: usize,
    bytes: Vec<u8>,
}

fn part(frame: &Frame) -> Option<Part> {
    let bytes = frame.on_the_wire();
    let word = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let (mut at, mut tags) = (12, Vec::new());
    while let tpid @ (CUSTOMER | SERVICE) = word(at)? {
        tags.push((tpid, word(at + 2)?));
        at += 4;
    }
    let ip = Ipv4Slice::from_slice(bytes.get(at + 2..)?).ok()?;
    let header = ip.header();
    Some(Part {
        tags,
        destination: header.destination_addr(),
        identification: header.identification(),
        offset: usize::from(header.fragments_offset().value()) * 8,
        bytes: ip.payload().payload.to_vec(),
    })
}

/// Bytes behind the IP header of everything sent to `group`.
fn bytes_to(group: Ipv4Addr, frames: &[Frame]) -> usize {
    let parts = frames.iter().filter_map(part);
    let there = parts.filter(|part| part.destination == group);
    there.map(|part| part.bytes.len()).sum()
}

/// The UDP payloads of the packets to `group`, put together from their fragments, in order. All of
/// them must have these tags.
fn packets(group: Ipv4Addr, tags: &[Tag], frames: &[Frame]) -> Result<Vec<Vec<u8>>> {
    let mut packets: BTreeMap<u16, BTreeMap<usize, Vec<u8>>> = BTreeMap::new();
    for part in frames.iter().filter_map(part) {
        if part.destination == group {
            ensure!(part.tags == tags, "{:x?}, not {tags:x?}", part.tags);
            let packet = packets.entry(part.identification).or_default();
            ensure!(packet.insert(part.offset, part.bytes).is_none(), "a double");
        }
    }
    let whole = packets.into_values().map(|parts| {
        let mut all = Vec::new();
        for (offset, bytes) in parts {
            ensure!(offset == all.len(), "a hole at {} of {group}", all.len());
            all.extend(bytes);
        }
        all.get(UDP..).map(<[u8]>::to_vec).context("a UDP header")
    });
    whole.collect()
}

#[test]
fn those_with_one_tag_reach_the_nic_whole_and_no_others_igb() -> Result<()> {
    let bed = IGB.testbed(1)?;
    bed.outputs[0].set_feature("tx-udp-segmentation", true)?;
    // A NIC drops frames of VLANs that no interface above it has.
    bed.receivers[0].receive_all()?;
    let outputs = [
        ("", vec![], true),
        (", vlan = 7", vec![(CUSTOMER, 7)], true),
        (", vlan = [7, 8]", vec![(SERVICE, 7), (CUSTOMER, 8)], false),
    ];
    let group = |at: u8| Ipv4Addr::new(239, 2, 0, at + 1);
    let rule = (0..)
        .zip(&outputs)
        .fold(Rule::feed(), |rule, (at, (vlan, ..))| {
            let goes = format!("group = \"{}\", port = 6000{vlan}", group(at));
            rule.output_that_goes("out0", &goes)
        });
    let rules = [rule];
    let receiver = RawReceiver::start(&bed.receivers[0])?;
    let file = RuleFile::with(&rules, &transmit_by(&rules, "segmented"))?;
    let relay = RelayProcess::start_unforced(&bed.relay, file)?;
    lab::wait_for_carriers(&bed)?;

    let sender = RawSender::open(&bed.sources[0])?;
    let paused = relay.pause()?;
    for number in 0..COUNT {
        let bytes = payload(0, number, SIZE);
        let mut frame = UdpFrame::new(&bed.sources[0], rules[0].group, rules[0].port, bytes);
        frame.identification = number as u16;
        sender.send(&frame.build()?)?;
    }
    drop(paused);

    let all = COUNT as usize * SIZE;
    for at in 0..3 {
        receiver.wait_until(ARRIVAL, |frames| bytes_to(group(at), frames) > all);
    }
    receiver.settle();
    let frames = receiver.frames();
    let sent: Vec<Vec<u8>> = (0..COUNT).map(|n| payload(0, n, SIZE)).collect();
    for (at, (_, tags, whole)) in (0..).zip(&outputs) {
        let arrived = packets(group(at), tags, &frames)?;
        assert!(arrived.concat() == sent.concat(), "to {}", group(at));
        if *whole {
            assert!(
                arrived.len() < sent.len(),
                "{} packets to {}",
                arrived.len(),
                group(at)
            );
        } else {
            assert!(arrived == sent, "to {}", group(at));
        }
    }
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[COUNT]);
    stopped.report.assert_tx_method(&rules, "segmented")
}
