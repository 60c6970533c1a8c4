//! Feeds whose outputs each set something else in the headers of their copies: tags, priority,
//! source, source port, DSCP, TTL, the other version of IP. What is sent for them, over IPv4 and
//! IPv6, untagged, tagged and tagged twice, with every kind of checksum; and what each copy must be
//! at the receiver, in every byte.

mod copies;

use std::net::IpAddr;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::copies::{Copies, udp};
use crate::encapsulation::{CUSTOMER, Encapsulation, SERVICE, Tag};
use crate::frames::{Checksum, UdpFrame};
use crate::payload::payload;
use crate::raw::{Frame, RawReceiver, RawSender};
use crate::rules::Rule;
use crate::scenario::ARRIVAL;
use crate::tagged::TaggedSender;
use crate::topology::Testbed;

const SIZE: usize = 700;
/// How many datagrams are sent of a kind, one right after the other.
pub const BURST: u64 = 8;
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

/// How many outputs there are.
pub const OUTPUTS: usize = 11;

static OUTS: [Out; OUTPUTS] = [
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

/// What is sent, by its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The right ones.
    Complete,
    /// None; over IPv4 only.
    Absent,
    /// Left to the device.
    Partial,
    /// The right ones of other payloads.
    Damaged,
    /// Left to the device, as is cutting them apart: all in one GSO packet.
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

fn other(is_ipv6: bool) -> IpAddr {
    let text = if is_ipv6 { OTHER_V6 } else { OTHER_V4 };
    text.parse().unwrap_or(IpAddr::from([0; 4]))
}

/// The socket that a datagram is sent from.
fn source_port(number: u64, sockets: u16) -> u16 {
    40_000 + (number % u64::from(sockets.max(1))) as u16
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

/// Outputs with their positions.
fn numbered(outputs: &Range<usize>) -> impl Iterator<Item = (usize, &'static Out)> {
    let numbered = OUTS.iter().enumerate();
    numbered.skip(outputs.start).take(outputs.len())
}

/// A rule for each encapsulation, in the order of [`Encapsulation::ALL`], from `in0` to all
/// outputs, on `out0`.
pub fn rules() -> Vec<Rule> {
    rules_with(0..OUTPUTS)
}

/// The same with these outputs only, by their positions.
pub fn rules_with(outputs: Range<usize>) -> Vec<Rule> {
    let feed = |(feed, encapsulation): (usize, Encapsulation)| {
        let rule = Rule::feed().over(encapsulation);
        numbered(&outputs).fold(rule, |rule, (at, out)| {
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

/// Datagrams of one kind, for one of the [`rules`].
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    /// The position of its rule.
    pub feed: usize,
    /// Their kind.
    pub kind: Kind,
    /// The number of the first one.
    first: u64,
}

impl Burst {
    /// All of them, in the order in which they are to be sent.
    pub fn all() -> impl Iterator<Item = Self> {
        let of = |(feed, encapsulation): (usize, Encapsulation)| {
            let numbered = KINDS.into_iter().zip((0..).step_by(BURST as usize));
            let bursts = numbered.map(move |(kind, first)| Self { feed, kind, first });
            bursts.filter(move |one| one.kind != Kind::Absent || !encapsulation.is_ipv6())
        };
        Encapsulation::ALL.into_iter().enumerate().flat_map(of)
    }

    fn encapsulation(self) -> Encapsulation {
        Encapsulation::ALL
            .get(self.feed)
            .copied()
            .unwrap_or(Encapsulation::Ipv4)
    }

    fn payload(self, number: u64) -> Vec<u8> {
        payload(self.feed as u32, number, SIZE)
    }
}

/// Sends the datagrams of [`rules`] from `src0`, and looks at their copies at `rcv0`.
#[derive(Debug)]
pub struct Feeds<'a> {
    /// The hosts, which have IPv6.
    pub bed: &'a Testbed,
    /// The sockets of the sender, which take turns.
    pub sockets: u16,
    /// How long the sender waits after each datagram.
    pub gap: Duration,
}

impl Feeds<'_> {
    /// Sends the datagrams of a burst.
    pub fn send(&self, burst: Burst) -> Result<()> {
        let Burst { feed, kind, first } = burst;
        let rules = rules();
        let rule = rules.get(feed).context("a rule")?;
        let source = &self.bed.sources[0];
        let tags = came_with(burst.encapsulation());
        let mut numbers = first..first + BURST;
        if kind == Kind::Joined {
            let sender = TaggedSender::open(source, &tags, source_port(first, self.sockets))?;
            sender.start_at(first as usize);
            sender.cut_into(SIZE);
            let all: Vec<u8> = numbers.flat_map(|number| burst.payload(number)).collect();
            return sender.send_one(rule.group, rule.port, &all);
        }
        let sender = RawSender::open(source)?;
        numbers.try_for_each(|number| {
            thread::sleep(self.gap);
            let (port, bytes) = (source_port(number, self.sockets), burst.payload(number));
            if kind == Kind::Partial {
                let sender = TaggedSender::open(source, &tags, port)?;
                sender.start_at(number as usize);
                return sender.send_one(rule.group, rule.port, &bytes);
            }
            let mut frame = UdpFrame::new(source, rule.group, rule.port, bytes);
            frame.tags.clone_from(&tags);
            frame.source_port = port;
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
            sender.send(&frame)
        })
    }

    /// Waits for every copy of a burst and for quiet, and fails unless every output has sent each
    /// datagram once, in order, with the headers that its keys say. `log` is what the relay has to
    /// say.
    #[track_caller]
    pub fn assert_copies(
        &self,
        burst: Burst,
        receiver: &RawReceiver,
        log: impl Fn() -> String,
    ) -> Result<()> {
        self.assert_copies_with(0..OUTPUTS, burst, receiver, log)
    }

    /// The same of [`rules_with`] these outputs.
    #[track_caller]
    pub fn assert_copies_with(
        &self,
        outputs: Range<usize>,
        burst: Burst,
        receiver: &RawReceiver,
        log: impl Fn() -> String,
    ) -> Result<()> {
        wait_for(receiver, outputs.len() as u64 * BURST, log)?;
        receiver.settle();
        let frames = receiver.frames();
        for (at, out) in numbered(&outputs) {
            let encapsulation = burst.encapsulation();
            let copies = Copies {
                encapsulation,
                out,
                group: group(burst.feed, at, encapsulation.is_ipv6() != out.translates),
                port: 6000 + at as u16,
                near: &self.bed.outputs[0],
                sender: &self.bed.sources[0],
                sockets: self.sockets,
            };
            copies.check(burst, &frames);
        }
        Ok(())
    }
}

/// Waits until `count` datagrams have arrived, in however many frames.
fn wait_for(receiver: &RawReceiver, count: u64, log: impl Fn() -> String) -> Result<()> {
    let datagrams = |frame: &Frame| {
        let bytes = &frame.bytes;
        udp(bytes).map_or(0, |udp| {
            bytes.len().saturating_sub(udp + 8).div_ceil(SIZE) as u64
        })
    };
    let arrived = |frames: &[Frame]| frames.iter().map(datagrams).sum::<u64>();
    ensure!(
        receiver.wait_until(ARRIVAL, |frames| arrived(frames) >= count),
        "{} of {count} arrived\n{}",
        arrived(&receiver.frames()),
        log()
    );
    Ok(())
}
