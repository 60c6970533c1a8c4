//! Decodes and verifies frames from the wire: addresses, lengths and checksums.
//!
//! The sums are taken here byte by byte from the definition (RFC 768, RFC 791), and the fields have
//! their places here once more, because what is shared with the code under test would repeat its
//! mistakes.

use std::net::{IpAddr, Ipv4Addr};

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

    pub mod ipv6 {
        pub const NEXT_HEADER: usize = 6;
        pub const END: usize = 40;
    }

    /// Hop-by-hop options.
    pub mod options {
        pub const NEXT_HEADER: usize = 0;
        /// Words of 8 bytes behind the first one.
        pub const WORDS: usize = 1;
    }

    /// IGMP version 2 (RFC 2236), and reports of version 3 (RFC 9776), which those of MLD version 2
    /// are like (RFC 9777).
    pub mod report {
        pub const TYPE: usize = 0;
        pub const GROUP: usize = 4;
        pub const RECORDS: usize = 6;
        pub const FIRST_RECORD: usize = 8;
    }

    /// A record of such a report. Its sources follow the group. The length of what follows them is
    /// in words of 4 bytes.
    pub mod record {
        pub const TYPE: usize = 0;
        pub const AUXILIARY_WORDS: usize = 1;
        pub const SOURCES: usize = 2;
        pub const GROUP: usize = 4;
    }
}

use field::{ethernet, ipv4, ipv6, options, record, report, udp};

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_HOP_BY_HOP: u8 = 0;
const PROTOCOL_IGMP: u8 = 2;
const PROTOCOL_ICMPV6: u8 = 58;
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

/// What a host says about a group in IGMP or MLD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Membership {
    /// The host wants the group, from any source.
    Join(IpAddr),
    /// The host no longer wants the group.
    Leave(IpAddr),
    /// The host wants what the second address sends to the group.
    JoinSource(IpAddr, IpAddr),
    /// The host no longer wants what the second address sends to the group.
    LeaveSource(IpAddr, IpAddr),
}

/// What an untagged frame says of memberships: IGMP of version 2 (RFC 2236) and of version 3 (RFC
/// 9776), and MLD of version 2 (RFC 9777). Frames of other protocols give none.
pub fn memberships(frame: &[u8]) -> Vec<Membership> {
    let igmp = || igmp_memberships(ipv4_packet(frame)?);
    let mld = || mld_memberships(ipv6_packet(frame)?);
    igmp().or_else(mld).unwrap_or_default()
}

/// What follows the Ethernet header of an untagged IPv6 frame.
fn ipv6_packet(frame: &[u8]) -> Option<&[u8]> {
    match word(frame, ethernet::TYPE)? {
        TYPE_IPV6 => frame.get(ethernet::END..),
        _ => None,
    }
}

fn igmp_memberships(ip: &[u8]) -> Option<Vec<Membership>> {
    if version(ip)? != 4 || *ip.get(ipv4::PROTOCOL)? != PROTOCOL_IGMP {
        return None;
    }
    let message = ip.get(header_len(ip)?..usize::from(word(ip, ipv4::TOTAL_LEN)?))?;
    let address = |at: usize| Some(Ipv4Addr::from(*message.get(at..)?.first_chunk::<4>()?).into());
    match message.get(report::TYPE)? {
        0x16 => Some(vec![Membership::Join(address(report::GROUP)?)]),
        0x17 => Some(vec![Membership::Leave(address(report::GROUP)?)]),
        0x22 => records::<4>(message),
        _ => None,
    }
}

fn mld_memberships(ip: &[u8]) -> Option<Vec<Membership>> {
    // MLD always has the option for routers.
    if *ip.get(ipv6::NEXT_HEADER)? != PROTOCOL_HOP_BY_HOP {
        return None;
    }
    let header = ip.get(ipv6::END..)?;
    if *header.get(options::NEXT_HEADER)? != PROTOCOL_ICMPV6 {
        return None;
    }
    let message = header.get(8 * (1 + usize::from(*header.get(options::WORDS)?))..)?;
    match message.get(report::TYPE)? {
        143 => records::<16>(message),
        _ => None,
    }
}

/// The records of a report about groups whose addresses have `LEN` bytes.
fn records<const LEN: usize>(message: &[u8]) -> Option<Vec<Membership>>
where
    IpAddr: From<[u8; LEN]>,
{
    let mut found = Vec::new();
    let mut rest = message.get(report::FIRST_RECORD..)?;
    for _ in 0..word(message, report::RECORDS)? {
        let addresses = rest.get(record::GROUP..)?.as_chunks::<LEN>().0;
        let count = usize::from(word(rest, record::SOURCES)?);
        let (group, sources) = addresses.get(..1 + count)?.split_first()?;
        let group = IpAddr::from(*group);
        let sources = sources.iter().map(|&source| IpAddr::from(source));
        match (rest.get(record::TYPE)?, count) {
            // MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE_MODE: everything but no source.
            (2 | 4, 0) => found.push(Membership::Join(group)),
            // CHANGE_TO_INCLUDE_MODE: only from no source.
            (3, 0) => found.push(Membership::Leave(group)),
            // MODE_IS_INCLUDE, CHANGE_TO_INCLUDE_MODE, ALLOW_NEW_SOURCES.
            (1 | 3 | 5, _) => {
                found.extend(sources.map(|source| Membership::JoinSource(group, source)));
            }
            // BLOCK_OLD_SOURCES.
            (6, _) => found.extend(sources.map(|source| Membership::LeaveSource(group, source))),
            _ => {}
        }
        let words = usize::from(*rest.get(record::AUXILIARY_WORDS)?);
        rest = rest.get(record::GROUP + LEN * (1 + count) + 4 * words..)?;
    }
    Some(found)
}
