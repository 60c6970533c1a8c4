//! The usual feed over IPv6: its frames, and what the copies of a rule for it must be on the wire,
//! in every byte.

use std::net::Ipv6Addr;

use anyhow::Result;
use etherparse::{Ethernet2Header, Ipv6Header, PacketBuilder, UdpHeader};

use crate::frames::group_mac;
use crate::inspect::sum;
use crate::payload::payload;
use crate::raw::{Frame, RawReceiver};
use crate::rules::Rule;
use crate::scenario::ARRIVAL;
use crate::topology::Testbed;
use crate::veth::Endpoint;

/// The group of the feed.
pub const GROUP: &str = "ff3e::8000:1";
/// Its port.
pub const PORT: u16 = 5001;
/// Its source.
pub const SENDER: &str = "2001:db8:1::2";
/// The hop limit that its frames arrive with.
pub const HOP_LIMIT: u8 = 8;
/// Version 6, traffic class 0xb8, flow label 0xabcde.
pub const FIRST: [u8; 4] = [0x6b, 0x8a, 0xbc, 0xde];

/// Bytes in front of the IPv6 header, the UDP header and the payload.
pub const ETHERNET: usize = Ethernet2Header::LEN;
/// The UDP header begins here.
pub const UDP: usize = ETHERNET + Ipv6Header::LEN;
/// The payload begins here.
pub const HEADERS: usize = UDP + UdpHeader::LEN;

/// A copy as it must arrive.
#[derive(Debug, Clone, Copy)]
pub struct Copy {
    /// The output interface that it leaves through: `out0` for 0.
    pub at: usize,
    /// The destination group.
    pub group: &'static str,
    /// The destination port.
    pub port: u16,
    /// The source address.
    pub source: &'static str,
    /// The hop limit.
    pub hop_limit: u8,
    /// The key `ttl` of the output, as it is in the file.
    pub ttl: Option<&'static str>,
}

/// The addresses of `out0`.
pub const GLOBAL: &str = "2001:db8:2::1";
/// The other one.
pub const LINK_LOCAL: &str = "fe80::2:1";
/// The global address of `out1`.
pub const OTHER: &str = "2001:db8:3::1";

/// Copies of the feed by two outputs, from each of their addresses and with each kind of `ttl`.
#[rustfmt::skip]
pub const COPIES: [Copy; 4] = [
    Copy { at: 0, group: "ff3e::8000:2", port: 6000, source: GLOBAL, hop_limit: 64, ttl: None },
    Copy { at: 0, group: "ff12::8000:3", port: 6001, source: LINK_LOCAL, hop_limit: 9, ttl: Some("9") },
    Copy { at: 0, group: "ff3e::8000:4", port: 6002, source: GLOBAL, hop_limit: 7, ttl: Some("\"decrement\"") },
    Copy { at: 1, group: "ff3e::8000:2", port: 6000, source: OTHER, hop_limit: 64, ttl: None },
];

/// Gives the relay's ends of a testbed with two outputs the addresses that [`COPIES`] have.
pub fn give_addresses(bed: &Testbed) -> Result<()> {
    bed.inputs[0].switch_on_ipv6(&["2001:db8:1::1", "fe80::1:1"])?;
    bed.outputs[0].switch_on_ipv6(&[GLOBAL, LINK_LOCAL])?;
    bed.outputs[1].switch_on_ipv6(&["fe80::3:1", OTHER])
}

/// A rule for the feed with an output for each copy.
pub fn rule(copies: &[Copy]) -> Rule {
    let mut rule = Rule::feed().takes(&format!("group = \"{GROUP}\", port = {PORT}"));
    for copy in copies {
        let goes = format!("group = \"{}\", port = {}", copy.group, copy.port);
        rule = rule.output_that_goes(&format!("out{}", copy.at), &goes);
        if let Some(ttl) = copy.ttl {
            rule = rule.ttl(ttl);
        }
    }
    rule
}

/// An address that a test has written down.
#[expect(clippy::unwrap_used, reason = "the addresses of tests are right")]
pub fn parsed(address: &str) -> Ipv6Addr {
    address.parse().unwrap()
}

/// A frame of the feed.
pub fn frame(from: &Endpoint, source: &str, source_port: u16, payload: &[u8]) -> Result<Vec<u8>> {
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
pub fn payloads(frame: &Frame, size: usize) -> Vec<&[u8]> {
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

impl Copy {
    /// Whether a frame is one of these.
    pub fn is_in(&self, frame: &Frame) -> bool {
        let port = frame.bytes.get(UDP + 2..UDP + 4);
        port == Some(&self.port.to_be_bytes()) && !payloads(frame, 0).is_empty()
    }

    /// How many datagrams of `size` bytes `frames` have of these.
    pub fn count_in(&self, frames: &[Frame], size: usize) -> u64 {
        let frames = frames.iter().filter(|frame| self.is_in(frame));
        frames.map(|frame| payloads(frame, size).len() as u64).sum()
    }

    /// Fails unless `frame`, which left through `near`, has the headers of this copy, in every
    /// byte, and the checksum that fits its payload, or that of the pseudo-header where the kernel
    /// says that the rest is to be added.
    #[track_caller]
    pub fn assert_headers(&self, frame: &Frame, near: &Endpoint, source_port: u16) {
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
        expected.extend(group_mac(parsed(self.group)));
        expected.extend(near.mac);
        expected.extend([0x86, 0xdd]);
        expected.extend(FIRST);
        expected.extend((udp_len as u16).to_be_bytes());
        expected.extend([17, self.hop_limit]);
        expected.extend(parsed(self.source).octets());
        expected.extend(parsed(self.group).octets());
        expected.extend(source_port.to_be_bytes());
        expected.extend(self.port.to_be_bytes());
        expected.extend((udp_len as u16).to_be_bytes());
        expected.extend(checksum.to_be_bytes());
        assert_eq!(bytes[..HEADERS], expected, "{} on {}", self.group, self.at);
    }

    /// Waits until `count` datagrams of `size` bytes have arrived at `receiver`, and fails unless
    /// each is the next one of flow 0 with the headers of this copy. `source_port` is that of a
    /// datagram by its number.
    #[track_caller]
    pub fn assert_all(
        &self,
        receiver: &RawReceiver,
        near: &Endpoint,
        (size, count): (usize, u64),
        source_port: impl Fn(u64) -> u16,
    ) {
        let all = receiver.wait_until(ARRIVAL, |frames| self.count_in(frames, size) >= count);
        let frames = receiver.frames();
        let arrived = self.count_in(&frames, size);
        assert!(all, "{arrived} of {count} of {} arrived", self.group);
        let mut number = 0;
        for frame in frames.iter().filter(|frame| self.is_in(frame)) {
            self.assert_headers(frame, near, source_port(number));
            for bytes in payloads(frame, size) {
                assert!(bytes == payload(0, number, size), "datagram {number}");
                number += 1;
            }
        }
        assert_eq!(number, count, "{}", self.group);
    }
}
