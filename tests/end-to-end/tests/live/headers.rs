//! What an output sets in the headers of its copies, seen in every byte at the receiver: tags,
//! priority, source, source port, DSCP, TTL, and the other version of IP; for feeds that arrive over
//! IPv4 and IPv6, untagged, tagged and tagged twice, with every kind of checksum.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use relay_tests::encapsulation::{CUSTOMER, Encapsulation, SERVICE, Tag};
use relay_tests::frames::{Checksum, UdpFrame};
use relay_tests::inspect::sum;
use relay_tests::methods::{Method, TxMethod};
use relay_tests::payload::payload;
use relay_tests::raw::{Frame, RawReceiver, RawSender};
use relay_tests::relay::RelayProcess;
use relay_tests::rules::Rule;
use relay_tests::scenario::ARRIVAL;
use relay_tests::tagged::TaggedSender;
use relay_tests::topology::Testbed;
use relay_tests::veth::Endpoint;

const SIZE: usize = 700;
/// How many datagrams of a kind the relay finds at once.
const BURST: u64 = 8;
/// DSCP 46 and ECN 1, as datagrams arrive with it.
const TOS: u8 = 46 << 2 | 1;
const TTL: u8 = 8;
const LABEL: u32 = 0xabcde;
/// Priority and drop eligibility of the tags that datagrams arrive with.
const OUTER: u16 = 0xb000;
const INNER: u16 = 0x6000;

/// The tags that an output writes.
#[derive(Debug, Clone, Copy)]
enum Tags {
    /// Those that the datagram came with.
    Kept,
    /// One with this identifier, and this priority if one is given.
    One(u16, Option<u16>),
    /// Two.
    Two(u16, u16),
}

/// An output: its keys, and what they say.
struct Out {
    keys: &'static str,
    /// Its copies are of the other version of IP than the datagram.
    translates: bool,
    tags: Option<Tags>,
    /// The source is the sender's, or that which the keys name for its version of IP.
    source: From,
    source_port: Option<u16>,
    dscp: Option<u8>,
    ttl: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Interface,
    Sender,
    Other,
}

const USUAL: Out = Out {
    keys: "",
    translates: false,
    tags: None,
    source: From::Interface,
    source_port: None,
    dscp: None,
    ttl: 64,
};

const OUTS: [Out; 11] = [
    USUAL,
    Out {
        keys: "vlan = 200, pcp = 5, dscp = 10",
        tags: Some(Tags::One(200, Some(5))),
        dscp: Some(10),
        ..USUAL
    },
    Out {
        keys: "vlan = 201",
        tags: Some(Tags::One(201, None)),
        ..USUAL
    },
    Out {
        keys: "vlan = [300, 400]",
        tags: Some(Tags::Two(300, 400)),
        ..USUAL
    },
    Out {
        keys: "vlan = \"keep\", source_port = 7000",
        tags: Some(Tags::Kept),
        source_port: Some(7000),
        ..USUAL
    },
    Out {
        keys: "source = \"keep\", ttl = 8",
        source: From::Sender,
        ttl: 8,
        ..USUAL
    },
    Out {
        keys: "source = \"OTHER\", source_port = \"keep\", dscp = \"keep\"",
        source: From::Other,
        ..USUAL
    },
    Out {
        keys: "dscp = 0, source_port = 1, ttl = \"decrement\", source = \"keep\", vlan = 3",
        dscp: Some(0),
        source_port: Some(1),
        ttl: TTL - 1,
        source: From::Sender,
        tags: Some(Tags::One(3, None)),
        ..USUAL
    },
    Out {
        translates: true,
        ..USUAL
    },
    Out {
        keys: "dscp = 63, source_port = 65535, vlan = \"keep\"",
        translates: true,
        dscp: Some(63),
        source_port: Some(65_535),
        tags: Some(Tags::Kept),
        ..USUAL
    },
    Out {
        keys: "source = \"OTHER\", vlan = [1, 4094], pcp = 0",
        translates: true,
        source: From::Other,
        tags: Some(Tags::Two(1, 4094)),
        ..USUAL
    },
];

/// Sources that the relay's host does not have.
const OTHER_V4: &str = "10.77.0.9";
const OTHER_V6: &str = "2001:db8:77::9";

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Complete,
    /// Over IPv4 only.
    Absent,
    Partial,
    Damaged,
    /// In one GSO packet.
    Joined,
}

const KINDS: [Kind; 5] = [
    Kind::Complete,
    Kind::Absent,
    Kind::Partial,
    Kind::Damaged,
    Kind::Joined,
];

/// The tags of datagrams that arrive.
fn came_with(encapsulation: Encapsulation) -> Vec<Tag> {
    let tags = encapsulation.tags().iter().rev().zip([INNER, OUTER]);
    let mut tags: Vec<Tag> = tags
        .map(|(&(tpid, id), upper)| (tpid, id | upper))
        .collect();
    tags.reverse();
    tags
}

/// The priority that a tag has whose output sets none: that of the tag which it takes the place of.
fn upper(came: &[Tag], is_outer: bool) -> u16 {
    let of = |tag: Option<&Tag>| tag.map_or(0, |(_, tci)| tci & 0xf000);
    match came {
        [outer, _] if is_outer => of(Some(outer)),
        others => of(others.last()),
    }
}

impl Out {
    fn tags(&self, came: &[Tag]) -> Vec<Tag> {
        match self.tags {
            None => Vec::new(),
            Some(Tags::Kept) => came.to_vec(),
            Some(Tags::One(id, None)) => vec![(CUSTOMER, id | upper(came, false))],
            Some(Tags::One(id, Some(pcp))) => vec![(CUSTOMER, id | pcp << 13)],
            Some(Tags::Two(outer, inner)) => {
                let keeps = !self.keys.contains("pcp");
                let upper = |is_outer| if keeps { upper(came, is_outer) } else { 0 };
                vec![
                    (SERVICE, outer | upper(true)),
                    (CUSTOMER, inner | upper(false)),
                ]
            }
        }
    }
}

/// One output of one feed, and what it sends.
struct Copies<'a> {
    encapsulation: Encapsulation,
    out: &'a Out,
    group: IpAddr,
    port: u16,
    near: &'a Endpoint,
    sender: &'a Endpoint,
}

impl Copies<'_> {
    fn is_ipv6(&self) -> bool {
        self.encapsulation.is_ipv6() != self.out.translates
    }

    /// The copy of datagrams of this kind that have `payload`, of which the first has this number.
    fn frame(&self, kind: Kind, number: u64, payload: Vec<u8>) -> UdpFrame {
        let (out, came) = (self.out, came_with(self.encapsulation));
        let mut frame = UdpFrame::new(self.near, self.group, self.port, payload);
        frame.tags = out.tags(&came);
        frame.source = match out.source {
            From::Interface => self.near.address_for(self.group),
            From::Sender => self.sender.address_for(self.group),
            From::Other => other(self.is_ipv6()),
        };
        frame.source_port = out.source_port.unwrap_or(source_port(number));
        frame.ttl = out.ttl;
        let tos = sent_tos(kind);
        frame.tos = out.dscp.map_or(tos, |dscp| dscp << 2 | tos & 3);
        frame.flow_label = if out.translates { 0 } else { sent_label(kind) };
        frame.identification = number as u16;
        frame.dont_fragment = true;
        frame
    }
}

fn other(is_ipv6: bool) -> IpAddr {
    let text = if is_ipv6 { OTHER_V6 } else { OTHER_V4 };
    text.parse().unwrap_or(IpAddr::from([0; 4]))
}

/// The relay never joins datagrams of two sockets that take turns.
fn source_port(number: u64) -> u16 {
    40_000 + (number % 2) as u16 * u16::from(FRAME_BY_FRAME.with(std::cell::Cell::get))
}

std::thread_local! {
    /// Whether copies must leave frame by frame.
    static FRAME_BY_FRAME: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A sender whose checksums are partial sets neither.
fn sent_tos(kind: Kind) -> u8 {
    if is_of_a_host(kind) { 0 } else { TOS }
}

fn sent_label(kind: Kind) -> u32 {
    if is_of_a_host(kind) { 0 } else { LABEL }
}

/// Whether the kernel or the device shall complete the checksums.
fn is_of_a_host(kind: Kind) -> bool {
    matches!(kind, Kind::Partial | Kind::Joined)
}

/// Where the group of an output is, by its position and the feed's: nothing else has it.
fn group(feed: usize, out: usize, is_ipv6: bool) -> IpAddr {
    let text = if is_ipv6 {
        format!("ff3e::8000:{:x}{out:02x}", feed + 1)
    } else {
        format!("239.50.{feed}.{}", out + 1)
    };
    text.parse().unwrap_or(IpAddr::from([0; 4]))
}

fn rules() -> Vec<Rule> {
    let feed = |(feed, encapsulation): (usize, Encapsulation)| {
        let rule = Rule::feed().over(encapsulation);
        OUTS.iter().enumerate().fold(rule, |rule, (at, out)| {
            let is_ipv6 = encapsulation.is_ipv6() != out.translates;
            let group = group(feed, at, is_ipv6);
            let keys = out.keys.replace("OTHER", &other(is_ipv6).to_string());
            let comma = if keys.is_empty() { "" } else { ", " };
            let goes = format!("group = \"{group}\", port = {}{comma}{keys}", 6000 + at);
            rule.output_that_goes("out0", &goes)
        })
    };
    Encapsulation::ALL
        .into_iter()
        .enumerate()
        .map(feed)
        .collect()
}

/// Sends a burst of a kind, whose first datagram has this number.
fn send(bed: &Testbed, feed: usize, kind: Kind, first: u64, rule: &Rule) -> Result<()> {
    let encapsulation = Encapsulation::ALL[feed];
    let source = &bed.sources[0];
    let tags = came_with(encapsulation);
    let numbers = first..first + BURST;
    let bytes = |number| payload(feed as u32, number, SIZE);
    if kind == Kind::Joined {
        let sender = TaggedSender::open(source, &tags, source_port(first))?;
        sender.start_at(first as usize);
        sender.cut_into(SIZE);
        let all: Vec<u8> = numbers.flat_map(bytes).collect();
        return sender.send_one(rule.group, rule.port, &all);
    }
    if kind == Kind::Partial {
        for number in numbers {
            let sender = TaggedSender::open(source, &tags, source_port(number))?;
            sender.start_at(number as usize);
            sender.send_one(rule.group, rule.port, &bytes(number))?;
        }
        return Ok(());
    }
    let sender = RawSender::open(source)?;
    for number in numbers {
        let mut frame = UdpFrame::new(source, rule.group, rule.port, bytes(number));
        frame.tags.clone_from(&tags);
        frame.source_port = source_port(number);
        frame.ttl = TTL;
        frame.tos = TOS;
        frame.flow_label = LABEL;
        frame.identification = number as u16;
        if kind == Kind::Absent {
            frame.checksum = Checksum::Zero;
        }
        let mut frame = frame.build()?;
        if kind == Kind::Damaged {
            *frame.last_mut().context("a frame")? ^= 1;
        }
        sender.send(&frame)?;
    }
    Ok(())
}

/// Where the IP header of a frame begins.
fn network(frame: &[u8]) -> usize {
    let mut at = 14;
    while matches!(frame.get(at - 2..at), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    at
}

/// Where the UDP header of a frame begins; `None` if it has none.
fn udp(frame: &[u8]) -> Option<usize> {
    let network = network(frame);
    let (protocol, len) = match frame.get(network)? >> 4 {
        4 => (frame.get(network + 9)?, 20),
        6 => (frame.get(network + 6)?, 40),
        _ => return None,
    };
    (*protocol == 17).then_some(network + len)
}

impl Copies<'_> {
    fn is_in(&self, frame: &[u8]) -> bool {
        let port = udp(frame).and_then(|at| frame.get(at + 2..at + 4));
        let to = match self.group {
            IpAddr::V4(group) => (16, group.octets().to_vec()),
            IpAddr::V6(group) => (24, group.octets().to_vec()),
        };
        let at = network(frame) + to.0;
        port == Some(&self.port.to_be_bytes()) && frame.get(at..at + to.1.len()) == Some(&to.1)
    }

    /// Checks the frames of one burst: each datagram once, in order, with right headers.
    #[track_caller]
    fn check(&self, feed: usize, kind: Kind, first: u64, frames: &[Frame]) {
        let mut number = first;
        for arrived in frames {
            let bytes = arrived.on_the_wire();
            if !self.is_in(&bytes) {
                continue;
            }
            let udp = udp(&bytes).unwrap_or(0);
            let count = (bytes.len() - udp - 8).div_ceil(SIZE) as u64;
            let mut sent: Vec<u8> = (number..number + count)
                .flat_map(|number| payload(feed as u32, number, SIZE))
                .collect();
            if kind == Kind::Damaged
                && let Some(last) = sent.last_mut()
            {
                *last ^= 1;
            }
            let mut expected = self.frame(kind, number, sent);
            let checksum = [bytes[udp + 6], bytes[udp + 7]];
            expected.checksum = match checksum {
                [0, 0] => Checksum::Zero,
                _ if arrived.partial_checksum => Checksum::LikePartial,
                _ => Checksum::Complete,
            };
            let (may_be_absent, is_v4) = (kind == Kind::Absent, !self.is_ipv6());
            assert!(checksum != [0, 0] || may_be_absent && is_v4, "{bytes:x?}");
            let id = network(&bytes) + 4;
            if self.out.translates && is_v4 {
                // Of atomic datagrams any will do.
                expected.identification = u16::from_be_bytes([bytes[id], bytes[id + 1]]);
            }
            let mut right = expected.build().unwrap_or_default();
            if kind == Kind::Damaged {
                let right_sum = &mut right[udp + 6..udp + 8];
                assert!(
                    right_sum != checksum && !arrived.partial_checksum,
                    "hidden damage"
                );
                right_sum.copy_from_slice(&checksum);
                self.assert_damage_alone(&bytes, udp);
            }
            assert!(
                bytes == right,
                "{kind:?} over {:?}, `{}`, datagram {number}:\n{:02x?}\n{:02x?}",
                self.encapsulation,
                self.out.keys,
                &bytes[..bytes.len().min(90)],
                &right[..right.len().min(90)]
            );
            number += count;
        }
        assert_eq!(
            number - first,
            BURST,
            "{kind:?} {:?} {}",
            self.encapsulation,
            self.out.keys
        );
    }

    /// With the damage undone the checksum of a frame is right.
    #[track_caller]
    fn assert_damage_alone(&self, frame: &[u8], udp: usize) {
        let mut whole = frame.to_vec();
        if let Some(last) = whole.last_mut() {
            *last ^= 1;
        }
        let addresses = if self.is_ipv6() {
            udp - 32..udp
        } else {
            udp - 8..udp
        };
        let len = (whole.len() - udp) as u32;
        let pseudo = sum(&whole[addresses], len + 17);
        assert_eq!(sum(&whole[udp..], pseudo.into()), 0xffff);
    }
}

/// Every output of every feed, for every kind of datagram.
fn m3_m5_m9_m11_m12_copies_have_the_headers_that_their_output_says(method: Method) -> Result<()> {
    FRAME_BY_FRAME.with(|cell| cell.set(method.tx == TxMethod::Frames));
    let bed = Testbed::builder().ipv6().without_capture().build()?;
    let rules = rules();
    let relay = method.start(&bed, &rules)?;
    let mut sent = 0;
    for (feed, rule) in rules.iter().enumerate() {
        let encapsulation = Encapsulation::ALL[feed];
        for (kind, first) in KINDS.into_iter().zip((0..).step_by(BURST as usize)) {
            let never = kind == Kind::Absent && encapsulation.is_ipv6()
                || kind == Kind::Joined && method.tx == TxMethod::Frames;
            if never {
                continue;
            }
            let receiver = RawReceiver::start(&bed.receivers[0])?;
            let paused = relay.pause()?;
            send(&bed, feed, kind, first, rule)?;
            drop(paused);
            sent += BURST;
            let copies = |at: usize, out| Copies {
                encapsulation,
                out,
                group: group(feed, at, encapsulation.is_ipv6() != OUTS[at].translates),
                port: 6000 + at as u16,
                near: &bed.outputs[0],
                sender: &bed.sources[0],
            };
            let all: Vec<Copies<'_>> = OUTS
                .iter()
                .enumerate()
                .map(|(at, o)| copies(at, o))
                .collect();
            wait_for(&relay, &receiver, all.len() as u64 * BURST)?;
            receiver.settle();
            let frames = receiver.frames();
            for copies in all {
                copies.check(feed, kind, first, &frames);
            }
        }
    }
    let stopped = relay.stop()?;
    let report = &stopped.report;
    report.assert_balanced();
    assert_eq!(report.packets_matched, sent, "{report:#?}");
    assert_eq!(report.dropped_total(), 0, "{report:#?}");
    method.assert_used(report, &rules)
}

/// Waits until `count` datagrams have arrived, in however many frames.
fn wait_for(relay: &RelayProcess, receiver: &RawReceiver, count: u64) -> Result<()> {
    let datagrams = |frame: &Frame| {
        let bytes = &frame.bytes;
        udp(bytes).map_or(0, |udp| {
            bytes.len().saturating_sub(udp + 8).div_ceil(SIZE) as u64
        })
    };
    let all = |frames: &[Frame]| frames.iter().map(datagrams).sum::<u64>() >= count;
    ensure!(
        receiver.wait_until(ARRIVAL.max(Duration::from_secs(2)), all),
        "{} of {count} arrived\n{}",
        receiver.frames().iter().map(datagrams).sum::<u64>(),
        relay.log()
    );
    Ok(())
}

relay_tests::on_all_methods!(m3_m5_m9_m11_m12_copies_have_the_headers_that_their_output_says);
