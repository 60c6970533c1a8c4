//! The frames of a flow: the part that all of them share, so that the generator has little to do
//! for each.
//!
//! The headers come from [`relay_tests::frames`], which shares nothing with the generator's own
//! arithmetic.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use relay_common::wire::{ETHERNET_LEN, IPV4_LEN, ipv4, udp};
use relay_tests::{frames::UdpFrame, veth::Endpoint};

use crate::programs::abi::{HEADER_WORDS, HEADERS_LEN, MAGIC, STAMP_LEN, Template};

/// Where the headers start.
const IP: usize = ETHERNET_LEN;
const UDP: usize = ETHERNET_LEN + IPV4_LEN;

/// One flow's frames.
#[derive(Debug)]
pub struct Feed<'a> {
    from: &'a Endpoint,
    group: Ipv4Addr,
    port: u16,
    payload: usize,
}

impl<'a> Feed<'a> {
    /// Frames with `payload` bytes of payload to `group`:`port`.
    pub fn new(from: &'a Endpoint, (group, port): (Ipv4Addr, u16), payload: usize) -> Self {
        Self {
            from,
            group,
            port,
            payload,
        }
    }
}

/// The frame with number and time 0.
pub fn frame(feed: &Feed<'_>, flow: u32) -> Result<Vec<u8>> {
    let mut payload = Vec::with_capacity(feed.payload);
    payload.extend(MAGIC.to_ne_bytes());
    payload.extend(flow.to_ne_bytes());
    payload.resize(STAMP_LEN, 0);
    // The generator does not write the rest, which is the same in all flows.
    payload.extend((STAMP_LEN..feed.payload).map(|i| i as u8));
    let mut frame = UdpFrame::new(feed.from, feed.group, feed.port, payload);
    frame.identification = 0;
    frame.build()
}

/// What the generator needs to know of a flow.
pub fn template(feed: &Feed<'_>, flow: u32) -> Result<Template> {
    let mut frame = frame(feed, flow)?;
    frame[IP..][ipv4::field::CHECKSUM].fill(0);
    frame[UDP..][udp::field::CHECKSUM].fill(0);
    let udp_len = u16::try_from(frame.len() - UDP).context("UDP length")?;
    let protocol = u16::from(ipv4::PROTOCOL_UDP);
    let pseudo = sum(&frame[IP..][ipv4::field::ADDRESSES])
        + u32::from(protocol.to_be())
        + u32::from(udp_len.to_be());
    let mut headers = [0; HEADER_WORDS];
    for (word, bytes) in headers.iter_mut().zip(frame[..HEADERS_LEN].chunks_exact(2)) {
        *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
    }
    Ok(Template {
        headers,
        padding: 0,
        ip_sum: sum(&frame[IP..UDP]),
        udp_sum: pseudo + sum(&frame[UDP..]),
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
