//! One datagram for every rule, and what arrives of them at every far end, in every header.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use relay_tests::encapsulation::{CUSTOMER, SERVICE, Tag};
use relay_tests::frames::{UdpFrame, group_mac};
use relay_tests::inspect::{self, UdpChecksum};
use relay_tests::raw::RawSender;
use relay_tests::report::Report;
use relay_tests::sender::UdpSender;
use relay_tests::sys::{Batch, Message, Receives};
use relay_tests::veth::Endpoint;

use super::model::{Active, Link, Model, Way};
use super::system::{System, Wire};
use super::universe::{self, INTERFACES, Input, NOBODY, Out, RULES, Source, Vlan};

/// How long the datagrams of one round have to arrive.
const ARRIVAL: Duration = Duration::from_millis(500);
/// How many rounds are sent until all arrive: what is under test is the state that was reached, and
/// a change that the relay makes by itself at this moment may cost a round.
const ROUNDS: u32 = 10;
/// DSCP 46 and ECN 1, of frames.
const TOS: u8 = 46 << 2 | 1;
/// The source port of frames.
const SOURCE_PORT: u16 = 40_000;
/// The TTL that datagrams to a group arrive with, and those to a host.
const TTL: u8 = 8;
const HOST_TTL: u8 = 64;

/// One copy: the relay's interface that it left through, its headers, and the round and the rule
/// that it is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    interface: &'static str,
    /// From and to.
    macs: [[u8; 6]; 2],
    tags: Vec<Tag>,
    source: IpAddr,
    source_port: u16,
    to: IpAddr,
    port: u16,
    tos: u8,
    ttl: u8,
    round: u32,
    rule: u32,
}

/// What a datagram is sent with.
#[derive(Debug, Clone, Copy)]
struct Sent {
    source: IpAddr,
    source_port: u16,
    tos: u8,
    ttl: u8,
}

/// The sockets at one far end.
#[derive(Debug)]
struct Open {
    index: u32,
    listener: OwnedFd,
    sender: UdpSender,
    frames: RawSender,
}

/// How many copies must be counted under one reason.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    least: u64,
    most: u64,
}

/// Sends and listens at all far ends.
#[derive(Default)]
pub struct Probe {
    open: BTreeMap<&'static str, Open>,
    round: u32,
    /// Copies that may arrive later: they wait in the TX ring of an interface that is down.
    late: BTreeSet<Copy>,
    /// Rounds in which not all arrived.
    pub repeated: u32,
    /// Copies to hosts that do not answer, and to those without a route.
    no_neighbour: Bounds,
    no_route: Bounds,
}

impl Probe {
    /// Sends a datagram for every rule that there could be, and fails unless exactly what `model`
    /// says arrives.
    pub fn run(&mut self, system: &System, model: &Model) -> Result<()> {
        self.open_sockets(system, model)?;
        // Other traffic may have filled the sockets since.
        self.receive(&BTreeSet::new())?;
        let mut last = BTreeSet::new();
        for _ in 0..ROUNDS {
            self.round += 1;
            let expected = self.send(system, model)?;
            let missing = self.receive(&expected)?;
            self.count(model, missing.is_empty());
            if missing.is_empty() {
                return Ok(());
            }
            self.repeated += 1;
            // They may still come.
            self.late.extend(missing.iter().cloned());
            last = missing;
        }
        anyhow::bail!("{ROUNDS} datagrams in a row did not arrive: {last:?}")
    }

    /// Closes all sockets, so that they do not fill with other traffic. Copies that come late are not
    /// seen then.
    pub fn close(&mut self) {
        self.open.clear();
    }

    /// Counts what a round must have lost: at least that if it was complete, and at most.
    fn count(&mut self, model: &Model, complete: bool) {
        for rule in model.active() {
            if model.link(rule.input.interface) != Link::Up {
                continue;
            }
            for (out, way) in &rule.outputs {
                let (no_neighbour, no_route) = match way {
                    Way::NoRoute => (false, true),
                    Way::Through(_) => (out.to == NOBODY, false),
                    Way::Unusable => continue,
                };
                let may = !complete && !out.to.is_multicast();
                for (bounds, must) in [
                    (&mut self.no_neighbour, no_neighbour),
                    (&mut self.no_route, no_route),
                ] {
                    bounds.least += u64::from(must && complete);
                    bounds.most += u64::from(must || may);
                }
            }
        }
    }

    /// Fails unless the relay has counted what was lost.
    pub fn check(&self, report: &Report) -> Result<()> {
        for (reason, bounds) in [
            ("no_neighbour", self.no_neighbour),
            ("no_route", self.no_route),
        ] {
            let counted = report.dropped_for(reason);
            ensure!(
                (bounds.least..=bounds.most).contains(&counted),
                "{counted} copies are counted as {reason}, and must be {bounds:?}: {report:#?}"
            );
        }
        Ok(())
    }

    /// Opens sockets at the ends of wires that are new.
    fn open_sockets(&mut self, system: &System, model: &Model) -> Result<()> {
        for interface in INTERFACES {
            if model.link(interface) == Link::Absent {
                self.open.remove(interface);
                continue;
            }
            let far: &Endpoint = &system.wire(interface)?.far;
            if self
                .open
                .get(interface)
                .is_some_and(|open| open.index == far.index)
            {
                continue;
            }
            let open = Open {
                index: far.index,
                listener: far.packet_socket(Receives::Arriving)?,
                sender: UdpSender::open(far)?,
                frames: RawSender::open(far)?,
            };
            self.open.insert(interface, open);
        }
        Ok(())
    }

    /// Sends a round, and returns what must arrive.
    fn send(&mut self, system: &System, model: &Model) -> Result<BTreeSet<Copy>> {
        let active = model.active();
        let mut expected = BTreeSet::new();
        for number in 0..RULES {
            let input = universe::input(number);
            if model.link(input.interface) != Link::Up {
                continue;
            }
            let sent = self.send_one(system, number, &input)?;
            let mine = active.iter().filter(|rule| rule.entry.number == number);
            for (out, interface) in mine.flat_map(Active::running) {
                if out.to == NOBODY {
                    continue;
                }
                let wire = system.wire(interface)?;
                let copy = Copy {
                    interface,
                    round: self.round,
                    rule: number as u32,
                    ..copy(out, interface, wire, &input, sent)
                };
                match model.link(interface) {
                    Link::Up => expected.insert(copy),
                    _ => self.late.insert(copy),
                };
            }
        }
        Ok(expected)
    }

    /// Sends a datagram: as programs do, or as a frame where they do not send such.
    fn send_one(&self, system: &System, number: usize, input: &Input) -> Result<Sent> {
        let Wire { near, far } = system.wire(input.interface)?;
        let open = self.open.get(input.interface).context("a source")?;
        let payload = [b"rule".as_slice(), &self.payload(number)].concat();
        let mut sent = Sent {
            source: far.address_for(input.to),
            source_port: SOURCE_PORT,
            tos: TOS,
            ttl: TTL,
        };
        if input.to.is_ipv4()
            && input.to.is_multicast()
            && number.is_multiple_of(2)
            && input.tags.is_empty()
        {
            open.sender.send_one(input.to, input.port, &payload)?;
            sent.source_port = open.sender.address()?.port();
            sent.tos = 0;
            return Ok(sent);
        }
        let mut frame = UdpFrame::new(far, input.to, input.port, payload);
        if input.owner.is_some() {
            frame.to_mac = Some(near.mac);
            sent.ttl = HOST_TTL;
        }
        frame.tags = input.tags.to_vec();
        (frame.tos, frame.ttl, frame.source_port) = (sent.tos, sent.ttl, sent.source_port);
        open.frames.send(&frame.build()?)?;
        Ok(sent)
    }

    fn payload(&self, number: usize) -> [u8; 8] {
        let [a, b, c, d] = self.round.to_be_bytes();
        let [e, f, g, h] = (number as u32).to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// Takes what arrives until `expected` is complete, or its time is over. Returns what is
    /// missing; fails on anything else than `expected` and what may be late.
    fn receive(&mut self, expected: &BTreeSet<Copy>) -> Result<BTreeSet<Copy>> {
        let deadline = Instant::now() + ARRIVAL;
        let mut missing = expected.clone();
        let mut batch = Batch::new(16, 2048);
        // One more look after the last: a copy too many would come with it.
        let mut complete = false;
        loop {
            let mut emptied = BTreeSet::new();
            let mut sockets = self.open.iter().cycle();
            while emptied.len() < self.open.len()
                && let Some((interface, open)) = sockets.next()
            {
                let count = match batch.receive(open.listener.as_fd()) {
                    Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => 0,
                    count => count.context("receiving")?,
                };
                if count == 0 {
                    emptied.insert(interface);
                    continue;
                }
                emptied.remove(interface);
                let messages = batch.messages().take(count);
                for copy in messages.filter_map(|message| read(interface, &message)) {
                    ensure!(
                        missing.remove(&copy) || self.late.remove(&copy),
                        "{copy:?} arrived, and must not, or not again; of this round: {expected:#?}"
                    );
                }
            }
            if complete || Instant::now() > deadline {
                return Ok(missing);
            }
            complete = missing.is_empty();
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The copy that an output makes of a datagram, but its round and its rule.
fn copy(out: &Out, interface: &'static str, wire: &Wire, input: &Input, sent: Sent) -> Copy {
    let near: &Endpoint = &wire.near;
    let to_mac = match out.to.is_multicast() {
        true => group_mac(out.to),
        // The host, or the router in front of it.
        false => wire.far.mac,
    };
    // The tag that a new one takes the place of gives it its priority.
    let upper = match (out.pcp, input.tags.last()) {
        (Some(pcp), _) => pcp << 13,
        (None, Some((_, tci))) => tci & 0xf000,
        (None, None) => 0,
    };
    let tags = match out.vlan {
        Vlan::Untagged => Vec::new(),
        Vlan::Kept => input.tags.to_vec(),
        Vlan::One(id) => vec![(CUSTOMER, id | upper)],
        Vlan::Two(outer, inner) => vec![(SERVICE, outer | upper), (CUSTOMER, inner | upper)],
    };
    Copy {
        interface,
        macs: [near.mac, to_mac],
        tags,
        source: match out.source {
            Source::Interface => near.address_for(out.to),
            Source::Kept => sent.source,
            Source::Other => out.other(),
        },
        source_port: out.source_port.unwrap_or(sent.source_port),
        to: out.to,
        port: out.port,
        tos: out.dscp.map_or(sent.tos, |dscp| dscp << 2 | sent.tos & 3),
        ttl: out.ttl.unwrap_or(match sent.ttl {
            34..=64 => sent.ttl - 1,
            _ => 64,
        }),
        round: 0,
        rule: 0,
    }
}

/// The copy in a frame that arrived; `None` if it is none. One with wrong checksums has port 0.
fn read(interface: &'static str, message: &Message<'_>) -> Option<Copy> {
    const MACS: usize = 12;
    let mut tags = Vec::from_iter(message.vlan.map(|tci| (message.tpid, tci)));
    let mut frame = message.bytes.to_vec();
    while let Some(&[a, b, c, d]) = frame.get(MACS..MACS + 4)
        && [CUSTOMER, SERVICE].contains(&u16::from_be_bytes([a, b]))
    {
        tags.push((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])));
        frame.drain(MACS..MACS + 4);
    }
    let datagram = inspect::datagram(&frame, message.partial_checksum)?;
    let (b"rule", numbers) = datagram.payload.split_first_chunk()? else {
        return None;
    };
    let number = |at: usize| Some(u32::from_be_bytes(*numbers.get(at..)?.first_chunk()?));
    let is_right = datagram.ip_checksum_valid && datagram.checksum != UdpChecksum::Wrong;
    Some(Copy {
        interface,
        macs: [datagram.source_mac, datagram.destination_mac],
        tags,
        source: datagram.source,
        source_port: datagram.source_port,
        to: datagram.destination,
        port: if is_right { datagram.port } else { 0 },
        tos: datagram.tos,
        ttl: datagram.ttl,
        round: number(0)?,
        rule: number(4)?,
    })
}
