//! What a hostile segment sends to an input.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use relay_tests::encapsulation::{CUSTOMER, SERVICE, ipv6_of};
use relay_tests::frames::{
    Checksum, UdpFrame, arp_request, icmp_echo, igmp_report, mld_report, neighbour_solicitation,
    tcp_syn, with_extension,
};
use relay_tests::malformed::malformed;
use relay_tests::raw::RawSender;
use relay_tests::sender::{Pacer, UdpSender};
use relay_tests::veth::Endpoint;

use crate::system::Wire;
use crate::universe::{self, Input, RULES};

use super::traffic::{self, Dice};

/// Frames of a burst that is no flood, and how fast.
const FRAMES: usize = 400;
const RATE: u32 = 8_000;

/// What is wrong with the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Cut off, or with lengths that are not so, or random bytes.
    Malformed,
    /// As short as a frame can be.
    Runts,
    /// They seem to come from the relay.
    OwnSource,
    /// Sources that no host has, or an Ethernet address that is another's.
    Martians,
    /// Fragments of datagrams.
    Fragments,
    /// UDP checksums that are wrong, absent, or look as if they were partial.
    Checksums,
    /// VLAN tags, up to three.
    Tags,
    /// IPv6 extension headers.
    Extensions,
    /// Hosts that join groups, over IGMP and MLD.
    Memberships,
    /// Hosts that nobody has heard of before, by ARP and neighbour discovery.
    Neighbours,
    /// Groups and ports that no rule names.
    Unknown,
    /// TTLs that are used up.
    Expired,
    /// Pings and TCP to the relay's host.
    Others,
    /// The smallest frames of a rule, as fast as one thread can.
    Flood,
    /// The same joined by the sender's kernel.
    JoinedFlood,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Malformed,
        Self::Runts,
        Self::OwnSource,
        Self::Martians,
        Self::Fragments,
        Self::Checksums,
        Self::Tags,
        Self::Extensions,
        Self::Memberships,
        Self::Neighbours,
        Self::Unknown,
        Self::Expired,
        Self::Others,
        Self::Flood,
        Self::JoinedFlood,
    ];
}

/// Sends a burst to the input at `wire`. `own` are ends of the relay that copies leave through.
/// Returns how many frames were sent.
pub fn send(kind: Kind, seed: u64, wire: &Wire, own: &[Endpoint]) -> Result<u64> {
    let mut dice = Dice::new(seed);
    let far = traffic::now(&wire.far)?;
    let time = Duration::from_millis(200 + dice.below(800));
    match kind {
        Kind::Flood => return flood(wire, &far, &mut dice, time),
        Kind::JoinedFlood => return joined_flood(wire, &far, time),
        _ => {}
    }
    let frames = match kind {
        Kind::Malformed => {
            let frames = malformed(&far, Ipv4Addr::new(239, 1, 0, 1), 5000)?;
            frames.into_iter().map(|(_, frame)| frame).collect()
        }
        _ => (0..FRAMES)
            .map(|_| one(kind, &mut dice, wire, &far, own))
            .collect::<Result<Vec<_>>>()?,
    };
    let (sender, mut pacer) = (RawSender::open(&far)?, Pacer::new(RATE, 32));
    let mut sent = 0;
    for frame in &frames {
        pacer.wait();
        sent += u64::from(is_sent(sender.send(frame))?);
    }
    Ok(sent)
}

/// Whether a frame was sent. The sender's own host may have had no room for it.
fn is_sent(result: Result<()>) -> Result<bool> {
    let Err(error) = result else { return Ok(true) };
    let cause = error.root_cause().downcast_ref::<io::Error>();
    match cause.and_then(io::Error::raw_os_error) {
        Some(libc::ENOBUFS) => Ok(false),
        _ => Err(error),
    }
}

/// The inputs of all rules at an interface.
fn inputs(wire: &Wire) -> Vec<Input> {
    let inputs = (0..RULES).map(universe::input);
    let here = inputs.filter(|input| input.interface == wire.near.interface);
    here.collect()
}

/// A frame of a random rule, as it should be.
fn right(dice: &mut Dice, wire: &Wire) -> Result<UdpFrame> {
    let input = dice.one_of(&inputs(wire)).context("no rule is here")?;
    let size = 20 + dice.below(1_000) as usize;
    Ok(traffic::frame(wire, &input, vec![dice.any() as u8; size]))
}

fn one(
    kind: Kind,
    dice: &mut Dice,
    wire: &Wire,
    far: &Endpoint,
    own: &[Endpoint],
) -> Result<Vec<u8>> {
    let mut frame = right(dice, wire)?;
    let [a, b, c, d, e, f, ..] = dice.any().to_be_bytes();
    let is_ipv4 = frame.group.is_ipv4();
    match kind {
        Kind::Runts => {
            let whole = frame.build()?;
            let len = 14 + usize::from(a % 46);
            return Ok(whole.get(..len).unwrap_or(&whole).to_vec());
        }
        Kind::OwnSource => {
            let at = dice.below(own.len() as u64) as usize;
            let own = own.get(at).context("an output of the relay")?;
            match a % 2 {
                0 => frame.source_mac = own.mac,
                _ => frame.source = own.address_for(frame.group),
            }
        }
        Kind::Martians => {
            let sources = [
                Ipv4Addr::LOCALHOST,
                Ipv4Addr::UNSPECIFIED,
                Ipv4Addr::BROADCAST,
                Ipv4Addr::new(239, b, c, d),
                Ipv4Addr::new(240, b, c, d),
            ];
            match (a % 3, is_ipv4) {
                (0, _) => frame.to_mac = Some([2, a, b, c, d, e]),
                (_, true) => {
                    frame.source = dice.one_of(&sources).context("a source")?.into();
                }
                (_, false) => frame.source = Ipv6Addr::LOCALHOST.into(),
            }
        }
        Kind::Fragments if is_ipv4 => {
            frame.dont_fragment = false;
            frame.fragment = (u16::from(b), a % 2 == 0 || b == 0);
        }
        Kind::Checksums => {
            frame.checksum = match a % 3 {
                0 => Checksum::Wrong,
                1 => Checksum::Zero,
                _ => Checksum::LikePartial,
            };
        }
        Kind::Tags => {
            for _ in 0..=a % 3 {
                let ether_type = match dice.below(2) {
                    0 => CUSTOMER,
                    _ => SERVICE,
                };
                frame.tags.push((ether_type, dice.any() as u16));
            }
        }
        Kind::Extensions | Kind::Fragments => {
            let group = ipv6_of(Ipv4Addr::new(239, 1, 0, 8));
            let frame = UdpFrame::new(far, group, 5000, vec![a; usize::from(b)]);
            let mut bytes = frame.build()?;
            // Hop-by-hop, routing, fragment, destination options, and no next header.
            for _ in 0..=c % 3 {
                let kind = dice.one_of(&[0, 43, 44, 60, 59]).context("a kind")?;
                with_extension(&mut bytes, kind, [a, b, c, d, e, f]);
            }
            return Ok(bytes);
        }
        Kind::Memberships => {
            return match a % 2 {
                0 => igmp_report(far, Ipv4Addr::new(239, b, c, d)),
                _ => mld_report(far, ipv6_of(Ipv4Addr::new(239, b, c, d))),
            };
        }
        Kind::Neighbours => {
            let stranger = |address: Ipv4Addr| Endpoint {
                mac: [2, a, b, c, d, e],
                address,
                ipv6: Some(ipv6_of(address)),
                ..far.clone()
            };
            let [w, x, y, _] = far.address.octets();
            // Never the address of a host that is there.
            let stranger = stranger(Ipv4Addr::new(w, x, y, 100 + f % 150));
            return match a % 2 {
                0 => Ok(arp_request(&stranger, &wire.near)),
                _ => neighbour_solicitation(&stranger, &wire.near),
            };
        }
        Kind::Unknown => match (a % 2, is_ipv4 && frame.group.is_multicast()) {
            (0, true) => frame.group = IpAddr::from([239, 9, b, c]),
            _ => frame.port = 20_000 + u16::from(b),
        },
        Kind::Expired => frame.ttl = dice.one_of(&[0, 1, 2, 33]).context("a TTL")?,
        Kind::Others => {
            return match a % 2 {
                0 => icmp_echo(far, &wire.near, 7, &[b; 64]),
                _ => tcp_syn(far, &wire.near, u16::from(b) + 1),
            };
        }
        Kind::Malformed | Kind::Flood | Kind::JoinedFlood => {}
    }
    frame.build()
}

/// The rule that is flooded: the first of the input.
fn flooded(wire: &Wire) -> Result<Input> {
    let first = inputs(wire).into_iter().next();
    first.context("no rule is here")
}

fn flood(wire: &Wire, far: &Endpoint, dice: &mut Dice, time: Duration) -> Result<u64> {
    let frame = traffic::frame(wire, &flooded(wire)?, vec![dice.any() as u8; 20]).build()?;
    let (sender, end) = (RawSender::open(far)?, Instant::now() + time);
    let mut sent = 0;
    while Instant::now() < end {
        sent += u64::from(is_sent(sender.send(&frame))?);
    }
    Ok(sent)
}

fn joined_flood(wire: &Wire, far: &Endpoint, time: Duration) -> Result<u64> {
    const JOINED: usize = 32;
    const SIZE: usize = 200;
    let (input, sender) = (flooded(wire)?, UdpSender::open(far)?);
    sender.cut_into(SIZE)?;
    let bytes = vec![7; JOINED * SIZE];
    let end = Instant::now() + time;
    let mut sent = 0;
    while Instant::now() < end {
        let is_sent = is_sent(sender.send_one(input.to, input.port, &bytes))?;
        sent += if is_sent { JOINED as u64 } else { 0 };
    }
    Ok(sent)
}
