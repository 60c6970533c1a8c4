//! Decodes and verifies frames from the wire: addresses, lengths and checksums.
//!
//! The sums are taken here byte by byte from the definition (RFC 768, RFC 791), and the fields have
//! their places here once more, because what is shared with the code under test would repeat its
//! mistakes.

use std::net::Ipv4Addr;

/// Where the fields lie, in bytes from the start of their header.
mod field {
    pub mod ethernet {
        pub const DESTINATION: usize = 0;
        pub const SOURCE: usize = 6;
        pub const TYPE: usize = 12;
        pub const END: usize = 14;
    }

    pub mod ipv4 {
        use std::ops::Range;

        pub const VERSION_AND_LEN: usize = 0;
        pub const TOS: usize = 1;
        pub const TOTAL_LEN: usize = 2;
        pub const ID: usize = 4;
        pub const FRAGMENT: usize = 6;
        pub const TTL: usize = 8;
        pub const PROTOCOL: usize = 9;
        pub const SOURCE: usize = 12;
        pub const DESTINATION: usize = 16;
        pub const ADDRESSES: Range<usize> = 12..20;
        pub const END: usize = 20;
    }

    pub mod udp {
        pub const SOURCE_PORT: usize = 0;
        pub const DESTINATION_PORT: usize = 2;
        pub const LEN: usize = 4;
        pub const CHECKSUM: usize = 6;
        pub const END: usize = 8;
    }

    /// Version 2 (RFC 2236), and reports of version 3 (RFC 9776).
    pub mod igmp {
        pub const TYPE: usize = 0;
        pub const GROUP: usize = 4;
        pub const RECORDS: usize = 6;
        pub const FIRST_RECORD: usize = 8;
    }

    /// A group record of version 3. The lengths are in words of 4 bytes.
    pub mod record {
        pub const TYPE: usize = 0;
        pub const AUXILIARY_WORDS: usize = 1;
        pub const SOURCES: usize = 2;
        pub const GROUP: usize = 4;
        pub const END: usize = 8;
    }
}

use field::{ethernet, igmp, ipv4, record, udp};

const TYPE_IPV4: u16 = 0x0800;
const PROTOCOL_IGMP: u8 = 2;
const PROTOCOL_UDP: u8 = 17;

/// A UDP checksum, compared with what the datagram needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpChecksum {
    /// It fits.
    Valid,
    /// 0: the sender computed none.
    Zero,
    /// The kernel says it is still to be completed; only seen before a device has sent the frame.
    Partial,
    /// It does not fit.
    Wrong,
}

/// A UDP datagram over IPv4 in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// The IP header checksum fits.
    pub ip_checksum_valid: bool,
    /// Time to live.
    pub ttl: u8,
    /// IP identification.
    pub identification: u16,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Flags and fragment offset as they stand.
    pub fragment_field: u16,
    /// IP source.
    pub source: Ipv4Addr,
    /// IP destination.
    pub destination: Ipv4Addr,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub port: u16,
    /// The UDP checksum.
    pub checksum: UdpChecksum,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The one's complement sum of `bytes` and `start`, folded (RFC 1071).
pub fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What follows the Ethernet header of an untagged IPv4 frame.
fn ipv4_packet(frame: &[u8]) -> Option<&[u8]> {
    match word(frame, ethernet::TYPE)? {
        TYPE_IPV4 => frame.get(ethernet::END..),
        _ => None,
    }
}

fn version(ip: &[u8]) -> Option<u8> {
    Some(ip.get(ipv4::VERSION_AND_LEN)? >> 4)
}

/// In bytes.
fn header_len(ip: &[u8]) -> Option<usize> {
    Some(usize::from(ip.get(ipv4::VERSION_AND_LEN)? & 0x0f) * 4)
}

/// Whether an untagged frame says of itself that it holds UDP over IPv4, sound or not.
pub fn is_udp(frame: &[u8]) -> bool {
    ipv4_packet(frame).and_then(|ip| ip.get(ipv4::PROTOCOL)) == Some(&PROTOCOL_UDP)
}

/// Reads an untagged frame that holds an unfragmented UDP datagram; `None` if it holds anything
/// else or its lengths do not fit. `partial` is what the packet socket said about the checksum.
pub fn datagram(frame: &[u8], partial: bool) -> Option<Datagram> {
    let ip = ipv4_packet(frame)?;
    let header_len = header_len(ip)?;
    let total = usize::from(word(ip, ipv4::TOTAL_LEN)?);
    if version(ip)? != 4 || header_len < ipv4::END || *ip.get(ipv4::PROTOCOL)? != PROTOCOL_UDP {
        return None;
    }
    let fragment_field = word(ip, ipv4::FRAGMENT)?;
    if fragment_field & 0x3fff != 0 {
        return None;
    }
    let header = ip.get(..header_len)?;
    let udp = ip.get(header_len..total)?;
    let udp_length = word(udp, udp::LEN)?;
    if usize::from(udp_length) != udp.len() {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
    let start = u32::from(PROTOCOL_UDP) + u32::from(udp_length);
    let pseudo = u32::from(sum(ip.get(ipv4::ADDRESSES)?, start));
    let checksum = match (word(udp, udp::CHECKSUM)?, partial) {
        (_, true) => UdpChecksum::Partial,
        (0, false) => UdpChecksum::Zero,
        _ if sum(udp, pseudo) == 0xffff => UdpChecksum::Valid,
        _ => UdpChecksum::Wrong,
    };
    Some(Datagram {
        destination_mac: *frame.get(ethernet::DESTINATION..)?.first_chunk()?,
        source_mac: *frame.get(ethernet::SOURCE..)?.first_chunk()?,
        ip_checksum_valid: sum(header, 0) == 0xffff,
        ttl: *ip.get(ipv4::TTL)?,
        identification: word(ip, ipv4::ID)?,
        tos: *ip.get(ipv4::TOS)?,
        fragment_field,
        source: address(ipv4::SOURCE)?,
        destination: address(ipv4::DESTINATION)?,
        source_port: word(udp, udp::SOURCE_PORT)?,
        port: word(udp, udp::DESTINATION_PORT)?,
        checksum,
        payload: udp.get(udp::END..)?.to_vec(),
    })
}

/// What an IGMP message of a host says about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Membership {
    /// The host wants the group.
    Join(Ipv4Addr),
    /// The host no longer wants the group.
    Leave(Ipv4Addr),
}

/// The IGMP messages in a frame: version 2 (RFC 2236) and version 3 without sources (RFC 9776).
/// Frames of other protocols give none.
pub fn memberships(frame: &[u8]) -> Vec<Membership> {
    parse_memberships(frame).unwrap_or_default()
}

fn parse_memberships(frame: &[u8]) -> Option<Vec<Membership>> {
    let ip = ipv4_packet(frame)?;
    if version(ip)? != 4 || *ip.get(ipv4::PROTOCOL)? != PROTOCOL_IGMP {
        return None;
    }
    let message = ip.get(header_len(ip)?..usize::from(word(ip, ipv4::TOTAL_LEN)?))?;
    let group = |bytes: &[u8], at: usize| -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
    };
    match message.get(igmp::TYPE)? {
        0x16 => Some(vec![Membership::Join(group(message, igmp::GROUP)?)]),
        0x17 => Some(vec![Membership::Leave(group(message, igmp::GROUP)?)]),
        0x22 => {
            let mut found = Vec::new();
            let mut rest = message.get(igmp::FIRST_RECORD..)?;
            for _ in 0..word(message, igmp::RECORDS)? {
                let sources = word(rest, record::SOURCES)?;
                match (rest.get(record::TYPE)?, sources) {
                    // MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE_MODE: everything but no source.
                    (2 | 4, 0) => found.push(Membership::Join(group(rest, record::GROUP)?)),
                    // CHANGE_TO_INCLUDE_MODE: only from no source.
                    (3, 0) => found.push(Membership::Leave(group(rest, record::GROUP)?)),
                    _ => {}
                }
                let words = usize::from(sources) + usize::from(*rest.get(record::AUXILIARY_WORDS)?);
                rest = rest.get(record::END + 4 * words..).unwrap_or_default();
            }
            Some(found)
        }
        _ => None,
    }
}
