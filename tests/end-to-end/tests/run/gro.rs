//! Datagrams that the kernel joins before an io_uring input gets them: with `offloads = "manage"`
//! the relay has GRO on while it runs. Each of them leaves as it would have by itself, on every TX
//! method.

use anyhow::{Result, ensure};
use relay_tests::backend::Backend;
use relay_tests::encapsulation::Encapsulation;
use relay_tests::frames::{Checksum, UdpFrame};
use relay_tests::inspect::{Datagram, UdpChecksum};
use relay_tests::methods::{Method, TxMethod};
use relay_tests::payload::{header, payload};
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::Rule;
use relay_tests::scenario::ARRIVAL;
use relay_tests::sender::Pacer;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

/// Datagrams of each rule.
const COUNT: u64 = 2000;
const OUTPUTS: usize = 2;
/// Datagrams per second, so many that the kernel finds several at once.
const RATE: u32 = 60_000;
const VERSIONS: [Encapsulation; 2] = [Encapsulation::Ipv4, Encapsulation::Ipv6];
/// As `ethtool -k` calls them.
const FEATURES: [&str; 2] = ["generic-receive-offload", "rx-udp-gro-forwarding"];

/// The payload's length of datagram `n`: short ones end what the kernel joins.
fn size(n: u64) -> usize {
    if n % 32 == 31 { 300 } else { 700 }
}

/// The checksum of datagram `n`. The kernel joins neither wrong ones nor those without.
fn checksum(n: u64, over: Encapsulation) -> Checksum {
    match n % 64 {
        20 => Checksum::Wrong,
        40 if over == Encapsulation::Ipv4 => Checksum::Zero,
        _ => Checksum::Complete,
    }
}

/// Whether a copy of a datagram with checksum `sent` may have `seen`.
fn is_right(sent: Checksum, seen: UdpChecksum) -> bool {
    match sent {
        Checksum::Wrong => seen == UdpChecksum::Wrong,
        Checksum::Zero => matches!(
            seen,
            UdpChecksum::Zero | UdpChecksum::Valid | UdpChecksum::Partial
        ),
        _ => matches!(seen, UdpChecksum::Valid | UdpChecksum::Partial),
    }
}

fn features(of: &Endpoint) -> Result<[bool; 2]> {
    let [gro, forwarding] = FEATURES.map(|feature| of.has_feature(feature));
    Ok([gro?, forwarding?])
}

/// A thread of the kernel receives, so that datagrams gather while it does not run.
fn receive_by_a_thread(input: &Endpoint) -> Result<()> {
    let write = format!("echo 1 > /sys/class/net/{}/threaded", input.interface);
    let namespace = input.namespace.name();
    let arguments = ["netns", "exec", namespace, "sh", "-c", &write];
    input.namespace.tool("ip", &arguments).map(drop)
}

/// Sends all datagrams of both rules, in turns of a few.
fn send(bed: &Testbed, rules: &[Rule]) -> Result<()> {
    let from = &bed.sources[0];
    let mut frames = Vec::new();
    for first in (0..COUNT).step_by(16) {
        for (flow, (rule, over)) in (0..).zip(rules.iter().zip(VERSIONS)) {
            for n in first..COUNT.min(first + 16) {
                let bytes = payload(flow, n, size(n));
                let mut frame = UdpFrame::new(from, rule.group, rule.port, bytes);
                frame.checksum = checksum(n, over);
                frame.identification = n as u16;
                frames.push(frame.build()?);
            }
        }
    }
    let (sender, mut pacer) = (RawSender::open(from)?, Pacer::new(RATE, 64));
    frames.iter().try_for_each(|frame| {
        pacer.wait();
        sender.send(frame)
    })
}

/// How many datagrams are in frames that have several of them, and how many there are.
fn joined(frames: &[Frame], rules: &[Rule]) -> (usize, usize) {
    let of_rules = |one: &Datagram| rules.iter().any(|rule| rule.group == one.destination);
    let counts = frames
        .iter()
        .map(|frame| frame.datagrams().into_iter().filter(of_rules).count());
    counts.fold((0, 0), |(joined, all), count| {
        (joined + if count > 1 { count } else { 0 }, all + count)
    })
}

fn datagrams_that_the_kernel_joins_leave_as_they_came(tx: TxMethod) -> Result<()> {
    let method = Method {
        backend: Backend::IoUring,
        tx,
    };
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let (input, output) = (&bed.inputs[0], &bed.outputs[0]);
    input.set_feature("gro", false)?;
    method.set_up(output)?;
    let rules = VERSIONS.map(|over| Rule::feed().outputs("out0", OUTPUTS).over(over));
    let before = features(input)?;
    let manage = "[[interfaces]]\nname = \"in0\"\noffloads = \"manage\"\n";
    let relay = RelayProcess::start_with(&bed.relay, Backend::IoUring, &rules, manage)?;
    assert_eq!((before, features(input)?), ([false; 2], [true; 2]));
    receive_by_a_thread(input)?;
    let (arriving, leaving) = (
        RawReceiver::start(input)?,
        RawReceiver::start(&bed.receivers[0])?,
    );
    send(&bed, &rules)?;
    let all = COUNT as usize * rules.len() * OUTPUTS;
    leaving.wait_until(ARRIVAL, |frames| count(frames) >= all);
    leaving.settle();
    let (joined, received) = joined(&arriving.frames(), &rules);
    ensure!(
        joined > received / 20,
        "the kernel joined {joined} of {received} datagrams, too few to show anything"
    );
    let frames = leaving.frames();
    for (flow, (rule, over)) in (0..).zip(rules.iter().zip(VERSIONS)) {
        for (at, to) in rule.outputs.iter().enumerate() {
            let datagrams = frames.iter().flat_map(Frame::datagrams);
            let copies: Vec<Datagram> = datagrams
                .filter(|one| one.destination == to.group && one.port == to.port)
                .collect();
            let name = format!("{}, output {at}", rule.name);
            assert_eq!(copies.len() as u64, COUNT, "{name}");
            // The kernel lets a datagram that it does not join overtake those that it holds.
            for kind in [Checksum::Complete, Checksum::Wrong, Checksum::Zero] {
                let sent = (0..COUNT).filter(|&n| checksum(n, over) == kind);
                let is_of_kind = |copy: &&Datagram| {
                    let header = header(&copy.payload);
                    header.is_some_and(|(_, n)| checksum(n, over) == kind)
                };
                let arrived: Vec<_> = copies.iter().filter(is_of_kind).collect();
                assert_eq!(arrived.len(), sent.clone().count(), "{name}, {kind:?}");
                for (n, copy) in sent.zip(arrived) {
                    assert!(copy.payload == payload(flow, n, size(n)), "{name}, {n}");
                    assert!(is_right(kind, copy.checksum), "{name}, {n}: {copy:?}");
                    assert!(copy.ip_checksum_valid, "{name}, {n}: {copy:?}");
                    assert_eq!(copy.source_mac, output.mac, "{name}, {n}");
                }
            }
        }
    }
    let stopped = relay.stop()?;
    stopped.report.assert_exact(&[COUNT; 2]);
    method.assert_used(&stopped.report, &rules)?;
    assert_eq!(features(input)?, before, "{}", stopped.log);
    Ok(())
}

fn count(frames: &[Frame]) -> usize {
    frames.iter().map(|one| one.datagrams().len()).sum()
}

#[test]
fn datagrams_that_the_kernel_joins_leave_as_they_came_whole() -> Result<()> {
    datagrams_that_the_kernel_joins_leave_as_they_came(TxMethod::Whole)
}

#[test]
fn datagrams_that_the_kernel_joins_leave_as_they_came_cut() -> Result<()> {
    datagrams_that_the_kernel_joins_leave_as_they_came(TxMethod::Cut)
}

#[test]
fn datagrams_that_the_kernel_joins_leave_as_they_came_in_frames() -> Result<()> {
    datagrams_that_the_kernel_joins_leave_as_they_came(TxMethod::Frames)
}
