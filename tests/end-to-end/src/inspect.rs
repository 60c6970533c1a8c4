//! Decodes and verifies frames from the wire: addresses, lengths and checksums.
//!
//! The sums are taken here byte by byte from the definition (RFC 768, RFC 791, RFC 8200), and the
//! fields have their places here once more, because what is shared with the code under test would
//! repeat its mistakes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    pub mod ipv6 {
        use std::ops::Range;

        pub const VERSION_CLASS_AND_LABEL: usize = 0;
        pub const PAYLOAD_LEN: usize = 4;
        pub const NEXT_HEADER: usize = 6;
        pub const HOP_LIMIT: usize = 7;
        pub const SOURCE: usize = 8;
        pub const DESTINATION: usize = 24;
        pub const ADDRESSES: Range<usize> = 8..40;
        pub const END: usize = 40;
    }

    pub mod udp {
        pub const SOURCE_PORT: usize = 0;
        pub const DESTINATION_PORT: usize = 2;
        pub const LEN: usize = 4;
        pub const CHECKSUM: usize = 6;
        pub const END: usize = 8;
    }

    /// IGMP version 2 (RFC 2236), and reports of IGMP version 3 (RFC 9776) and of MLD version 2
    /// (RFC 9777), whose fields have the same places.
    pub mod membership {
        pub const TYPE: usize = 0;
        pub const GROUP: usize = 4;
        pub const RECORDS: usize = 6;
        pub const FIRST_RECORD: usize = 8;
    }

    /// A record of such a report. The group follows, then the sources. Auxiliary data has a length
    /// in words of 4 bytes.
    pub mod record {
        pub const TYPE: usize = 0;
        pub const AUXILIARY_WORDS: usize = 1;
        pub const SOURCES: usize = 2;
        pub const GROUP: usize = 4;
    }
}

use field::{ethernet, ipv4, ipv6, membership, record, udp};

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_HOP_BY_HOP: u8 = 0;
const PROTOCOL_IGMP: u8 = 2;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;

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
    /// It is there, and was not compared with the payload, see [`headers`].
    Complete,
}

/// A UDP datagram in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// The IP header checksum fits; IPv6 has none.
    pub ip_checksum_valid: bool,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// IP identification; 0 over IPv6.
    pub identification: u16,
    /// Type of service, or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Flow label; 0 over IPv4.
    pub flow_label: u32,
    /// Flags and fragment offset as they stand; 0 over IPv6.
    pub fragment_field: u16,
    /// IP source.
    pub source: IpAddr,
    /// IP destination.
    pub destination: IpAddr,
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

/// What follows the Ethernet header of an untagged IPv6 frame.
fn ipv6_packet(frame: &[u8]) -> Option<&[u8]> {
    match word(frame, ethernet::TYPE)? {
        TYPE_IPV6 => frame.get(ethernet::END..),
        _ => None,
    }
}

/// Whether an untagged frame says of itself that it holds UDP, sound or not.
pub fn is_udp(frame: &[u8]) -> bool {
    let protocol = ipv4_packet(frame).and_then(|ip| ip.get(ipv4::PROTOCOL));
    let next_header = || ipv6_packet(frame).and_then(|ip| ip.get(ipv6::NEXT_HEADER));
    protocol.or_else(next_header) == Some(&PROTOCOL_UDP)
}

fn ipv4_address(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?).into())
}

fn ipv6_address(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?).into())
}

/// What an IP header says, and its UDP datagram.
struct Packet<'a> {
    header_valid: bool,
    ttl: u8,
    identification: u16,
    tos: u8,
    flow_label: u32,
    fragment_field: u16,
    source: IpAddr,
    destination: IpAddr,
    addresses: &'a [u8],
    udp: &'a [u8],
}

/// Reads an untagged frame that holds an unfragmented UDP datagram, over IPv6 without extension
/// headers; `None` if it holds anything else or its lengths do not fit. `partial` is what the
/// packet socket said about the checksum: then it is still to be completed, and must be the sum of
/// the pseudo-header.
pub fn datagram(frame: &[u8], partial: bool) -> Option<Datagram> {
    let ip = packet_v4(frame).or_else(|| packet_v6(frame))?;
    let mut datagram = read(frame, &ip, partial)?;
    if datagram.checksum == UdpChecksum::Complete {
        datagram.checksum = match sum(ip.udp, ip.pseudo().into()) {
            0xffff => UdpChecksum::Valid,
            _ => UdpChecksum::Wrong,
        };
    }
    datagram.payload = ip.udp.get(udp::END..)?.to_vec();
    Some(datagram)
}

/// The same without the payload, which is not read.
pub fn headers(frame: &[u8], partial: bool) -> Option<Datagram> {
    let ip = packet_v4(frame).or_else(|| packet_v6(frame))?;
    read(frame, &ip, partial)
}

fn read(frame: &[u8], ip: &Packet<'_>, partial: bool) -> Option<Datagram> {
    let udp = ip.udp;
    if usize::from(word(udp, udp::LEN)?) != udp.len() {
        return None;
    }
    let checksum = match (word(udp, udp::CHECKSUM)?, partial) {
        (found, true) if found == ip.pseudo() => UdpChecksum::Partial,
        (_, true) => UdpChecksum::Wrong,
        (0, false) => UdpChecksum::Zero,
        (_, false) => UdpChecksum::Complete,
    };
    Some(Datagram {
        destination_mac: *frame.get(ethernet::DESTINATION..)?.first_chunk()?,
        source_mac: *frame.get(ethernet::SOURCE..)?.first_chunk()?,
        ip_checksum_valid: ip.header_valid,
        ttl: ip.ttl,
        identification: ip.identification,
        tos: ip.tos,
        flow_label: ip.flow_label,
        fragment_field: ip.fragment_field,
        source: ip.source,
        destination: ip.destination,
        source_port: word(udp, udp::SOURCE_PORT)?,
        port: word(udp, udp::DESTINATION_PORT)?,
        checksum,
        payload: Vec::new(),
    })
}

impl Packet<'_> {
    /// The sum of the pseudo-header.
    fn pseudo(&self) -> u16 {
        sum(
            self.addresses,
            u32::from(PROTOCOL_UDP) + self.udp.len() as u32,
        )
    }
}

/// The datagrams in an untagged frame: several in a GSO packet, with `segment` bytes of payload in
/// each but perhaps the last. They have the headers that whatever cuts the packet would give them,
/// as far as [`Datagram`] has them.
pub fn datagrams(frame: &[u8], partial: bool, segment: Option<usize>) -> Vec<Datagram> {
    let Some(all) = datagram(frame, partial) else {
        return Vec::new();
    };
    let Some(segment) = segment else {
        return vec![all];
    };
    let parts = all.payload.chunks(segment).zip(0..);
    let parts = parts.map(|(payload, number)| Datagram {
        payload: payload.to_vec(),
        identification: match all.destination {
            IpAddr::V4(_) => all.identification.wrapping_add(number),
            IpAddr::V6(_) => 0,
        },
        ..all.clone()
    });
    parts.collect()
}

fn packet_v4(frame: &[u8]) -> Option<Packet<'_>> {
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
    Some(Packet {
        header_valid: sum(ip.get(..header_len)?, 0) == 0xffff,
        ttl: *ip.get(ipv4::TTL)?,
        identification: word(ip, ipv4::ID)?,
        tos: *ip.get(ipv4::TOS)?,
        flow_label: 0,
        fragment_field,
        source: ipv4_address(ip, ipv4::SOURCE)?,
        destination: ipv4_address(ip, ipv4::DESTINATION)?,
        addresses: ip.get(ipv4::ADDRESSES)?,
        udp: ip.get(header_len..total)?,
    })
}

fn packet_v6(frame: &[u8]) -> Option<Packet<'_>> {
    let ip = ipv6_packet(frame)?;
    let first = u32::from_be_bytes(*ip.get(ipv6::VERSION_CLASS_AND_LABEL..)?.first_chunk()?);
    if first >> 28 != 6 || *ip.get(ipv6::NEXT_HEADER)? != PROTOCOL_UDP {
        return None;
    }
    let end = ipv6::END + usize::from(word(ip, ipv6::PAYLOAD_LEN)?);
    Some(Packet {
        header_valid: true,
        ttl: *ip.get(ipv6::HOP_LIMIT)?,
        identification: 0,
        tos: (first >> 20) as u8,
        flow_label: first & 0xf_ffff,
        fragment_field: 0,
        source: ipv6_address(ip, ipv6::SOURCE)?,
        destination: ipv6_address(ip, ipv6::DESTINATION)?,
        addresses: ip.get(ipv6::ADDRESSES)?,
        udp: ip.get(ipv6::END..end)?,
    })
}

/// What a message of a host says about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Membership {
    /// The host wants the group, of any source.
    Join(IpAddr),
    /// The host no longer wants the group.
    Leave(IpAddr),
    /// The host wants the group of this source.
    JoinSource(IpAddr, IpAddr),
    /// The host no longer wants the group of this source.
    LeaveSource(IpAddr, IpAddr),
}

/// What the membership messages in a frame say: IGMP version 2 (RFC 2236) and version 3 (RFC 9776),
/// MLD version 1 (RFC 2710) and version 2 (RFC 9777). Frames of other protocols give none.
pub fn memberships(frame: &[u8]) -> Vec<Membership> {
    let found = igmp_memberships(frame).or_else(|| mld_memberships(frame));
    found.unwrap_or_default()
}

fn igmp_memberships(frame: &[u8]) -> Option<Vec<Membership>> {
    let ip = ipv4_packet(frame)?;
    if version(ip)? != 4 || *ip.get(ipv4::PROTOCOL)? != PROTOCOL_IGMP {
        return None;
    }
    let message = ip.get(header_len(ip)?..usize::from(word(ip, ipv4::TOTAL_LEN)?))?;
    match message.get(membership::TYPE)? {
        0x16 => Some(vec![Membership::Join(ipv4_address(
            message,
            membership::GROUP,
        )?)]),
        0x17 => Some(vec![Membership::Leave(ipv4_address(
            message,
            membership::GROUP,
        )?)]),
        0x22 => records(message, 4, ipv4_address),
        _ => None,
    }
}

fn mld_memberships(frame: &[u8]) -> Option<Vec<Membership>> {
    let ip = ipv6_packet(frame)?;
    // Every message has the router alert option in front, a header of 8 bytes.
    let option = ip.get(ipv6::END..ipv6::END + 8)?;
    if *ip.get(ipv6::NEXT_HEADER)? != PROTOCOL_HOP_BY_HOP
        || *option.first()? != PROTOCOL_ICMPV6
        || option.get(1) != Some(&0)
    {
        return None;
    }
    let message = ip.get(ipv6::END + 8..ipv6::END + usize::from(word(ip, ipv6::PAYLOAD_LEN)?))?;
    let group = || ipv6_address(message, 8);
    match message.get(membership::TYPE)? {
        131 => Some(vec![Membership::Join(group()?)]),
        132 => Some(vec![Membership::Leave(group()?)]),
        143 => records(message, 16, ipv6_address),
        _ => None,
    }
}

/// What the records of a report say whose addresses have `len` bytes.
fn records(
    message: &[u8],
    len: usize,
    address: fn(&[u8], usize) -> Option<IpAddr>,
) -> Option<Vec<Membership>> {
    let mut found = Vec::new();
    let mut rest = message.get(membership::FIRST_RECORD..)?;
    for _ in 0..word(message, membership::RECORDS)? {
        let group = address(rest, record::GROUP)?;
        let first = record::GROUP + len;
        let count = usize::from(word(rest, record::SOURCES)?);
        let sources = (0..count).map(|number| address(rest, first + number * len));
        let sources: Vec<IpAddr> = sources.collect::<Option<_>>()?;
        match (rest.get(record::TYPE)?, sources.as_slice()) {
            // MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE_MODE: everything but no source.
            (2 | 4, []) => found.push(Membership::Join(group)),
            // CHANGE_TO_INCLUDE_MODE: only from no source.
            (3, []) => found.push(Membership::Leave(group)),
            // MODE_IS_INCLUDE, CHANGE_TO_INCLUDE_MODE, ALLOW_NEW_SOURCES.
            (1 | 3 | 5, sources) => {
                found.extend(
                    sources
                        .iter()
                        .map(|one| Membership::JoinSource(group, *one)),
                );
            }
            // BLOCK_OLD_SOURCES.
            (6, sources) => {
                found.extend(
                    sources
                        .iter()
                        .map(|one| Membership::LeaveSource(group, *one)),
                );
            }
            _ => {}
        }
        let auxiliary = 4 * usize::from(*rest.get(record::AUXILIARY_WORDS)?);
        rest = rest
            .get(first + count * len + auxiliary..)
            .unwrap_or_default();
    }
    Some(found)
}
