//! Malformed frames: they never leave, and the traffic beside them is exact.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, UDP_LEN, ipv4::field as ipv4, udp::field as udp};
use relay_tests::backend::Backend;
use relay_tests::frames::{SHORTEST_TAGGED, UdpFrame, is_tagged};
use relay_tests::inspect::is_udp;
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule};
use relay_tests::scenario::{Receivers, send, streams};
use relay_tests::sender::Pacer;
use relay_tests::topology::Testbed;

/// `frame` with `change` and a right IPv4 checksum after it, so that it has no other fault.
fn with_right_header(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame);
    let ip = &mut frame[ETHERNET_LEN..];
    let words = (usize::from(ip[ipv4::VERSION_AND_LEN] & 0x0f) * 2).min(ip.len() / 2);
    ip[ipv4::CHECKSUM].fill(0);
    let mut sum = 0u32;
    for word in ip.chunks_exact(2).take(words) {
        sum += u32::from(word[0]) << 8 | u32::from(word[1]);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !(sum as u16);
    ip[ipv4::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Frames that look like the rule's traffic and are broken, each in one way.
fn malformed(bed: &Testbed) -> Result<Vec<(String, Vec<u8>)>> {
    let good = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(99, 0, 40));
    let whole = good.build()?;
    let tagged = UdpFrame {
        tags: vec![(0x8100, 3)],
        ..good.clone()
    }
    .build()?;
    let mut cases = Vec::new();
    // A packet socket does not send less than an Ethernet header.
    for length in ETHERNET_LEN..whole.len() {
        cases.push((format!("cut at byte {length}"), whole[..length].to_vec()));
    }
    for length in ETHERNET_LEN..tagged.len() {
        cases.push((
            format!("tagged, cut at byte {length}"),
            tagged[..length].to_vec(),
        ));
    }
    let right = whole.len() as u16 - ETHERNET_LEN as u16;
    for total in [0, 1, 19, 20, 27, right - 1, right + 1, 1500, u16::MAX] {
        let frame = with_right_header(whole.clone(), |f| {
            f[ETHERNET_LEN..][ipv4::TOTAL_LEN].copy_from_slice(&total.to_be_bytes());
        });
        cases.push((format!("IP total length {total}"), frame));
    }
    let right = right - IPV4_LEN as u16;
    for length in [0, 1, UDP_LEN as u16 - 1, right + 1, 1480, u16::MAX] {
        let mut frame = whole.clone();
        frame[ETHERNET_LEN + IPV4_LEN..][udp::LEN].copy_from_slice(&length.to_be_bytes());
        cases.push((format!("UDP length {length}"), frame));
    }
    for first in (0..=255u8).filter(|first| *first != 0x45) {
        let frame = with_right_header(whole.clone(), |f| {
            f[ETHERNET_LEN..][ipv4::VERSION_AND_LEN] = first;
        });
        cases.push((format!("version and header length {first:#04x}"), frame));
    }
    let mut frame = whole.clone();
    frame[ETHERNET_LEN..][ipv4::CHECKSUM][0] ^= 0x40;
    cases.push(("wrong IP header checksum".to_owned(), frame));
    // Random bytes after the Ethernet header, or after the first bytes of the IP header.
    for n in 0..200u64 {
        let mut frame = payload(1000, n, 20 + (n as usize * 7) % 1400);
        let kept = if n % 2 == 0 {
            ETHERNET_LEN
        } else {
            ETHERNET_LEN + ipv4::CHECKSUM.start
        };
        frame.splice(..kept.min(frame.len()), whole[..kept].iter().copied());
        cases.push((format!("random bytes, number {n}"), frame));
    }
    Ok(cases)
}

fn x6_malformed_frames_never_leave_and_the_traffic_beside_them_is_exact(
    backend: Backend,
) -> Result<()> {
    let bed = Testbed::new()?;
    bed.outputs[0].set_checksum_offload(false)?; // frames, not GSO packets
    let rules = [Rule::feed().outputs("out0", 3)];
    let receivers = Receivers::start(&bed, &rules)?;
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let mut relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let streams = streams(&rules, 4000, 600);
    let frames = malformed(&bed)?;
    let raw = RawSender::open(&bed.sources[0])?;
    thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| send(&bed, &rules, &streams, || receivers.progress()));
        let mut pacer = Pacer::new(4000, 16);
        for _ in 0..2 {
            for (_, frame) in &frames {
                pacer.wait();
                raw.send(frame)?;
            }
        }
        let sent = sending.join();
        assert!(matches!(sent, Ok(Ok(()))), "{sent:?}");
        Ok(())
    })?;
    receivers.assert_exact(&streams);
    wire.settle();
    let udp = wire.frames().iter().filter(|f| is_udp(&f.bytes)).count();
    assert_eq!(udp, 12_000, "UDP frames at the receiving host");
    assert!(relay.is_running());
    let report = relay.stop()?.report;
    report.assert_exact(&[4000]);
    assert!(report.filter("in0", "pass_malformed") > 0, "{report:#?}");
    Ok(())
}

fn x6_each_malformed_frame_alone_does_not_leave(backend: Backend) -> Result<()> {
    let bed = Testbed::new()?;
    let rules = [Rule::feed().outputs("out0", 1)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let local = RawReceiver::start(&bed.inputs[0])?;
    let wire = RawReceiver::start(&bed.receivers[0])?;
    let raw = RawSender::open(&bed.sources[0])?;
    let frames = malformed(&bed)?;
    let mut pacer = Pacer::new(5000, 16);
    for (_, frame) in &frames {
        pacer.wait();
        raw.send(frame)?;
    }
    // All of them reach the stack of the relay's host. The kernel drops a frame that ends inside
    // its VLAN tag before a packet socket sees it.
    let shown = |frame: &[u8]| !is_tagged(frame) || frame.len() >= SHORTEST_TAGGED;
    let expected = frames.iter().filter(|(_, frame)| shown(frame)).count();
    let all = local.wait_for(expected, Duration::from_secs(10), |_| true);
    assert!(
        all,
        "{} of {expected} reach the local stack",
        local.frames().len()
    );
    // One that is right leaves, and nothing else.
    let good = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, 0, 40));
    raw.send(&good.build()?)?;
    let is_there = |frames: &[Frame]| frames.iter().any(|f| is_udp(&f.bytes));
    assert!(wire.wait_until(Duration::from_secs(10), is_there));
    wire.settle();
    let frames = wire.frames();
    let left: Vec<_> = frames.iter().filter(|f| is_udp(&f.bytes)).collect();
    assert_eq!(left.len(), 1, "left: {left:?}");
    let report = relay.stop()?.report;
    report.assert_exact(&[1]);
    assert!(report.filter("in0", "pass_malformed") > 100, "{report:#?}");
    Ok(())
}

relay_tests::on_both_backends! {
    x6_malformed_frames_never_leave_and_the_traffic_beside_them_is_exact,
    x6_each_malformed_frame_alone_does_not_leave,
}
