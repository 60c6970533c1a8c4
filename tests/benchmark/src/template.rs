//! The frames of a flow: the part that all of them share, so that the generator has little to do
//! for each.
//!
//! The headers come from [`relay_tests::frames`], which shares nothing with the generator's own
//! arithmetic.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use relay_common::wire::{ipv4, ipv6, udp};
use relay_tests::{encapsulation::CUSTOMER, frames::UdpFrame, veth::Endpoint};

use crate::{
    framing::{Framing, SOURCE6, VLAN, group6},
    generator::Traffic,
    programs::abi::{IPV6_HEADER_WORDS, STAMP_LEN, Stamp, Template},
};

/// The source port of the first sender's frames.
const SOURCE_PORT: u16 = 40_000;
/// Their hop limit over IPv6.
const HOP_LIMIT: u8 = 8;

/// One flow's frames, from one sender.
#[derive(Debug)]
pub struct Feed {
    from: Endpoint,
    from6: Ipv6Addr,
    source_port: u16,
    group: Ipv4Addr,
    port: u16,
    payload: usize,
    framing: Framing,
}

impl Feed {
    /// Frames as `traffic` has them, to `group`:`port`. The first sender is the wire's end itself;
    /// each of the others has the next address and hardware address of its link, and the next
    /// source port.
    pub fn new(
        wire: &Endpoint,
        (group, port): (Ipv4Addr, u16),
        sender: u16,
        traffic: &Traffic,
    ) -> Self {
        let mut from = wire.clone();
        from.address = Ipv4Addr::from_bits(wire.address.to_bits() + u32::from(sender));
        let [.., high, low] = &mut from.mac;
        [*high, *low] = (u16::from_be_bytes([*high, *low]) + sender).to_be_bytes();
        Self {
            from,
            from6: Ipv6Addr::from_bits(SOURCE6.to_bits() + u128::from(sender)),
            source_port: SOURCE_PORT + sender,
            group,
            port,
            payload: traffic.payload,
            framing: traffic.framing,
        }
    }
}

/// The frame with number and time 0.
pub fn frame(feed: &Feed, flow: u32) -> Result<Vec<u8>> {
    let mut payload = Vec::with_capacity(feed.payload);
    payload.extend(Stamp::new(flow, 0, 0).to_bytes());
    // The generator does not write the rest, which is the same in all flows.
    payload.extend((STAMP_LEN..feed.payload).map(|i| i as u8));
    if feed.framing == Framing::Ipv6 {
        return frame6(feed, &payload);
    }
    let mut frame = UdpFrame::new(&feed.from, feed.group, feed.port, payload);
    frame.source_port = feed.source_port;
    frame.identification = 0;
    if feed.framing == Framing::Tagged {
        frame.tags = vec![(CUSTOMER, VLAN)];
    }
    frame.build()
}

/// A frame over IPv6 with this payload.
fn frame6(feed: &Feed, payload: &[u8]) -> Result<Vec<u8>> {
    let group = group6(feed.group).octets();
    // RFC 2464, section 7.
    let [.., a, b, c, d] = group;
    let builder = PacketBuilder::ethernet2(feed.from.mac, [0x33, 0x33, a, b, c, d])
        .ipv6(feed.from6.octets(), group, HOP_LIMIT)
        .udp(feed.source_port, feed.port);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).context("IPv6 frame")?;
    Ok(frame)
}

/// What the generator needs to know of a flow.
pub fn template(feed: &Feed, flow: u32) -> Result<Template> {
    let mut frame = frame(feed, flow)?;
    let (ip_at, udp_at) = (feed.framing.ip_at(), feed.framing.udp_at());
    let addresses = match feed.framing {
        Framing::Ipv4 | Framing::Tagged => {
            frame[ip_at..][ipv4::field::CHECKSUM].fill(0);
            ipv4::field::ADDRESSES
        }
        Framing::Ipv6 => ipv6::field::SOURCE.start..ipv6::field::DESTINATION.end,
    };
    frame[udp_at..][udp::field::CHECKSUM].fill(0);
    // The generator adds what it writes.
    frame[feed.framing.headers_len()..][..STAMP_LEN].fill(0);
    let udp_len = u16::try_from(frame.len() - udp_at).context("UDP length")?;
    let protocol = u16::from(ipv4::PROTOCOL_UDP);
    let pseudo =
        sum(&frame[ip_at..][addresses]) + u32::from(protocol.to_be()) + u32::from(udp_len.to_be());
    let mut headers = [0; IPV6_HEADER_WORDS];
    let bytes = frame[..feed.framing.headers_len()].chunks_exact(2);
    for (word, bytes) in headers.iter_mut().zip(bytes) {
        *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
    }
    Ok(Template {
        headers,
        padding: 0,
        ip_sum: sum(&frame[ip_at..udp_at]),
        udp_sum: pseudo + sum(&frame[udp_at..]),
    })
}

/// The sum of 16-bit words in the byte order of the machine, on which ones' complement sums do not
/// depend.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|word| match *word {
            [a, b] => u32::from(u16::from_ne_bytes([a, b])),
            [a] => u32::from(u16::from_ne_bytes([a, 0])),
            _ => 0,
        })
        .sum()
}
