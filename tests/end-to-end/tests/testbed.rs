//! The testbed itself, on a wire without a relay: it counts exactly, and its checks can fail.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use relay_tests::capture::target_directory;
use relay_tests::frames::{Checksum, ETHERNET_LEN, UdpFrame};
use relay_tests::headers::HeaderCheck;
use relay_tests::inspect::UdpChecksum;
use relay_tests::netns::Namespace;
use relay_tests::payload::payload;
use relay_tests::raw::{RawReceiver, RawSender};
use relay_tests::receiver::{Listen, UdpReceiver};
use relay_tests::sender::{Traffic, UdpSender, Window};
use relay_tests::stacked;
use relay_tests::tally::{Stream, Tally};
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
const PORT: u16 = 5001;
const WAIT: Duration = Duration::from_secs(20);
/// Where the checksum lies in an IPv4 header, in bytes.
const IP_CHECKSUM: usize = 10;

/// Sends `payloads` over the wire and returns the tally of a UDP receiver that expects `flow`.
fn tally_of(flow: u32, payloads: &[Vec<u8>]) -> Result<Tally> {
    let bed = Testbed::new()?;
    let receiver = UdpReceiver::start(&bed.inputs[0], &[Listen::new(GROUP, PORT, flow)])?;
    let sender = UdpSender::open(&bed.sources[0])?;
    for payload in payloads {
        sender.send_one(GROUP, PORT, payload)?;
    }
    receiver.wait_for(payloads.len() as u64, WAIT);
    receiver.settle();
    Ok(receiver.tallies().remove(0))
}

#[test]
fn ten_thousand_datagrams_over_a_wire_are_exact() -> Result<()> {
    let bed = Testbed::new()?;
    let receiver = UdpReceiver::start(&bed.inputs[0], &[Listen::new(GROUP, PORT, 1)])?;
    let sender = UdpSender::open(&bed.sources[0])?;
    let stream = Stream::new(1, 10_000, 1000);
    sender.send(&Traffic::new(GROUP, PORT, stream), 20_000)?;
    receiver.assert_all_exact(&stream, WAIT);
    let tally = receiver.tallies().remove(0);
    assert_eq!(tally.bytes, 10_000_000);
    assert_eq!(
        tally.sources.iter().map(SocketAddr::ip).collect::<Vec<_>>(),
        [bed.sources[0].address]
    );
    Ok(())
}

#[test]
fn two_hundred_and_fifty_groups_on_one_interface_are_told_apart() -> Result<()> {
    let bed = Testbed::builder().without_capture().build()?;
    let group = |n: u32| Ipv4Addr::from(u32::from(GROUP) + n);
    let listen: Vec<_> = (0..250).map(|n| Listen::new(group(n), PORT, n)).collect();
    let receiver = UdpReceiver::start(&bed.inputs[0], &listen)?;
    let sender = UdpSender::open(&bed.sources[0])?;
    let traffic: Vec<_> = (0..250)
        .map(|n| Traffic::new(group(n), PORT, Stream::new(n, 20, 100)))
        .collect();
    sender.send_interleaved(&traffic, 20_000, 64, &Window::unlimited())?;
    receiver.assert_all_exact(&Stream::new(0, 20, 100), WAIT);
    Ok(())
}

#[test]
fn segmented_datagrams_arrive_with_their_boundaries() -> Result<()> {
    let bed = Testbed::new()?;
    let receiver = UdpReceiver::start(&bed.inputs[0], &[Listen::new(GROUP, PORT, 2)])?;
    let sender = UdpSender::open(&bed.sources[0])?;
    let stream = Stream::new(2, 1000, 900);
    sender.send_segmented(
        &Traffic::new(GROUP, PORT, stream),
        16,
        10_000,
        &Window::unlimited(),
    )?;
    receiver.assert_all_exact(&stream, WAIT);
    Ok(())
}

#[test]
fn a_receiver_notices_an_injected_duplicate() -> Result<()> {
    let tally = tally_of(3, &[0, 1, 1, 2].map(|n| payload(3, n, 200)))?;
    assert_eq!((tally.unique, tally.duplicates), (3, 1), "{tally}");
    assert!(tally.verdict(&Stream::new(3, 3, 200)).is_err());
    Ok(())
}

#[test]
fn a_receiver_notices_a_lost_datagram() -> Result<()> {
    let tally = tally_of(4, &[0, 1, 3].map(|n| payload(4, n, 200)))?;
    assert_eq!(tally.missing(&Stream::new(4, 4, 200)), [2], "{tally}");
    assert!(tally.verdict(&Stream::new(4, 4, 200)).is_err());
    Ok(())
}

#[test]
fn a_receiver_notices_a_single_flipped_bit() -> Result<()> {
    let mut payloads = [0, 1, 2].map(|n| payload(5, n, 200));
    payloads[1][199] ^= 0x80;
    let tally = tally_of(5, &payloads)?;
    assert_eq!((tally.unique, tally.mismatched), (2, 1), "{tally}");
    assert!(tally.verdict(&Stream::new(5, 3, 200)).is_err());
    Ok(())
}

/// Every header field that tests say is right is looked at: a copy that is wrong in one is noticed.
#[test]
fn wrong_headers_are_noticed() -> Result<()> {
    let bed = Testbed::new()?;
    let (near, far) = (&bed.sources[0], &bed.inputs[0]);
    let right = || {
        let mut frame = UdpFrame::new(near, GROUP, PORT, payload(6, 0, 100));
        frame.ttl = 64;
        frame
    };
    let is_right = |frame: &[u8]| -> Result<bool> {
        let check = HeaderCheck::start(near, far, [(GROUP.into(), PORT)])?;
        let sender = RawSender::open(near)?;
        sender.send(frame)?;
        // What cannot be read is no datagram, so one that is right follows.
        sender.send(&right().build()?)?;
        assert!(check.wait_for(1, WAIT), "it arrives");
        Ok(catch_unwind(AssertUnwindSafe(|| check.assert_right())).is_ok())
    };
    assert!(is_right(&right().build()?)?);
    let wrong: [fn(&mut UdpFrame); 9] = [
        |frame| frame.source_mac[5] ^= 1,
        |frame| frame.to_mac = Some([1, 0, 0x5e, 1, 1, 2]),
        |frame| frame.tags = vec![(0x8100, 77)],
        |frame| frame.source = Ipv4Addr::new(10, 1, 0, 77).into(),
        |frame| frame.group = Ipv4Addr::new(239, 1, 1, 2).into(),
        |frame| frame.port += 1,
        |frame| frame.ttl -= 1,
        |frame| frame.tos = 4,
        |frame| frame.fragment = (0, true),
    ];
    for (number, change) in wrong.iter().enumerate() {
        let mut frame = right();
        change(&mut frame);
        assert!(!is_right(&frame.build()?)?, "{number}: {frame:?}");
    }
    let mut wrong_sum = right().build()?;
    wrong_sum[ETHERNET_LEN + IP_CHECKSUM] ^= 1;
    assert!(!is_right(&wrong_sum)?, "IP checksum");
    Ok(())
}

#[test]
fn a_raw_receiver_tells_right_wrong_and_absent_checksums_apart() -> Result<()> {
    let bed = Testbed::new()?;
    let receiver = RawReceiver::start(&bed.inputs[0])?;
    let sender = RawSender::open(&bed.sources[0])?;
    let cases = [
        (Checksum::Complete, UdpChecksum::Valid),
        (Checksum::Wrong, UdpChecksum::Wrong),
        (Checksum::Zero, UdpChecksum::Zero),
    ];
    for (n, (checksum, _)) in cases.iter().enumerate() {
        let mut frame = UdpFrame::new(&bed.sources[0], GROUP, PORT, payload(6, n as u64, 101));
        frame.checksum = *checksum;
        sender.send(&frame.build()?)?;
    }
    assert!(receiver.wait_for(3, WAIT, |_| true), "three frames arrive");
    let datagrams = receiver.datagrams();
    assert_eq!(datagrams.len(), 3, "{datagrams:#?}");
    for (datagram, (_, expected)) in datagrams.iter().zip(cases) {
        assert_eq!(datagram.checksum, expected, "{datagram:#?}");
        assert!(datagram.ip_checksum_valid, "{datagram:#?}");
        assert_eq!(datagram.destination_mac, [0x01, 0x00, 0x5e, 1, 1, 1]);
        assert_eq!(datagram.source_mac, bed.sources[0].mac);
        assert_eq!((datagram.ttl, datagram.identification), (8, 1));
    }
    Ok(())
}

#[test]
fn a_raw_receiver_recognises_partial_checksums_and_complete_ones_without_offload() -> Result<()> {
    let bed = Testbed::new()?;
    let receiver = RawReceiver::start(&bed.inputs[0])?;
    let sender = UdpSender::open(&bed.sources[0])?;
    sender.send_one(GROUP, PORT, &payload(7, 0, 100))?;
    bed.sources[0].set_checksum_offload(false)?;
    sender.send_one(GROUP, PORT, &payload(7, 1, 100))?;
    assert!(receiver.wait_for(2, WAIT, |_| true), "both frames arrive");
    let checksums: Vec<_> = receiver.datagrams().iter().map(|d| d.checksum).collect();
    assert_eq!(checksums, [UdpChecksum::Partial, UdpChecksum::Valid]);
    Ok(())
}

#[test]
fn a_tagged_frame_is_seen_with_its_tag() -> Result<()> {
    let bed = Testbed::new()?;
    let receiver = RawReceiver::start(&bed.inputs[0])?;
    let mut frame = UdpFrame::new(&bed.sources[0], GROUP, PORT, payload(8, 0, 100));
    frame.tags = vec![(0x8100, 77)];
    RawSender::open(&bed.sources[0])?.send(&frame.build()?)?;
    assert!(
        receiver.wait_for(1, WAIT, |frame| frame.vlan == Some(77)),
        "{:?}",
        receiver.frames()
    );
    assert_eq!(receiver.datagrams(), []);
    Ok(())
}

#[test]
fn a_namespace_is_visible_while_it_lives_and_gone_afterwards_also_by_a_panic() -> Result<()> {
    let namespace = Namespace::new("short-lived")?;
    let path = Path::new("/run/netns").join(namespace.name());
    assert!(namespace.name().starts_with("relay-"));
    assert!(path.exists());
    let result = std::thread::spawn(move || {
        let _namespace = namespace;
        std::panic::resume_unwind(Box::new("on purpose"));
    })
    .join();
    assert!(result.is_err());
    assert!(!path.exists());
    Ok(())
}

#[test]
fn multi_queue_wires_have_that_many_queues() -> Result<()> {
    let bed = Testbed::builder()
        .inputs(2)
        .outputs(2)
        .queues(4)
        .output_mtu(1, 600)
        .build()?;
    let shown = bed.relay.ip("-details link show dev in1")?;
    assert!(
        shown.contains("numtxqueues 4") && shown.contains("numrxqueues 4"),
        "{shown}"
    );
    let shown = bed.relay.ip("link show dev out1")?;
    assert!(shown.contains("mtu 600"), "{shown}");
    Ok(())
}

#[test]
fn a_failing_test_leaves_a_capture_of_its_wires() {
    let worker = std::thread::Builder::new()
        .name("a-failing-test".to_owned())
        .spawn(|| {
            let bed = Testbed::new().unwrap();
            let receiver = RawReceiver::start(&bed.inputs[0]).unwrap();
            let sender = UdpSender::open(&bed.sources[0]).unwrap();
            sender.send_one(GROUP, PORT, &payload(9, 0, 100)).unwrap();
            assert!(receiver.wait_for(1, WAIT, |_| true));
            std::panic::resume_unwind(Box::new("on purpose"));
        });
    assert!(worker.unwrap().join().is_err());
    let path = target_directory().join("pcap/a-failing-test-src0.pcap");
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[..4], 0xa1b2_c3d4_u32.to_ne_bytes());
    let sent = payload(9, 0, 100);
    assert!(
        bytes.windows(100).any(|window| window == sent),
        "{} holds the frame",
        path.display()
    );
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(target_directory().join("pcap/a-failing-test-rcv0.pcap")).unwrap();
}

#[test]
fn macvlan_devices_and_bridges_carry_what_the_wire_below_them_carries() -> Result<()> {
    type Stack = fn(&Endpoint, &str) -> Result<Endpoint>;
    let stream = Stream::new(1, 2000, 1000);
    for device in [stacked::macvlan as Stack, stacked::bridge] {
        let bed = Testbed::new()?;
        let near = device(&bed.inputs[0], "device0")?;
        let far = &bed.sources[0];
        for (from, to) in [(far, &near), (&near, far)] {
            let receiver = UdpReceiver::start(to, &[Listen::new(GROUP, PORT, 1)])?;
            UdpSender::open(from)?.send(&Traffic::new(GROUP, PORT, stream), 10_000)?;
            receiver.assert_all_exact(&stream, WAIT);
        }
    }
    Ok(())
}
