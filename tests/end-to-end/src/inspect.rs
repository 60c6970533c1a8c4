//! Decodes and verifies frames from the wire: addresses, lengths and checksums.
//!
//! The sums are computed here byte by byte from the definition (RFC 768, RFC 791), because a helper
//! shared with the code under test would repeat its mistakes.

use std::net::Ipv4Addr;

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

/// The one's complement sum, folded (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether an untagged frame says of itself that it holds UDP over IPv4.
pub fn is_udp(frame: &[u8]) -> bool {
    word(frame, 12) == Some(0x0800) && frame.get(23) == Some(&17)
}

/// Reads an untagged frame that holds an unfragmented UDP datagram; `None` if it holds anything
/// else or its lengths do not fit. `partial` is what the packet socket said about the checksum.
pub fn datagram(frame: &[u8], partial: bool) -> Option<Datagram> {
    if word(frame, 12)? != 0x0800 {
        return None;
    }
    let ip = frame.get(14..)?;
    let header_len = usize::from(ip.first()? & 0x0f) * 4;
    let total = usize::from(word(ip, 2)?);
    if ip.first()? >> 4 != 4 || header_len < 20 || *ip.get(9)? != 17 {
        return None;
    }
    let fragment_field = word(ip, 6)?;
    if fragment_field & 0x3fff != 0 {
        return None;
    }
    let header = ip.get(..header_len)?;
    let udp = ip.get(header_len..total)?;
    let udp_length = word(udp, 4)?;
    if usize::from(udp_length) != udp.len() {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?));
    let pseudo = u32::from(sum(ip.get(12..20)?, 17 + u32::from(udp_length)));
    let checksum = match (word(udp, 6)?, partial) {
        (_, true) => UdpChecksum::Partial,
        (0, false) => UdpChecksum::Zero,
        _ if sum(udp, pseudo) == 0xffff => UdpChecksum::Valid,
        _ => UdpChecksum::Wrong,
    };
    Some(Datagram {
        destination_mac: *frame.first_chunk()?,
        source_mac: *frame.get(6..)?.first_chunk()?,
        ip_checksum_valid: sum(header, 0) == 0xffff,
        ttl: *ip.get(8)?,
        identification: word(ip, 4)?,
        tos: *ip.get(1)?,
        fragment_field,
        source: address(12)?,
        destination: address(16)?,
        source_port: word(udp, 0)?,
        port: word(udp, 2)?,
        checksum,
        payload: udp.get(8..)?.to_vec(),
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
    let ip = frame.get(14..)?;
    if word(frame, 12)? != 0x0800 || ip.first()? >> 4 != 4 || *ip.get(9)? != 2 {
        return None;
    }
    let message = ip.get(usize::from(ip.first()? & 0x0f) * 4..usize::from(word(ip, 2)?))?;
    let group = |at: usize| Some(Ipv4Addr::from(*message.get(at..)?.first_chunk::<4>()?));
    match message.first()? {
        0x16 => Some(vec![Membership::Join(group(4)?)]),
        0x17 => Some(vec![Membership::Leave(group(4)?)]),
        0x22 => {
            let mut found = Vec::new();
            let mut at = 8;
            for _ in 0..word(message, 6)? {
                let sources = word(message, at + 2)?;
                match (message.get(at)?, sources) {
                    // MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE_MODE: everything but no source.
                    (2 | 4, 0) => found.push(Membership::Join(group(at + 4)?)),
                    // CHANGE_TO_INCLUDE_MODE: only from no source.
                    (3, 0) => found.push(Membership::Leave(group(at + 4)?)),
                    _ => {}
                }
                at += 8 + 4 * usize::from(sources) + 4 * usize::from(*message.get(at + 1)?);
            }
            Some(found)
        }
        _ => None,
    }
}
