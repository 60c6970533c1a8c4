//! Super-frames: what one receive batch brought of a flow leaves joined, and arrives as what it was.
//!
//! The worker runs inside the test's process, one round at a time, so that the test decides what is in a
//! batch. Where the wire's near end completes no checksums, the kernel cuts super-frames apart in front of it
//! and computes all checksums, and every frame can be looked at.

mod in_process;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use in_process::SetUp;
use relay::datapath::Worker;
use relay::datapath::stats::Dropped;
use relay::host::GsoLimits;
use relay::plan::Checksums;
use relay_tests::backend::Backend;
use relay_tests::frames::{Checksum, UdpFrame};
use relay_tests::inspect::{Datagram, UdpChecksum, is_udp};
use relay_tests::payload::payload;
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, output_destination, to_toml};
use relay_tests::scenario::{ARRIVAL, Receivers};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// Datagram `n` of rule 0's flow, with `size` bytes of payload.
fn frame(bed: &Testbed, n: u64, size: usize) -> UdpFrame {
    let mut frame = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, n, size));
    frame.identification = n as u16;
    frame
}

/// Sends `frames`, equally many for each rule, then lets a relay with `rules` forward them: all that fit into a batch at once. Returns what
/// stayed behind: drops by output and reason.
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

/// The UDP frames that came to the first receiving host.
fn on_the_wire(raw: &RawReceiver) -> usize {
    raw.settle();
    let frames = raw.frames();
    frames.iter().filter(|frame| is_udp(&frame.bytes)).count()
}

/// Forwards over a wire in front of which the kernel cuts super-frames apart, by one output, and returns what
/// arrived.
fn forward_cut(
    backend: Backend,
    frames: impl Fn(&Testbed) -> Vec<UdpFrame>,
) -> Result<Vec<Datagram>> {
    let bed = Testbed::new()?;
    bed.outputs[0].set_checksum_offload(false)?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    let dropped = forward(
        &bed,
        backend,
        &[Rule::feed().outputs("out0", 1)],
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
    // 60 datagrams of 1400 bytes are more than one super-frame holds, and fill two.
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

fn what_is_cut_apart_has_the_headers_that_each_datagram_would_have_had(
    backend: Backend,
) -> Result<()> {
    let datagrams = forward_cut(backend, |bed| {
        (0..300).map(|n| frame(bed, n + 65_400, 700)).collect()
    })?;
    assert_eq!(datagrams.len(), 300);
    for (n, datagram) in (65_400..).zip(&datagrams) {
        assert_eq!(datagram.checksum, UdpChecksum::Valid, "{n}: {datagram:?}");
        assert!(datagram.ip_checksum_valid, "{n}: {datagram:?}");
        assert_eq!(datagram.identification, n as u16, "{datagram:?}");
        assert_eq!((datagram.ttl, datagram.source_port), (64, 40_000));
        assert!(datagram.payload == payload(0, n, 700), "datagram {n}");
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
                // Atomic datagrams may be renumbered, and these shall tell.
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

/// A checksum that has the value of a partial one by chance, on an interface that brings complete ones only: the plan
/// says so of NICs, which no testbed has, and the kernel says so of every frame on io_uring.
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

/// The device's limits, as the relay finds them at its start and as it is told of them while it
/// runs.
fn super_frames_stay_within_what_the_device_takes_in_one(backend: Backend) -> Result<()> {
    const COUNT: u64 = 60;
    const SIZE: usize = 400;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let sender = RawSender::open(&bed.sources[0])?;
    let (mut sent, mut seen) = (0, 0);
    // Sends until a packet of `most` datagrams has left. None has more.
    let mut joins = |worker: &mut Worker, most: usize, case: &str| -> Result<()> {
        // A busy machine may take a batch apart.
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
            let joined = new.map(|frame| frame.bytes.len().saturating_sub(42).div_ceil(SIZE));
            let joined = joined.max().unwrap_or(0);
            assert!(joined <= most, "{case}: {joined}");
            if joined == most {
                return Ok(());
            }
        }
        anyhow::bail!("{case}: never {most} in one")
    };
    let receivers = Receivers::start(&bed, &rules)?;
    // A packet is shorter than `gso_max_size`: one byte less than seven datagrams take, and just
    // enough.
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

/// TX rings are the XDP backend's only.
#[test]
fn tx_rings_and_super_frames_serve_one_rule_side_by_side() -> Result<()> {
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

/// One end of the wire goes down and up again under traffic, where super-frames leave whole and where the
/// kernel cuts them apart. What did not arrive is counted, frame by frame.
fn every_frame_that_a_dead_wire_swallows_is_counted(backend: Backend) -> Result<()> {
    const COUNT: u64 = 20_000;
    /// Half of what the outputs are sent while the wire is down.
    const WHILE_DOWN: u64 = 2 * 20_000 * 300 / 1000 / 2;
    for (whole, far) in [(true, true), (true, false), (false, true), (false, false)] {
        let bed = Testbed::builder().without_capture().build()?;
        bed.outputs[0].set_checksum_offload(whole)?;
        let rules = [Rule::feed().outputs("out0", 2)];
        let receivers = Receivers::start(&bed, &rules)?;
        let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
        let end = [&bed.outputs[0], &bed.receivers[0]][usize::from(far)];
        std::thread::scope(|scope| -> Result<()> {
            let sender = UdpSender::open(&bed.sources[0])?;
            let traffic = Traffic::new(GROUP_IN, PORT_IN, Stream::new(0, COUNT, 400));
            let sending = scope.spawn(move || sender.send(&traffic, 20_000));
            for state in ["down", "up"] {
                std::thread::sleep(Duration::from_millis(300));
                end.namespace
                    .ip(&format!("link set {} {state}", end.interface))?;
            }
            let sent = sending.join();
            ensure!(matches!(sent, Ok(Ok(()))), "{sent:?}");
            Ok(())
        })?;
        receivers.wait_for(&[0]);
        receivers.settle();
        let report = relay.stop()?.report;
        let arrived: u64 = receivers
            .tallies()
            .iter()
            .map(|(_, tally)| tally.received)
            .sum();
        assert!(arrived < 2 * COUNT, "the wire was never down");
        assert_eq!(report.packets_matched, COUNT);
        // Where the kernel cuts, what is sent between the end of the carrier and its news is swallowed without a word:
        // the kernel waits for all other CPUs in between (`dev_deactivate_many`, net/sched/sch_generic.c).
        let unseen = if whole { 0 } else { WHILE_DOWN };
        let off = report.packets_sent.abs_diff(arrived);
        assert!(
            off <= unseen,
            "whole: {whole}, far: {far}, {arrived} arrived: {report:#?}"
        );
        assert_eq!(
            report.packets_sent + report.dropped_total(),
            2 * COUNT,
            "{report:#?}"
        );
    }
    Ok(())
}

/// The far end of a wire gets an XDP program while super-frames leave whole: from then on the kernel must cut
/// them apart, and nothing may be lost.
fn an_xdp_program_attached_at_the_far_end_costs_no_frame(backend: Backend) -> Result<()> {
    const COUNT: u64 = 20_000;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 2)];
    let receivers = Receivers::start(&bed, &rules)?;
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let far = &bed.receivers[0];
    let _next_hop = std::thread::scope(|scope| -> Result<RelayProcess> {
        let sender = UdpSender::open(&bed.sources[0])?;
        let traffic = Traffic::new(GROUP_IN, PORT_IN, Stream::new(0, COUNT, 400));
        let sending = scope.spawn(move || sender.send(&traffic, 10_000));
        // Another relay, for another group.
        let other = Rule::new("other".to_owned(), "rcv0", [239, 77, 7, 7].into(), 7777);
        let next_hop =
            RelayProcess::start(&far.namespace, Backend::Xdp, &[other.outputs("rcv0", 1)])?;
        let sent = sending.join();
        ensure!(matches!(sent, Ok(Ok(()))), "{sent:?}");
        Ok(next_hop)
    })?;
    receivers.assert_exact(&[Stream::new(0, COUNT, 400)]);
    let report = relay.stop()?.report;
    report.assert_exact(&[COUNT]);
    Ok(())
}

relay_tests::on_both_backends! {
    datagrams_of_one_batch_leave_joined_and_arrive_apart,
    flows_that_take_turns_are_joined_each_for_itself_and_keep_their_order,
    what_is_cut_apart_has_the_headers_that_each_datagram_would_have_had,
    datagrams_whose_headers_do_not_follow_are_not_joined,
    f9_a_wrong_checksum_that_looks_partial_is_not_repaired_where_none_is,
    datagrams_without_checksum_are_joined_and_get_one,
    a_shorter_last_datagram_still_leaves_where_the_others_are_too_big,
    a_time_to_live_that_ends_here_is_counted_for_every_datagram,
    super_frames_stay_within_what_the_device_takes_in_one,
    every_frame_that_a_dead_wire_swallows_is_counted,
    an_xdp_program_attached_at_the_far_end_costs_no_frame,
}
