//! Rules over IPv6: copies have right headers whichever way they leave, and what must not leave is
//! counted.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::{Ethernet2Header, Ipv6Header, PacketBuilder, UdpHeader};
use relay_tests::background::eventually;
use relay_tests::frames::group_mac;
use relay_tests::inspect::sum;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::Rule;
use relay_tests::scenario::ARRIVAL;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

const GROUP: &str = "ff3e::8000:1";
const PORT: u16 = 5001;
const SENDER: &str = "2001:db8:1::2";
/// The addresses of `out0`.
const GLOBAL: &str = "2001:db8:2::1";
const LINK_LOCAL: &str = "fe80::2:1";
/// The address of `out1`.
const OTHER: &str = "2001:db8:3::1";

const ETHERNET: usize = Ethernet2Header::LEN;
const UDP: usize = ETHERNET + Ipv6Header::LEN;
const HEADERS: usize = UDP + UdpHeader::LEN;
/// Version 6, traffic class 0xb8, flow label 0xabcde.
const FIRST: [u8; 4] = [0x6b, 0x8a, 0xbc, 0xde];
const HOP_LIMIT: u8 = 8;
/// The MTU of `out1`.
const SMALL: usize = 1400;

/// Datagrams of each size, and how many of them the relay finds at once.
const COUNT: u64 = 24;
const AT_ONCE: u64 = 6;

/// Switches IPv6 on at an interface, with these addresses, which are usable at once.
pub fn with_ipv6(at: &Endpoint, addresses: &[&str]) -> Result<()> {
    let (host, name) = (&at.namespace, &at.interface);
    for (key, value) in [
        ("accept_dad", "0"),
        // No address but those.
        ("addr_gen_mode", "1"),
        ("disable_ipv6", "0"),
    ] {
        host.sysctl(&format!("ipv6/conf/{name}/{key}"), value)?;
    }
    for address in addresses {
        host.ip(&format!("-6 address add {address}/64 dev {name} nodad"))?;
    }
    Ok(())
}

/// One input and two outputs, of which the second one has a small MTU.
fn bed() -> Result<Testbed> {
    let bed = Testbed::builder()
        .outputs(2)
        .output_mtu(1, SMALL as u32)
        .without_capture()
        .build()?;
    with_ipv6(&bed.inputs[0], &["2001:db8:1::1", "fe80::1:1"])?;
    with_ipv6(&bed.sources[0], &[SENDER, "fe80::1:2"])?;
    with_ipv6(&bed.outputs[0], &[GLOBAL, LINK_LOCAL])?;
    with_ipv6(&bed.outputs[1], &["fe80::3:1", OTHER])?;
    Ok(bed)
}

/// A copy as it must arrive.
struct Copy {
    at: usize,
    group: &'static str,
    port: u16,
    source: &'static str,
    hop_limit: u8,
    ttl: Option<&'static str>,
}

#[rustfmt::skip]
const COPIES: [Copy; 4] = [
    Copy { at: 0, group: "ff3e::8000:2", port: 6000, source: GLOBAL, hop_limit: 64, ttl: None },
    Copy { at: 0, group: "ff12::8000:3", port: 6001, source: LINK_LOCAL, hop_limit: 9, ttl: Some("9") },
    Copy { at: 0, group: "ff3e::8000:4", port: 6002, source: GLOBAL, hop_limit: 7, ttl: Some("\"decrement\"") },
    Copy { at: 1, group: "ff3e::8000:2", port: 6000, source: OTHER, hop_limit: 64, ttl: None },
];

fn rule() -> Rule {
    let mut rule = Rule::feed().takes(&format!("group = \"{GROUP}\", port = {PORT}"));
    for copy in &COPIES {
        let goes = format!("group = \"{}\", port = {}", copy.group, copy.port);
        rule = rule.output_that_goes(&format!("out{}", copy.at), &goes);
        if let Some(ttl) = copy.ttl {
            rule = rule.ttl(ttl);
        }
    }
    rule
}

#[expect(clippy::unwrap_used, reason = "the addresses of this file are right")]
fn parsed(address: &str) -> Ipv6Addr {
    address.parse().unwrap()
}

/// A frame of the feed.
fn frame(from: &Endpoint, source: &str, source_port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, group_mac(parsed(GROUP)))
        .ipv6(parsed(source).octets(), parsed(GROUP).octets(), HOP_LIMIT)
        .udp(source_port, PORT)
        .write(&mut frame, payload)?;
    frame[ETHERNET..ETHERNET + 4].copy_from_slice(&FIRST);
    Ok(frame)
}

/// The datagrams in a frame that has UDP over IPv6, with `size` bytes of payload each: several in a
/// GSO packet that the wire took whole.
fn payloads(frame: &Frame, size: usize) -> Vec<&[u8]> {
    let bytes = &frame.bytes;
    if bytes.get(12..14) != Some(&[0x86, 0xdd]) || bytes.get(ETHERNET + 6) != Some(&17) {
        return Vec::new();
    }
    match bytes.get(HEADERS..) {
        None => Vec::new(),
        Some(payload) if payload.len() > size && size > 0 => payload.chunks(size).collect(),
        Some(payload) => vec![payload],
    }
}

/// Fails unless `frame` has the headers of a copy, in every byte, and the checksum that fits its
/// payload, or that of the pseudo-header where the kernel says that the rest is to be added.
fn assert_headers(frame: &Frame, copy: &Copy, near: &Endpoint, first: [u8; 4], source_port: u16) {
    let bytes = &frame.bytes;
    let udp_len = bytes.len() - UDP;
    let checksum = u16::from_be_bytes([bytes[UDP + 6], bytes[UDP + 7]]);
    let pseudo = sum(&bytes[ETHERNET + 8..UDP], udp_len as u32 + 17);
    assert_ne!(checksum, 0, "{bytes:x?}");
    if frame.partial_checksum {
        assert_eq!(checksum, pseudo, "{bytes:x?}");
    } else {
        assert_eq!(sum(&bytes[UDP..], pseudo.into()), 0xffff, "{bytes:x?}");
    }
    let mut expected = Vec::new();
    expected.extend(group_mac(parsed(copy.group)));
    expected.extend(near.mac);
    expected.extend([0x86, 0xdd]);
    expected.extend(first);
    expected.extend((udp_len as u16).to_be_bytes());
    expected.extend([17, copy.hop_limit]);
    expected.extend(parsed(copy.source).octets());
    expected.extend(parsed(copy.group).octets());
    expected.extend(source_port.to_be_bytes());
    expected.extend(copy.port.to_be_bytes());
    expected.extend((udp_len as u16).to_be_bytes());
    expected.extend(checksum.to_be_bytes());
    assert_eq!(bytes[..HEADERS], expected, "{} on {}", copy.group, copy.at);
}

/// Whether a frame is one of `copy`.
fn is_of(frame: &Frame, copy: &Copy) -> bool {
    let port = frame.bytes.get(UDP + 2..UDP + 4);
    port == Some(&copy.port.to_be_bytes()) && !payloads(frame, 0).is_empty()
}

/// The source port of datagram `number`: the relay never joins datagrams of two senders that take
/// turns.
fn source_port(method: Method, number: u64) -> u16 {
    match method.tx {
        TxMethod::Frames => 40_000 + (number % 2) as u16,
        _ => 40_000,
    }
}

/// How many datagrams of `size` bytes `frames` have of a copy.
fn count_of(copy: &Copy, frames: &[Frame], size: usize) -> u64 {
    let frames = frames.iter().filter(|frame| is_of(frame, copy));
    frames.map(|frame| payloads(frame, size).len() as u64).sum()
}

/// Waits until `count` datagrams of `size` bytes of each copy have arrived, and checks them all.
fn assert_copies(
    bed: &Testbed,
    method: Method,
    receivers: &[RawReceiver],
    (size, count): (usize, u64),
) {
    for copy in &COPIES {
        if copy.at == 1 && size + HEADERS - ETHERNET > SMALL {
            continue;
        }
        let receiver = &receivers[copy.at];
        let all = receiver.wait_until(ARRIVAL, |frames| count_of(copy, frames, size) >= count);
        let frames = receiver.frames();
        let arrived = count_of(copy, &frames, size);
        assert!(all, "{arrived} of {count} arrived");
        let mut number = 0;
        for frame in frames.iter().filter(|frame| is_of(frame, copy)) {
            let port = source_port(method, number);
            assert_headers(frame, copy, &bed.outputs[copy.at], FIRST, port);
            for bytes in payloads(frame, size) {
                assert!(bytes == payload(0, number, size), "datagram {number}");
                number += 1;
            }
        }
        assert_eq!(number, count, "{}", copy.group);
    }
}

/// Frames with complete checksums, as a NIC delivers them; several wait for the relay at a time.
fn m4_copies_of_every_size_have_right_headers_and_too_big_ones_are_counted(
    method: Method,
) -> Result<()> {
    let bed = bed()?;
    let rules = [rule()];
    let relay = method.start(&bed, &rules)?;
    let sender = RawSender::open(&bed.sources[0])?;
    let sizes = [0, 1, 1000, 1452];
    for size in sizes {
        let receivers = [0, 1].map(|at| RawReceiver::start(&bed.receivers[at]));
        let receivers = receivers.into_iter().collect::<Result<Vec<_>>>()?;
        for first in (0..COUNT).step_by(AT_ONCE as usize) {
            let paused = relay.pause()?;
            for number in first..first + AT_ONCE {
                let port = source_port(method, number);
                let bytes = payload(0, number, size);
                sender.send(&frame(&bed.sources[0], SENDER, port, &bytes)?)?;
            }
            drop(paused);
            // A receiver has no room for GSO packets of more.
            let sent = first + AT_ONCE;
            receivers[0].wait_until(ARRIVAL, |frames| count_of(&COPIES[0], frames, size) >= sent);
        }
        assert_copies(&bed, method, &receivers, (size, COUNT));
    }
    let stopped = relay.stop()?;
    let report = &stopped.report;
    report.assert_balanced();
    let sent = COUNT * sizes.len() as u64;
    assert_eq!(report.packets_matched, sent, "{report:#?}");
    let too_big = &report.rules[0].outputs[3].dropped["too_big"];
    assert_eq!(*too_big, COUNT, "{report:#?}");
    assert_eq!(report.dropped_total(), COUNT, "{report:#?}");
    method.assert_used(report, &rules)
}

/// The relay's own copies that come back, datagrams without a checksum and those that are used up
/// stay where they are; a damaged one arrives damaged.
fn m4_what_must_not_leave_does_not_and_the_group_is_joined(method: Method) -> Result<()> {
    let bed = bed()?;
    let rules = [Rule::feed()
        .takes(&format!("group = \"{GROUP}\", port = {PORT}"))
        .output_that_goes("out0", "group = \"ff3e::8000:2\", port = 6000")];
    let relay = method.start(&bed, &rules)?;
    assert!(bed.inputs[0].has_joined(parsed(GROUP))?);
    let raw = RawReceiver::start(&bed.receivers[0])?;
    let sender = RawSender::open(&bed.sources[0])?;
    let bytes = payload(0, 0, 300);
    let usual = |source: &str| frame(&bed.sources[0], source, 40_000, &bytes);
    sender.send(&usual(GLOBAL)?)?;
    let mut without = usual(SENDER)?;
    without[UDP + 6..HEADERS].fill(0);
    sender.send(&without)?;
    let mut used_up = usual(SENDER)?;
    used_up[ETHERNET + 7] = 33;
    sender.send(&used_up)?;
    let mut damaged = usual(SENDER)?;
    damaged[HEADERS + 200] ^= 1;
    sender.send(&damaged)?;
    let mut longer = usual(SENDER)?;
    longer.extend([0xee; 20]);
    sender.send(&longer)?;
    let is_copy = |frame: &Frame| is_of(frame, &COPIES[0]);
    ensure!(raw.wait_for(2, ARRIVAL, is_copy), "{}", relay.log());
    raw.settle();
    let frames: Vec<Frame> = raw.frames().into_iter().filter(is_copy).collect();
    let checksum_fits = |frame: &Frame| {
        let len = (frame.bytes.len() - UDP) as u32;
        let pseudo = sum(&frame.bytes[ETHERNET + 8..UDP], len + 17);
        frame.partial_checksum || sum(&frame.bytes[UDP..], pseudo.into()) == 0xffff
    };
    let fits: Vec<bool> = frames.iter().map(checksum_fits).collect();
    assert_eq!(fits, [false, true]);
    assert_headers(&frames[1], &COPIES[0], &bed.outputs[0], FIRST, 40_000);
    assert!(frames[1].bytes[HEADERS..] == bytes, "without padding");
    let near = bed.inputs[0].clone();
    let stopped = relay.stop()?;
    let report = &stopped.report;
    let passed = |counter| report.filter("in0", counter);
    assert_eq!(passed("own_frame"), 1, "{report:#?}");
    assert_eq!(passed("pass_no_checksum"), 1, "{report:#?}");
    assert_eq!(report.dropped_for("ttl_expired"), 1, "{report:#?}");
    assert_eq!(report.packets_sent, 2, "{report:#?}");
    let left = eventually(Duration::from_secs(2), || {
        near.has_joined(parsed(GROUP)).is_ok_and(|joined| !joined)
    });
    assert!(left.is_some(), "the group is left");
    Ok(())
}

/// Sends datagrams until one copy has arrived at `raw` with this source.
fn arrives_from(bed: &Testbed, raw: &RawReceiver, source: &str) -> Result<()> {
    let sender = RawSender::open(&bed.sources[0])?;
    let from = parsed(source).octets();
    let from_there =
        |frame: &Frame| is_of(frame, &COPIES[0]) && frame.bytes[ETHERNET + 8..][..16] == from;
    let bytes = payload(0, 0, 300);
    let arrived = eventually(ARRIVAL, || {
        let sent = frame(&bed.sources[0], SENDER, 40_000, &bytes);
        let sent = sent.and_then(|frame| sender.send(&frame));
        sent.is_ok() && raw.wait_for(1, Duration::from_millis(20), from_there)
    });
    ensure!(arrived.is_some(), "no copy from {source}");
    Ok(())
}

fn status(relay: &RelayProcess) -> Result<String> {
    Ok(relay.verb(&["status"])?.stdout)
}

/// An output without an IPv6 address waits for one, and copies leave with the one that is there.
fn x9_copies_leave_with_the_address_that_the_interface_has_now(method: Method) -> Result<()> {
    let bed = bed()?;
    let rules = [Rule::feed()
        .takes(&format!("group = \"{GROUP}\", port = {PORT}"))
        .output_that_goes("out0", "group = \"ff3e::8000:2\", port = 6000")];
    let relay = method.start(&bed, &rules)?;
    let raw = RawReceiver::start(&bed.receivers[0])?;
    arrives_from(&bed, &raw, GLOBAL)?;
    let ip = |arguments: &str| bed.relay.ip(&format!("-6 address {arguments} dev out0"));
    ip(&format!("add {OTHER}/64 nodad"))?;
    ip(&format!("del {GLOBAL}/64"))?;
    arrives_from(&bed, &raw, OTHER)?;
    ip(&format!("del {OTHER}/64"))?;
    arrives_from(&bed, &raw, LINK_LOCAL)?;
    ip(&format!("del {LINK_LOCAL}/64"))?;
    let waits = "has no IPv6 address to send from";
    let told = || status(&relay).is_ok_and(|status| status.contains(waits));
    ensure!(eventually(ARRIVAL, told).is_some(), "{}", relay.log());
    ip(&format!("add {GLOBAL}/64 nodad"))?;
    let again = RawReceiver::start(&bed.receivers[0])?;
    arrives_from(&bed, &again, GLOBAL)?;
    let stopped = relay.stop()?;
    stopped.report.assert_no_chunk_missing();
    method.assert_used(&stopped.report, &rules)
}

relay_tests::on_all_methods!(
    m4_copies_of_every_size_have_right_headers_and_too_big_ones_are_counted,
    m4_what_must_not_leave_does_not_and_the_group_is_joined,
    x9_copies_leave_with_the_address_that_the_interface_has_now,
);
