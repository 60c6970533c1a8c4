//! Checksums and headers on the wire: right where the sender's were, and never repaired.

use std::time::Duration;

use anyhow::Result;
use relay_common::wire::IPV4_HEADERS_LEN;
use relay_tests::backend::Backend;
use relay_tests::frames::{self, Checksum, UdpFrame};
use relay_tests::inspect::{Datagram, UdpChecksum, is_udp};
use relay_tests::payload::payload;
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::relay::{RelayProcess, Stopped};
use relay_tests::rules::{GROUP_IN, PORT_IN, Rule, output_destination};
use relay_tests::scenario::ARRIVAL;
use relay_tests::sender::{Traffic, UdpSender};
use relay_tests::tally::Stream;
use relay_tests::topology::Testbed;

/// What the receiving host saw of a run, and how the relay ended.
struct Seen {
    datagrams: Vec<Datagram>,
    stopped: Stopped,
}

impl Seen {
    #[track_caller]
    fn assert_valid_checksums(&self) {
        for datagram in &self.datagrams {
            assert_eq!(
                datagram.checksum,
                UdpChecksum::Valid,
                "{datagram:?}, {:?}",
                self.stopped
            );
        }
    }
}

/// Runs a relay with three outputs on `out0`, lets `send` send `count` datagrams of flow 0, and
/// checks that three times as many arrive with right headers. The wire takes no GSO packets, and
/// the kernel completes all checksums in front of it, as on a NIC without offloads.
fn relay_to_three(
    backend: Backend,
    count: usize,
    send: impl FnOnce(&Testbed) -> Result<()>,
) -> Result<Seen> {
    let bed = Testbed::new()?;
    bed.outputs[0].set_checksum_offload(false)?;
    let rules = [Rule::feed().outputs("out0", 3)];
    let relay = RelayProcess::start(&bed.relay, backend, &rules)?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    send(&bed)?;
    raw.wait_until(ARRIVAL, |frames| {
        frames.iter().filter(|frame| is_udp(&frame.bytes)).count() >= 3 * count
    });
    raw.settle();
    let (datagrams, stopped) = (raw.datagrams(), relay.stop()?);
    assert_eq!(
        datagrams.len(),
        3 * count,
        "datagrams at the receiver: {:?}",
        stopped.report
    );
    for (n, datagram) in datagrams.iter().enumerate() {
        let (group, port) = output_destination(usize::from(datagram.port) % 6000);
        assert!(datagram.ip_checksum_valid, "{n}: {datagram:?}");
        assert_eq!(
            (datagram.destination, datagram.port),
            (group, port),
            "{n}: {datagram:?}"
        );
        assert_eq!(
            datagram.destination_mac,
            frames::group_mac(group),
            "{n}: {datagram:?}"
        );
        assert_eq!(datagram.source_mac, bed.outputs[0].mac, "{n}: {datagram:?}");
        assert_eq!(datagram.source, bed.outputs[0].address, "{n}: {datagram:?}");
        assert_eq!(datagram.ttl, 64, "{n}: {datagram:?}");
    }
    for output in 0..3 {
        let (_, port) = output_destination(output);
        let there = datagrams.iter().filter(|d| d.port == port).count();
        assert_eq!(there, count, "datagrams of output {output}");
    }
    stopped.report.assert_exact(&[count as u64]);
    Ok(Seen { datagrams, stopped })
}

/// Fails unless the payloads at every output are those of flow 0 in order.
#[track_caller]
fn assert_payloads(datagrams: &[Datagram], size: impl Fn(u64) -> usize) {
    for output in 0..3 {
        let (_, port) = output_destination(output);
        for (n, datagram) in (0..).zip(datagrams.iter().filter(|d| d.port == port)) {
            assert!(
                datagram.payload == payload(0, n, size(n)),
                "output {output}, datagram {n}"
            );
        }
    }
}

fn f9_partial_checksums_leave_complete_and_valid(backend: Backend) -> Result<()> {
    let sizes = [0, 1, 2, 17, 46, 333, 1001, 1472];
    let size = |n: u64| sizes[n as usize % sizes.len()];
    let seen = relay_to_three(backend, 800, |bed| {
        let sender = UdpSender::open(&bed.sources[0])?;
        for n in 0..800 {
            sender.send_one(GROUP_IN, PORT_IN, &payload(0, n, size(n)))?;
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    })?;
    seen.assert_valid_checksums();
    assert_payloads(&seen.datagrams, size);
    Ok(())
}

fn f9_complete_checksums_leave_valid_and_the_identification_and_source_port_are_kept(
    backend: Backend,
) -> Result<()> {
    let seen = relay_to_three(backend, 1000, |bed| {
        let sender = RawSender::open(&bed.sources[0])?;
        for n in 0..1000 {
            let mut frame = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, n, 333));
            frame.identification = n as u16 + 7;
            frame.source_port = 40_000 + n as u16;
            sender.send(&frame.build()?)?;
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    })?;
    seen.assert_valid_checksums();
    assert_payloads(&seen.datagrams, |_| 333);
    for output in 0..3 {
        let (_, port) = output_destination(output);
        for (n, datagram) in (0..).zip(seen.datagrams.iter().filter(|d| d.port == port)) {
            assert_eq!(
                (datagram.identification, datagram.source_port),
                (n + 7, 40_000 + n)
            );
        }
    }
    Ok(())
}

fn f9_checksums_that_the_sending_host_completed_leave_valid(backend: Backend) -> Result<()> {
    let seen = relay_to_three(backend, 500, |bed| {
        bed.sources[0].set_checksum_offload(false)?;
        let stream = Stream::new(0, 500, 801);
        UdpSender::open(&bed.sources[0])?.send(&Traffic::new(GROUP_IN, PORT_IN, stream), 8000)
    })?;
    seen.assert_valid_checksums();
    assert_payloads(&seen.datagrams, |_| 801);
    Ok(())
}

fn f9_datagrams_without_checksum_leave_without_one_or_with_a_valid_one(
    backend: Backend,
) -> Result<()> {
    let seen = relay_to_three(backend, 500, |bed| {
        let sender = UdpSender::open(&bed.sources[0])?;
        sender.without_checksum()?;
        sender.send(
            &Traffic::new(GROUP_IN, PORT_IN, Stream::new(0, 500, 400)),
            8000,
        )
    })?;
    for datagram in &seen.datagrams {
        let right = matches!(datagram.checksum, UdpChecksum::Zero | UdpChecksum::Valid);
        assert!(right, "{datagram:?}");
    }
    assert_payloads(&seen.datagrams, |_| 400);
    Ok(())
}

fn f9_a_wrong_checksum_is_never_repaired(backend: Backend) -> Result<()> {
    let seen = relay_to_three(backend, 500, |bed| {
        let sender = RawSender::open(&bed.sources[0])?;
        for n in 0..500 {
            let mut frame = UdpFrame::new(&bed.sources[0], GROUP_IN, PORT_IN, payload(0, n, 400));
            if n % 2 == 0 {
                frame.checksum = Checksum::Wrong;
                sender.send(&frame.build()?)?;
            } else {
                // Damaged on the way: the checksum was right before.
                let mut bytes = frame.build()?;
                bytes[IPV4_HEADERS_LEN + (n as usize % 400)] ^= 1;
                sender.send(&bytes)?;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    })?;
    assert!(
        seen.datagrams
            .iter()
            .all(|d| d.checksum == UdpChecksum::Wrong),
        "{:?}",
        seen.stopped
    );
    Ok(())
}

relay_tests::on_both_backends! {
    f9_partial_checksums_leave_complete_and_valid,
    f9_complete_checksums_leave_valid_and_the_identification_and_source_port_are_kept,
    f9_checksums_that_the_sending_host_completed_leave_valid,
    f9_datagrams_without_checksum_leave_without_one_or_with_a_valid_one,
    f9_a_wrong_checksum_is_never_repaired,
}
