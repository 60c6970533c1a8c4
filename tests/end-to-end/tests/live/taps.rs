//! `relay tap`: what it holds is what was on the wire, on every way that copies leave, and what it
//! does not hold, it says.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use relay_tests::backend::Backend;
use relay_tests::background::eventually;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::frames::{UdpFrame, arp_request};
use relay_tests::inspect::{self, Datagram};
use relay_tests::methods::Method;
use relay_tests::payload::{self, payload};
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{Rule, to_toml};
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::tapping::{TappedFrame, Tapping, tshark};
use relay_tests::topology::Testbed;
use relay_tests::unprivileged::{NOBODY, PublicCopy};

/// The datagrams of frames with this in their comments.
fn datagrams(frames: &[TappedFrame], comment: &str) -> Vec<Datagram> {
    let frames = frames
        .iter()
        .filter(|frame| frame.comment.contains(comment));
    let datagrams = frames.flat_map(|frame| inspect::datagrams(&frame.bytes, false, None));
    datagrams.collect()
}

/// By their sequence numbers.
fn numbered(datagrams: Vec<Datagram>) -> BTreeMap<(u64, u16, String), Datagram> {
    let numbered = datagrams.into_iter().map(|datagram| {
        let number = payload::header(&datagram.payload).map_or(u64::MAX, |(_, number)| number);
        let key = (number, datagram.port, datagram.destination.to_string());
        (key, datagram)
    });
    numbered.collect()
}

fn settle(receiver: &RawReceiver, wanted: usize) {
    let _ = receiver.wait_until(Duration::from_secs(20), |frames| {
        let datagrams = frames.iter().map(|frame| frame.datagrams().len());
        datagrams.sum::<usize>() >= wanted
    });
    receiver.settle();
}

/// Two outputs that take the feed and one whose interface takes no datagram of its size: each
/// datagram and each copy is in the tap once, as it came and as it left, also those that did not.
fn w5_a_tap_holds_what_was_on_the_wire(method: Method) -> Result<()> {
    const COUNT: u64 = 300;
    const SIZE: usize = 900;
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rules = [Rule::feed()
        .outputs("out0", 2)
        .output("out1", [239, 7, 7, 7], 7007)];
    bed.relay.ip("link set out1 mtu 600")?;
    let relay = method.start(&bed, &rules)?;
    let sink = RawReceiver::start(&bed.receivers[0])?;
    let tap = Tapping::start(&relay, &["feed", "--all"])?;
    let source = method.source(&bed.sources[0])?;
    source.send(&Stream::new(0, COUNT, SIZE), 5_000)?;
    settle(&sink, 2 * COUNT as usize);
    let file = tap.file().to_owned();
    let all = 4 * COUNT as usize;
    let complete = eventually(Duration::from_secs(10), || {
        let file = std::fs::read(&file).unwrap_or_default();
        relay_tests::tapping::read(&file).is_ok_and(|frames| frames.len() >= all)
    });
    ensure!(complete.is_some(), "{:?}", relay.status()?);
    // It opens, with directions and comments, and every checksum is right.
    let fields = [
        "frame.packet_flags_direction",
        "frame.interface_name",
        "frame.comment",
        "ip.checksum.status",
        "udp.checksum.status",
    ];
    let shown = tshark(&file, &fields)?;
    ensure!(shown.len() == all, "{} of {all}", shown.len());
    let tapped = tap.end()?;
    ensure!(tapped.code == Some(0), "{tapped:?}");
    for (line, frame) in shown.iter().zip(&tapped.frames) {
        let expected = [
            if frame.outbound {
                "0x00000002"
            } else {
                "0x00000001"
            },
            &frame.interface,
            &frame.comment,
            "1",
            "1",
        ];
        ensure!(*line == expected.join("\t"), "{line}: {expected:?}");
    }
    // What came in: each datagram once, with a checksum, whatever the sender left to hardware.
    let came = datagrams(&tapped.frames, "input");
    ensure!(came.len() == COUNT as usize, "{} came", came.len());
    for (number, datagram) in (0..).zip(&came) {
        ensure!(datagram.payload == payload(0, number, SIZE), "{number}");
        ensure!(datagram.destination == rules[0].group && datagram.port == rules[0].port);
        ensure!(datagram.source_mac == bed.sources[0].mac && datagram.ip_checksum_valid);
        ensure!(
            datagram.checksum == inspect::UdpChecksum::Valid,
            "{datagram:?}"
        );
    }
    let interfaces = |comment: &str| -> Vec<String> {
        let frames = tapped.frames.iter();
        let mut names: Vec<String> = frames
            .filter(|frame| frame.comment.contains(comment))
            .map(|frame| frame.interface.clone())
            .collect();
        names.dedup();
        names
    };
    ensure!(interfaces("input") == ["in0"]);
    ensure!(interfaces("output 2") == ["out0"] && interfaces("output 3") == ["out1"]);
    // What left, compared with what came to the other end of the wire.
    let mut left = datagrams(&tapped.frames, "output 1 to");
    left.extend(datagrams(&tapped.frames, "output 2 to"));
    let (left, arrived) = (numbered(left), numbered(sink.datagrams()));
    ensure!(left.len() == 2 * COUNT as usize && left.len() == arrived.len());
    for (key, sent) in &left {
        let arrived = arrived.get(key).with_context(|| format!("{key:?}"))?;
        let mut sent = sent.clone();
        // Where the other end has seen the GSO packet whole, it has a partial checksum.
        sent.checksum = arrived.checksum;
        ensure!(sent == *arrived, "{key:?}: {sent:?} {arrived:?}");
    }
    // What did not leave, as it would have been.
    let dropped = datagrams(
        &tapped.frames,
        "output 3 to 239.7.7.7:7007: dropped, too_big",
    );
    ensure!(dropped.len() == COUNT as usize, "{} dropped", dropped.len());
    for (number, datagram) in (0..).zip(&dropped) {
        ensure!(datagram.payload == payload(0, number, SIZE), "{number}");
        ensure!(datagram.port == 7007 && datagram.checksum == inspect::UdpChecksum::Valid);
    }
    for text in [
        "input 239.1.1.1:5001 by in0: 300 matched; shown 300",
        "by out0: 300 left, 0 dropped; shown 300",
        "by out1: 0 left, 300 dropped (too_big 300); shown 300",
        "the tap lost nothing",
    ] {
        ensure!(tapped.said.contains(text), "no {text:?} in {}", tapped.said);
    }
    relay.stop()?;
    Ok(())
}

/// The same bytes: raw frames with any tags over both versions of IP, in one relay.
fn w5_frames_with_tags_are_tapped_byte_for_byte(method: Method) -> Result<()> {
    const COUNT: u64 = 20;
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let rules = Encapsulation::ALL.map(|encapsulation| {
        let mut rule = Rule::feed().outputs("out0", 1).over(encapsulation);
        rule.name = encapsulation.name().into();
        rule
    });
    let relay = method.start(&bed, &rules)?;
    let sink = RawReceiver::start(&bed.receivers[0])?;
    let raw = RawSender::open(&bed.sources[0])?;
    let mut taps = Vec::new();
    for rule in &rules {
        taps.push(Tapping::start(&relay, &[&rule.name])?);
    }
    let mut sent = Vec::new();
    for number in 0..COUNT {
        for (flow, rule) in (0..).zip(&rules) {
            let bytes = payload(flow, number, 300 + number as usize);
            let mut frame = UdpFrame::new(&bed.sources[0], rule.group, rule.port, bytes);
            frame.tags = rule.tags.clone();
            frame.identification = number as u16;
            let frame = frame.build()?;
            raw.send(&frame)?;
            sent.push((flow as usize, frame));
        }
    }
    let all = COUNT as usize * rules.len();
    ensure!(sink.wait_until(Duration::from_secs(20), |frames| {
        frames
            .iter()
            .map(|frame| frame.segment.map_or(1, |_| 1))
            .sum::<usize>()
            >= all
    }));
    sink.settle();
    let arrived: Vec<Vec<u8>> = sink
        .frames()
        .iter()
        .map(relay_tests::raw::Frame::on_the_wire)
        .collect();
    for (flow, tap) in taps.into_iter().enumerate() {
        let tapped = tap.end()?;
        let of = |outbound: bool| {
            let frames = tapped.frames.iter();
            let frames = frames.filter(move |frame| frame.outbound == outbound);
            frames.map(|frame| frame.bytes.clone()).collect::<Vec<_>>()
        };
        let came: Vec<_> = sent.iter().filter(|(of, _)| *of == flow).collect();
        ensure!(of(false).len() == came.len(), "{flow}: {}", tapped.said);
        for (tapped, (_, sent)) in of(false).iter().zip(came) {
            ensure!(tapped == sent, "{flow}:\n{tapped:02x?}\n{sent:02x?}");
        }
        ensure!(of(true).len() == COUNT as usize, "{flow}: {}", tapped.said);
        for frame in of(true) {
            ensure!(arrived.contains(&frame), "{flow}: {frame:02x?}");
        }
        tapped.assert_lost_nothing()?;
    }
    relay.stop()?;
    Ok(())
}

/// A device that is down, and copies whose TTL is used up.
fn w5_a_tap_says_why_copies_did_not_leave(method: Method) -> Result<()> {
    const COUNT: u64 = 50;
    let bed = Testbed::builder().outputs(2).without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1).output_that_goes(
        "out1",
        "group = \"239.9.9.9\", port = 9009, ttl = \"decrement\"",
    )];
    let relay = method.start(&bed, &rules)?;
    let tap = Tapping::start(&relay, &["feed", "--all"])?;
    let sender = RawSender::open(&bed.sources[0])?;
    for number in 0..COUNT {
        let bytes = payload(0, number, 500);
        let mut frame = UdpFrame::new(&bed.sources[0], rules[0].group, rules[0].port, bytes);
        frame.ttl = 1;
        sender.send(&frame.build()?)?;
    }
    let counted = eventually(Duration::from_secs(10), || {
        relay.status().is_ok_and(|status| {
            let outputs = &status["rules"][0]["outputs"];
            outputs[1]["dropped"]["ttl_expired"] == COUNT && outputs[0]["packets_sent"] == COUNT
        })
    });
    ensure!(counted.is_some(), "{}", relay.status()?);
    bed.relay.ip("link set out0 down")?;
    thread::sleep(Duration::from_millis(200));
    for number in 0..COUNT {
        let bytes = payload(1, number, 500);
        let frame = UdpFrame::new(&bed.sources[0], rules[0].group, rules[0].port, bytes);
        sender.send(&frame.build()?)?;
    }
    // On a ring they wait for the device, or are refused with it.
    thread::sleep(Duration::from_secs(1));
    let tapped = tap.end()?;
    let with = |comment: &str| datagrams(&tapped.frames, comment).len() as u64;
    ensure!(with("output 2 to 239.9.9.9:9009: dropped, ttl_expired") == COUNT);
    // The fates in the tap are those that are counted.
    let status = relay.status()?;
    let output = &status["rules"][0]["outputs"][0];
    let to = "output 1 to 239.2.0.1:6000";
    let left = with(&format!("{to}: left"));
    ensure!(output["packets_sent"] == left, "{left}: {output}");
    let dropped = output["dropped"].as_object().context("dropped")?;
    for (reason, count) in dropped {
        let told = with(&format!("{to}: dropped, {reason}"));
        ensure!(*count == told, "{told} {reason}: {output}");
    }
    tapped.assert_lost_nothing()?;
    relay.stop()?;
    Ok(())
}

/// A tap whose reader stands still loses what its ring has no room for, and says how much; the
/// frames themselves are all relayed.
fn w5_what_a_slow_tap_loses_it_says_and_no_frame_is_lost(method: Method) -> Result<()> {
    const COUNT: u64 = 6_000;
    const SIZE: usize = 1_200;
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = method.start(&bed, &rules)?;
    let mut tap = Tapping::start(&relay, &["feed", "--buffer", "300"])?;
    let receivers = relay_tests::scenario::Receivers::start(&bed, &rules)?;
    tap.process().signal(Signal::SIGSTOP)?;
    let source = method.source(&bed.sources[0])?;
    source.send(&Stream::new(0, COUNT, SIZE), 20_000)?;
    receivers.wait_for(&[COUNT]);
    receivers.settle();
    receivers.assert_exact(&[Stream::new(0, COUNT, SIZE)]);
    tap.process().signal(Signal::SIGCONT)?;
    // One more shows the tap that it is read again.
    thread::sleep(Duration::from_millis(300));
    source.send_one(0, COUNT, SIZE)?;
    thread::sleep(Duration::from_millis(300));
    let tapped = tap.end()?;
    let shown = |outbound| {
        let frames = tapped.frames.iter();
        frames.filter(|frame| frame.outbound == outbound).count() as u64
    };
    let lost = |outbound| -> u64 {
        let frames = tapped.frames.iter();
        let frames = frames.filter(|frame| frame.outbound == outbound);
        frames.map(|frame| frame.lost).sum()
    };
    for outbound in [false, true] {
        let (shown, lost) = (shown(outbound), lost(outbound));
        ensure!(
            shown + lost == COUNT + 1 && lost > 0,
            "{shown} {lost}: {}",
            tapped.said
        );
    }
    let text = format!(
        "lost {} frames that came in and {}",
        lost(false),
        lost(true)
    );
    ensure!(
        tapped.said.contains(&text),
        "no {text:?} in {}",
        tapped.said
    );
    relay.stop()?;
    Ok(())
}

/// Of a rule that several workers have, all frames are there.
fn w5_a_tap_sees_all_workers_of_a_rule(backend: Backend) -> Result<()> {
    const SENDERS: u16 = 16;
    const EACH: u64 = 50;
    let bed = Testbed::builder().queues(2).without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let tap = Tapping::start(&relay, &["feed"])?;
    for sender in 0..SENDERS {
        let socket = UdpSender::open_from_port(&bed.sources[0], 41_000 + sender)?;
        let stream = Stream::new(sender.into(), EACH, 400);
        socket.send(&Traffic::new(rules[0].group, rules[0].port, stream), 2_000)?;
    }
    let all = u64::from(SENDERS) * EACH;
    let sent = eventually(Duration::from_secs(10), || {
        relay
            .status()
            .is_ok_and(|status| status["totals"]["packets_sent"] == all)
    });
    ensure!(sent.is_some(), "{}", relay.status()?);
    let tapped = tap.end()?;
    for comment in ["input", "output 1"] {
        let count = datagrams(&tapped.frames, comment).len() as u64;
        ensure!(count == all, "{comment}: {count} of {all}: {}", tapped.said);
    }
    relay.stop()?;
    Ok(())
}

/// Reloads that leave a rule as it is do not touch its tap; one that changes its outputs ends it,
/// and so do its removal and the end of the relay, each with its sentence.
fn w5_a_tap_ends_with_a_sentence_when_its_rule_changes(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let other =
        Rule::new("other", "in0", [239, 1, 9, 9], 7000).output("out0", [239, 3, 9, 9], 7001);
    let rules = |outputs| [Rule::feed().outputs("out0", outputs), other.clone()];
    let relay = RelayProcess::start(&bed.relay, backend, &rules(1))?;
    let tap = Tapping::start(&relay, &["feed"])?;
    let of_other = Tapping::start(&relay, &["other"])?;
    let only_feed = to_toml(&[Rule::feed().outputs("out0", 1)]);
    ensure!(relay.reload(&only_feed)?.code == Some(0));
    let ended = of_other.ended()?;
    ensure!(
        ended.code == Some(69) && ended.said.contains("rule other is gone"),
        "{ended:?}"
    );
    let sender = UdpSender::open(&bed.sources[0])?;
    sender.send(
        &Traffic::new(rules(1)[0].group, 5001, Stream::new(0, 10, 100)),
        1_000,
    )?;
    let sent = eventually(Duration::from_secs(10), || {
        relay
            .status()
            .is_ok_and(|status| status["totals"]["packets_sent"] == 10)
    });
    ensure!(sent.is_some());
    ensure!(relay.reload(&to_toml(&rules(2)))?.code == Some(0));
    let ended = tap.ended()?;
    ensure!(
        ended.code == Some(69) && ended.said.contains("rule feed was changed"),
        "{ended:?}"
    );
    ensure!(ended.frames.len() == 20, "{ended:?}");
    let tap = Tapping::start(&relay, &["feed", "--output", "2"])?;
    relay.stop()?;
    let ended = tap.ended()?;
    ensure!(
        ended.code == Some(69) && ended.said.contains("the relay ends"),
        "{ended:?}"
    );
    Ok(())
}

/// A user who may not change the relay gets nothing; a tap whose client was killed ends; the number
/// of taps is bounded; what does not exist is said.
fn w5_taps_are_for_owners_and_bounded(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let copy = PublicCopy::new("taps")?;
    for arguments in [&["feed"][..], &["--passed", "in0"]] {
        let mut command = copy.command(&bed.relay, NOBODY, &[] as &[&str]);
        command
            .arg("tap")
            .args(arguments)
            .arg("--control")
            .arg(relay.control());
        let answer = relay_tests::relay::finish(command)?;
        ensure!(answer.code == Some(77), "{answer:?}");
        ensure!(
            answer.stderr.contains("uid 65534 may only read"),
            "{answer:?}"
        );
    }
    for (arguments, text) in [
        (&["nothing"][..], "there is no rule nothing"),
        (
            &["feed", "--output", "2"],
            "has 1 outputs, so there is no output 2",
        ),
        (
            &["--passed", "out0"],
            "no rule that runs has the input out0",
        ),
    ] {
        let answer = relay.verb(&[&["tap"], arguments].concat())?;
        ensure!(
            answer.code == Some(69) && answer.stderr.contains(text),
            "{answer:?}"
        );
    }
    let tap = || Tapping::start(&relay, &["feed"]);
    let mut taps = vec![tap()?, tap()?, tap()?, tap()?];
    let answer = relay.verb(&["tap", "feed"])?;
    ensure!(
        answer.code == Some(69) && answer.stderr.contains("4 taps are on"),
        "{answer:?}"
    );
    taps[0].process().signal(Signal::SIGKILL)?;
    let again = eventually(Duration::from_secs(10), || tap().is_ok());
    ensure!(
        again.is_some(),
        "the tap of a client that was killed goes on"
    );
    drop(taps);
    // Without traffic, by the clock.
    let answer = relay.verb(&["tap", "feed", "--seconds", "1"])?;
    ensure!(
        answer.code == Some(0) && answer.stdout.is_empty(),
        "{answer:?}"
    );
    relay.stop()?;
    Ok(())
}

/// As lines, and no more than asked for.
fn w5_without_a_file_there_is_a_line_for_each_frame(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let (_, answer) = super::under_traffic(&bed.sources[0], &rules[0], 0, 1_000, || {
        relay.verb(&["tap", "feed", "--count", "10"])
    })?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let lines: Vec<&str> = answer.stdout.lines().collect();
    ensure!(lines.len() == 10, "{answer:?}");
    let came = lines.iter().any(|line| {
        line.contains(" in  in0 10.") && line.ends_with(" > 239.1.1.1:5001, 542 bytes")
    });
    let left = lines
        .iter()
        .any(|line| line.contains(" out out0 output 1 10.") && line.ends_with(", 542 bytes: left"));
    ensure!(came && left, "{}", answer.stdout);
    relay.stop()?;
    Ok(())
}

/// What the kernel program leaves to the stack, and why, as it counts it.
fn w5_what_the_program_passes_is_shown_with_its_reason(backend: Backend) -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let tap = Tapping::start(&relay, &["--passed", "in0"])?;
    let raw = RawSender::open(&bed.sources[0])?;
    let of = |group: [u8; 4], port| UdpFrame::new(&bed.sources[0], group, port, payload(0, 0, 100));
    let mut sent: Vec<(&str, Vec<u8>)> = Vec::new();
    sent.push(("pass_no_rule", of([239, 1, 1, 2], 5001).build()?));
    sent.push(("pass_no_rule", of([239, 1, 1, 1], 5002).build()?));
    let mut tagged = of([239, 1, 1, 1], 5001);
    tagged.tags = vec![(0x8100, 77)];
    sent.push(("pass_vlan", tagged.build()?));
    let mut fragment = of([239, 1, 1, 1], 5001);
    fragment.fragment = (10, true);
    fragment.dont_fragment = false;
    sent.push(("pass_fragment", fragment.build()?));
    let mut options = of([239, 1, 1, 1], 5001);
    options.options = vec![1, 1, 1, 0];
    sent.push(("pass_ip_options", options.build()?));
    sent.push(("pass_not_ip", arp_request(&bed.sources[0], &bed.inputs[0])));
    // One that a rule takes is not shown.
    raw.send(&of([239, 1, 1, 1], 5001).build()?)?;
    for (_, frame) in &sent {
        raw.send(frame)?;
    }
    thread::sleep(Duration::from_millis(500));
    let tapped = tap.end()?;
    for (reason, frame) in &sent {
        let mut frames = tapped.frames.iter();
        let found = frames.find(|tapped| tapped.bytes.starts_with(frame));
        let found = found.with_context(|| format!("no {reason} in {tapped:#?}"))?;
        ensure!(
            found.comment.ends_with(reason),
            "{reason}: {}",
            found.comment
        );
        ensure!(!found.outbound && found.interface == "in0");
    }
    let taken = of([239, 1, 1, 1], 5001).build()?;
    ensure!(!tapped.frames.iter().any(|frame| frame.bytes == taken));
    for reason in ["pass_no_rule 2", "pass_vlan 1", "pass_fragment 1"] {
        ensure!(tapped.said.contains(reason), "no {reason}: {}", tapped.said);
    }
    relay.stop()?;
    Ok(())
}

relay_tests::on_both_backends! {
    w5_a_tap_sees_all_workers_of_a_rule,
    w5_a_tap_ends_with_a_sentence_when_its_rule_changes,
    w5_taps_are_for_owners_and_bounded,
    w5_without_a_file_there_is_a_line_for_each_frame,
    w5_what_the_program_passes_is_shown_with_its_reason,
}

mod by_method {
    relay_tests::on_all_methods! {
        w5_a_tap_holds_what_was_on_the_wire,
        w5_frames_with_tags_are_tapped_byte_for_byte,
        w5_a_tap_says_why_copies_did_not_leave,
        w5_what_a_slow_tap_loses_it_says_and_no_frame_is_lost,
    }

    use super::{
        w5_a_tap_holds_what_was_on_the_wire, w5_a_tap_says_why_copies_did_not_leave,
        w5_frames_with_tags_are_tapped_byte_for_byte,
        w5_what_a_slow_tap_loses_it_says_and_no_frame_is_lost,
    };
}
