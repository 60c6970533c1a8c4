//! Rules over IPv6: copies have right headers whichever way they leave, and what must not leave is
//! counted.

use std::time::Duration;

use anyhow::{Result, ensure};
use relay_tests::background::eventually;
use relay_tests::inspect::sum;
use relay_tests::ipv6::{
    COPIES, ETHERNET, GLOBAL, GROUP, HEADERS, LINK_LOCAL, OTHER, PORT, SENDER, UDP, frame,
    give_addresses, parsed, rule,
};
use relay_tests::methods::Method;
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::Rule;
use relay_tests::scenario::ARRIVAL;
use relay_tests::topology::Testbed;

/// The MTU of `out1`.
const SMALL: usize = 1400;

/// Datagrams of each size, and how many of them the relay finds at once.
const COUNT: u64 = 24;
const AT_ONCE: u64 = 6;

/// One input and two outputs, of which the second one has a small MTU.
fn bed() -> Result<Testbed> {
    let bed = Testbed::builder()
        .outputs(2)
        .output_mtu(1, SMALL as u32)
        .without_capture()
        .build()?;
    give_addresses(&bed)?;
    bed.sources[0].switch_on_ipv6(&[SENDER, "fe80::1:2"])?;
    Ok(bed)
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
        let (receiver, near) = (&receivers[copy.at], &bed.outputs[copy.at]);
        copy.assert_all(receiver, near, (size, count), |number| {
            40_000 + method.port(number)
        });
    }
}

/// Frames with complete checksums, as a NIC delivers them; several wait for the relay at a time.
fn m4_copies_of_every_size_have_right_headers_and_too_big_ones_are_counted(
    method: Method,
) -> Result<()> {
    let bed = bed()?;
    let rules = [rule(&COPIES)];
    let relay = method.start(&bed, &rules)?;
    let sender = RawSender::open(&bed.sources[0])?;
    let sizes = [0, 1, 1000, 1452];
    for size in sizes {
        let receivers = [0, 1].map(|at| RawReceiver::start(&bed.receivers[at]));
        let receivers = receivers.into_iter().collect::<Result<Vec<_>>>()?;
        for first in (0..COUNT).step_by(AT_ONCE as usize) {
            let paused = relay.pause()?;
            for number in first..first + AT_ONCE {
                let port = 40_000 + method.port(number);
                let bytes = payload(0, number, size);
                sender.send(&frame(&bed.sources[0], SENDER, port, &bytes)?)?;
            }
            drop(paused);
            // A receiver has no room for GSO packets of more.
            let sent = first + AT_ONCE;
            receivers[0].wait_until(ARRIVAL, |frames| COPIES[0].count_in(frames, size) >= sent);
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
    let is_copy = |frame: &Frame| COPIES[0].is_in(frame);
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
    COPIES[0].assert_headers(&frames[1], &bed.outputs[0], 40_000);
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
        |frame: &Frame| COPIES[0].is_in(frame) && frame.bytes[ETHERNET + 8..][..16] == from;
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
    let told = format!("copies leave out0 with the source address {OTHER} now, {GLOBAL} before");
    ensure!(relay.wait_for_log(&told), "{}", relay.log());
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
