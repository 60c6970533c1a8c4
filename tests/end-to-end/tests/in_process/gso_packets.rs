//! GSO packets: datagrams of a flow that arrive in one batch leave joined in one large packet,
//! which the kernel or the device cuts into datagrams again, and arrive as they were sent.
//!
//! The worker runs inside the test's process, one batch at a time, so that the test decides what is
//! in a batch. Where the relay's end of the wire completes no checksums, the kernel cuts GSO
//! packets in front of it and computes all checksums, and the test sees every frame.

use std::time::Instant;

use super::set_up::SetUp;
use anyhow::{Result, ensure};
use relay::datapath::Worker;
use relay::datapath::stats::Dropped;
use relay::host::GsoLimits;
use relay::plan::Checksums;
use relay_common::wire::IPV4_HEADERS_LEN;
use relay_tests::backend::Backend;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::frames::{Checksum, UdpFrame};
use relay_tests::inspect::{Datagram, UdpChecksum, is_udp};
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, output_destination, to_toml};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// Datagram `n` of rule 0's flow, with `size` bytes of payload.
fn frame(bed: &Testbed, n: u64, size: usize) -> UdpFrame {
    let mut frame = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, n, size));
    frame.identification = n as u16;
    frame
}

/// Sends `frames`, equally many for each rule, then lets a worker with `rules` forward them, as
/// many in a batch as fit. Returns what was dropped, by output and reason.
fn forward(
    bed: &Testbed,
    backend: Backend,
    rules: &[Rule],
    frames: &[UdpFrame],
) -> Result<Vec<(Dropped, u64)>> {
    let SetUp {
        mut worker,
        feeds: _feeds,
    } = SetUp::new(bed, backend, &to_toml(rules), None)?;
    let sender = RawSender::open(&bed.sources[0])?;
    for frame in frames {
        sender.send(&frame.build()?)?;
    }
    while worker.poll_once() {}
    let stats = worker.stats();
    ensure!(stats.matched.get() == frames.len() as u64, "{stats:?}");
    let mut dropped = Vec::new();
    for output in &stats.outputs {
        let drops: Vec<_> = output
            .drops
            .iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        let sum: u64 = drops.iter().map(|(_, count)| count).sum();
        let expected = (frames.len() / rules.len()) as u64;
        ensure!(output.sent.get() + sum == expected, "{output:?}");
        dropped.extend(drops);
    }
    let chunks = &stats.chunks;
    ensure!(
        chunks.free.get() + chunks.fill.get() == chunks.total.get(),
        "{chunks:?}"
    );
    Ok(dropped)
}

/// How many UDP frames arrived at the receiving host of `raw`; a GSO packet is one.
fn on_the_wire(raw: &RawReceiver) -> usize {
    raw.settle();
    let frames = raw.frames();
    frames.iter().filter(|frame| is_udp(&frame.bytes)).count()
}

/// Forwards through one output, in front of whose device the kernel cuts GSO packets, and returns
/// what arrived.
fn forward_cut(
    backend: Backend,
    frames: impl Fn(&Testbed) -> Vec<UdpFrame>,
) -> Result<Vec<Datagram>> {
    forward_cut_over(backend, Encapsulation::Ipv4, frames)
}

/// The same of frames in an encapsulation.
fn forward_cut_over(
    backend: Backend,
    encapsulation: Encapsulation,
    frames: impl Fn(&Testbed) -> Vec<UdpFrame>,
) -> Result<Vec<Datagram>> {
    let bed = Testbed::builder().ipv6().build()?;
    bed.outputs[0].set_checksum_offload(false)?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    let dropped = forward(
        &bed,
        backend,
        &[Rule::feed().outputs("out0", 1).over(encapsulation)],
        &frames(&bed),
    )?;
    ensure!(dropped.is_empty(), "{dropped:?}");
    raw.settle();
    Ok(raw.datagrams())
}

fn datagrams_of_one_batch_leave_joined_and_arrive_apart(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().outputs(2).build()?;
    let rules = [Rule::feed().outputs("out0", 3).outputs("out1", 1)];
    let receivers = Receivers::start(&bed, &rules)?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    let frames: Vec<_> = (0..60).map(|n| frame(&bed, n, 1400)).collect();
    assert_eq!(forward(&bed, backend, &rules, &frames)?, []);
    receivers.assert_exact(&[Stream::new(0, 60, 1400)]);
    // 60 datagrams of 1400 bytes are more than one GSO packet holds, and fit into two.
    assert_eq!(on_the_wire(&raw), 3 * 2);
    Ok(())
}

fn flows_that_take_turns_are_joined_each_for_itself_and_keep_their_order(
    backend: Backend,
) -> Result<()> {
    const FLOWS: usize = 6;
    let bed = Testbed::new()?;
    let rule = |n: usize| {
        let (group, port) = output_destination(n);
        Rule::new(format!("feed-{n}"), "in0", GROUP_IN, 5001 + n as u16).output("out0", group, port)
    };
    let rules: Vec<_> = (0..FLOWS).map(rule).collect();
    let receivers = Receivers::start(&bed, &rules)?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    let mut frames = Vec::new();
    for n in 0..10 {
        for flow in 0..FLOWS {
            let payload = payload(flow as u32, n, 300);
            let port = 5001 + flow as u16;
            let mut frame = UdpFrame::new(&bed.sources[0], GROUP_IN, port, payload);
            frame.identification = n as u16;
            frames.push(frame);
        }
    }
    assert_eq!(forward(&bed, backend, &rules, &frames)?, []);
    let streams: Vec<_> = (0..FLOWS as u32)
        .map(|flow| Stream::new(flow, 10, 300))
        .collect();
    receivers.assert_exact(&streams);
    assert_eq!(on_the_wire(&raw), FLOWS);
    Ok(())
}

fn m11_what_is_cut_apart_has_the_headers_that_each_datagram_would_have_had(
    backend: Backend,
) -> Result<()> {
    const TOS: u8 = 0xb9;
    const FLOW_LABEL: u32 = 0xabcde;
    for encapsulation in Encapsulation::ALL {
        let datagrams = forward_cut_over(backend, encapsulation, |bed| {
            let frame = |n| {
                let group = encapsulation.input(GROUP_IN);
                let bytes = payload(0, n, 700);
                let mut frame = UdpFrame::new(&bed.sources[0], group, PORT_IN, bytes);
                frame.tags = encapsulation.tags().to_vec();
                frame.identification = n as u16;
                (frame.tos, frame.flow_label) = (TOS, FLOW_LABEL);
                frame
            };
            (65_400..65_700).map(frame).collect()
        })?;
        assert_eq!(datagrams.len(), 300);
        for (n, datagram) in (65_400..).zip(&datagrams) {
            let (identification, flow_label) = match encapsulation.is_ipv6() {
                true => (0, FLOW_LABEL),
                false => (n as u16, 0),
            };
            assert_eq!(datagram.checksum, UdpChecksum::Valid, "{n}: {datagram:?}");
            assert!(datagram.ip_checksum_valid, "{n}: {datagram:?}");
            assert_eq!(datagram.identification, identification, "{datagram:?}");
            assert_eq!((datagram.ttl, datagram.source_port), (64, 40_000));
            assert_eq!((datagram.tos, datagram.flow_label), (TOS, flow_label));
            assert!(datagram.payload == payload(0, n, 700), "datagram {n}");
        }
    }
    Ok(())
}

fn datagrams_whose_headers_do_not_follow_are_not_joined(backend: Backend) -> Result<()> {
    type Change = fn(&mut UdpFrame, u64);
    let changes: [Change; 4] = [
        |frame, n| frame.identification = (n * 7919) as u16,
        |frame, n| frame.source_port = 40_000 + n as u16 % 3,
        |frame, n| frame.checksum = [Checksum::Complete, Checksum::Wrong][n as usize % 2],
        |frame, n| frame.payload = payload(0, n, [500, 400, 0, 400, 300][n as usize % 5]),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let sent = |bed: &Testbed| -> Vec<_> {
            let frames = (0..120).map(|n| {
                let mut frame = frame(bed, n, 400);
                // With DF the relay may renumber datagrams (RFC 6864); the identification of these
                // must stay.
                frame.dont_fragment = false;
                change(&mut frame, n);
                frame
            });
            frames.collect()
        };
        let bed = Testbed::new()?;
        let expected = sent(&bed);
        let arrived = forward_cut(backend, sent)?;
        assert_eq!(arrived.len(), expected.len(), "case {number}");
        for (arrived, expected) in arrived.iter().zip(&expected) {
            let checksum = match expected.checksum {
                Checksum::Wrong => UdpChecksum::Wrong,
                _ => UdpChecksum::Valid,
            };
            assert_eq!(arrived.checksum, checksum, "case {number}: {arrived:?}");
            assert_eq!(
                (arrived.identification, arrived.source_port),
                (expected.identification, expected.source_port),
                "case {number}"
            );
            assert!(arrived.payload == expected.payload, "case {number}");
        }
    }
    Ok(())
}

/// A wrong checksum that has the value of a partial one by chance arrives on an interface whose
/// checksums are all complete. On XDP the plan knows that of NICs, which no testbed has; on
/// io_uring the kernel says it of every frame.
fn f9_a_wrong_checksum_that_looks_partial_is_not_repaired_where_none_is(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    bed.outputs[0].set_checksum_offload(false)?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    let rules = to_toml(&[Rule::feed().outputs("out0", 1)]);
    let SetUp {
        mut worker,
        feeds: _feeds,
    } = SetUp::altered(&bed, backend, &rules, None, |plan| {
        for interface in &mut plan.interfaces {
            if interface.checksums == Some(Checksums::ByValue) {
                interface.checksums = Some(Checksums::Complete);
            }
        }
    })?;
    let sender = RawSender::open(&bed.sources[0])?;
    for n in 0..20 {
        let mut frame = frame(&bed, n, 400);
        frame.checksum = Checksum::LikePartial;
        sender.send(&frame.build()?)?;
    }
    while worker.poll_once() {}
    raw.settle();
    let datagrams = raw.datagrams();
    assert_eq!(datagrams.len(), 20);
    for datagram in &datagrams {
        assert_eq!(datagram.checksum, UdpChecksum::Wrong, "{datagram:?}");
    }
    Ok(())
}

fn datagrams_without_checksum_are_joined_and_get_one(backend: Backend) -> Result<()> {
    let datagrams = forward_cut(backend, |bed| {
        let frames = (0..60).map(|n| UdpFrame {
            checksum: Checksum::Zero,
            ..frame(bed, n, 500)
        });
        frames.collect()
    })?;
    assert_eq!(datagrams.len(), 60);
    for (n, datagram) in (0..).zip(&datagrams) {
        assert_eq!(datagram.checksum, UdpChecksum::Valid, "{datagram:?}");
        assert!(datagram.payload == payload(0, n, 500));
    }
    Ok(())
}

fn a_shorter_last_datagram_still_leaves_where_the_others_are_too_big(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::builder().outputs(2).output_mtu(1, 1000).build()?;
    let rules = [Rule::feed().outputs("out0", 1).outputs("out1", 1)];
    let receivers = Receivers::start(&bed, &rules)?;
    let sizes = [1200, 1200, 1200, 100];
    let frames: Vec<_> = (0..)
        .zip(sizes)
        .map(|(n, size)| frame(&bed, n, size))
        .collect();
    assert_eq!(
        forward(&bed, backend, &rules, &frames)?,
        [(Dropped::TooBig, 3)]
    );
    receivers.settle();
    let tallies = receivers.tallies();
    let arrived: Vec<_> = tallies
        .iter()
        .map(|(_, tally)| (tally.received, tally.bytes))
        .collect();
    assert_eq!(arrived, [(4, 3700), (1, 100)]);
    Ok(())
}

fn a_time_to_live_that_ends_here_is_counted_for_every_datagram(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed()
        .outputs("out0", 1)
        .ttl("\"decrement\"")
        .outputs("out0", 1)];
    let receivers = Receivers::start(&bed, &rules)?;
    let frames: Vec<_> = (0..30)
        .map(|n| UdpFrame {
            ttl: 1,
            ..frame(&bed, n, 200)
        })
        .collect();
    assert_eq!(
        forward(&bed, backend, &rules, &frames)?,
        [(Dropped::TtlExpired, 30)]
    );
    receivers.settle();
    let arrived: Vec<_> = receivers
        .tallies()
        .iter()
        .map(|(_, tally)| tally.received)
        .collect();
    assert_eq!(arrived, [0, 30]);
    Ok(())
}

/// The device's limits on a GSO packet: as the relay reads them at its start, and as it learns of a
/// change while it runs.
fn gso_packets_stay_within_what_the_device_takes_in_one(backend: Backend) -> Result<()> {
    const COUNT: u64 = 60;
    const SIZE: usize = 400;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let sender = RawSender::open(&bed.sources[0])?;
    let (mut sent, mut seen) = (0, 0);
    // Sends until a packet of `most` datagrams has left; none may have more.
    let mut joins = |worker: &mut Worker, most: usize, case: &str| -> Result<()> {
        // On a busy machine the datagrams may not arrive in one batch.
        for _ in 0..20 {
            for n in sent..sent + COUNT {
                sender.send(&frame(&bed, n, SIZE).build()?)?;
            }
            sent += COUNT;
            let (stats, deadline) = (worker.stats(), Instant::now() + ARRIVAL);
            let all = stats.matched.get() + COUNT;
            while (worker.poll_once() || stats.matched.get() < all) && Instant::now() < deadline {}
            wire.settle();
            let frames = wire.frames();
            let new = frames
                .iter()
                .skip(std::mem::replace(&mut seen, frames.len()));
            let payload_len = |frame: &Frame| frame.bytes.len().saturating_sub(IPV4_HEADERS_LEN);
            let joined = new.map(|frame| payload_len(frame).div_ceil(SIZE));
            let joined = joined.max().unwrap_or(0);
            assert!(joined <= most, "{case}: {joined}");
            if joined == most {
                return Ok(());
            }
        }
        anyhow::bail!("{case}: never {most} in one")
    };
    let receivers = Receivers::start(&bed, &rules)?;
    // A packet must be shorter than `gso_max_size`: 2842 is one byte too little for seven
    // datagrams, 2843 just enough.
    for (limit, most) in [
        ("gso_max_segs 4", 4),
        ("gso_max_size 2842", 6),
        ("gso_max_size 2843", 7),
    ] {
        bed.relay.ip(&format!("link set out0 {limit}"))?;
        let mut set_up = SetUp::new(&bed, backend, &to_toml(&rules), None)?;
        joins(&mut set_up.worker, most, limit)?;
        bed.relay
            .ip("link set out0 gso_max_segs 65535 gso_max_size 65536")?;
    }
    let mut set_up = SetUp::new(&bed, backend, &to_toml(&rules), None)?;
    let all = GsoLimits::default();
    for (segments, bytes, most) in [
        (20, all.bytes, 20),
        (1, all.bytes, 1),
        (all.segments, 2842, 6),
        (all.segments, 0, 1),
        (24, all.bytes, 24),
    ] {
        let limits = GsoLimits { bytes, segments };
        for link in set_up.worker.links() {
            link.set_gso_limits(limits);
        }
        joins(&mut set_up.worker, most, &format!("{limits:?}"))?;
    }
    receivers.assert_exact(&[Stream::new(0, sent, SIZE)]);
    Ok(())
}

/// Only the XDP backend has TX rings.
#[test]
fn tx_rings_and_gso_packets_serve_one_rule_side_by_side() -> Result<()> {
    let bed = Testbed::builder().outputs(2).build()?;
    let rules = [Rule::feed().outputs("out0", 2).outputs("out1", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let file = to_toml(&rules) + "[[interfaces]]\nname = \"out1\"\ntransmit = \"xsk\"\n";
    let SetUp {
        mut worker,
        feeds: _feeds,
    } = SetUp::new(&bed, Backend::Xdp, &file, None)?;
    let sender = RawSender::open(&bed.sources[0])?;
    for n in 0..200 {
        sender.send(&frame(&bed, n, 800).build()?)?;
    }
    while worker.poll_once() {}
    receivers.assert_exact(&[Stream::new(0, 200, 800)]);
    let stats = worker.stats();
    assert!(
        stats.outputs.iter().all(|output| output.sent.get() == 200),
        "{stats:?}"
    );
    Ok(())
}

relay_tests::on_both_backends! {
    datagrams_of_one_batch_leave_joined_and_arrive_apart,
    flows_that_take_turns_are_joined_each_for_itself_and_keep_their_order,
    m11_what_is_cut_apart_has_the_headers_that_each_datagram_would_have_had,
    datagrams_whose_headers_do_not_follow_are_not_joined,
    f9_a_wrong_checksum_that_looks_partial_is_not_repaired_where_none_is,
    datagrams_without_checksum_are_joined_and_get_one,
    a_shorter_last_datagram_still_leaves_where_the_others_are_too_big,
    a_time_to_live_that_ends_here_is_counted_for_every_datagram,
    gso_packets_stay_within_what_the_device_takes_in_one,
}
