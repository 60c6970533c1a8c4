//! Header templates: the headers of an output, and how they are completed for one datagram.
//!
//! Datagrams that differ only in payload and identification may also leave as one GSO packet: one
//! large packet that the kernel or the NIC cuts into datagrams, whose checksums it computes
//! ([`Template::write_joined`]). That would hide damage, so only payloads whose checksum is right
//! may be joined ([`Received::checksum_ok`]).

use relay_common::wire::{
    Addresses, ETHERNET_LEN, IPV4_HEADERS_LEN, IPV4_LEN, IPV6_HEADERS_LEN, UDP_LEN, VLAN_LEN,
    ethernet::{ethertype, field as ethernet},
    ipv4::field as ipv4,
    ipv6::field as ipv6,
    udp::field as udp,
};

use super::{
    checksum::{fold, nonzero, sum_words, word},
    offset::{Keeps, Offset},
    received::{PROTOCOL_UDP, Received},
    ttl::TtlRule,
};
use crate::config::rules::Ttl;

/// Room for the longest headers: IPv6 behind two tags, in whole words of 64 bits.
pub const HEADERS_ROOM: usize = (IPV6_HEADERS_LEN + 2 * VLAN_LEN).next_multiple_of(8);

/// Version 4, and a header of 5 words: without options.
const VERSION_AND_LEN: u8 = 0x45;
/// Where the IP header starts in a frame that leaves.
const IP: usize = ETHERNET_LEN;
/// Where the UDP header starts in a frame that leaves.
const UDP_V4: usize = IPV4_HEADERS_LEN - UDP_LEN;
const UDP_V6: usize = IPV6_HEADERS_LEN - UDP_LEN;

/// The headers of one output, complete except for the fields that change from frame to frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    headers: Headers,
    ttl_rule: TtlRule,
    keeps: Keeps,
    /// Sum of the words that the UDP checksum covers and that this output rewrites: both addresses
    /// and the destination port.
    udp_sum: u32,
    port: u16,
}

/// The bytes that are the same in every frame.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Headers {
    V4 {
        bytes: [u8; IPV4_HEADERS_LEN],
        /// Sum of the words of the IPv4 header that are the same in every frame.
        ip_sum: u32,
    },
    V6 {
        bytes: [u8; IPV6_HEADERS_LEN],
    },
}

/// The header fields that an output sets.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// IP source and destination.
    pub addresses: Addresses,
    /// UDP destination port.
    pub port: u16,
    /// Time to live, or hop limit.
    pub ttl: Ttl,
}

impl Template {
    /// The template for `target`.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let port = word(target.port);
        let (headers, addresses) = match target.addresses {
            Addresses::V4 { source, group } => {
                let mut bytes = [0; IPV4_HEADERS_LEN];
                let ip = outside(&mut bytes, target, ethertype::IPV4, UDP_V4);
                ip[ipv4::VERSION_AND_LEN] = VERSION_AND_LEN;
                ip[ipv4::PROTOCOL] = PROTOCOL_UDP as u8;
                ip[ipv4::SOURCE].copy_from_slice(&source.to_ne_bytes());
                ip[ipv4::DESTINATION].copy_from_slice(&group.to_ne_bytes());
                let addresses = sum_words(&ip[ipv4::ADDRESSES]);
                let ip_sum = addresses + word(u16::from(VERSION_AND_LEN) << 8) + word(PROTOCOL_UDP);
                (Headers::V4 { bytes, ip_sum }, addresses)
            }
            Addresses::V6 { source, group } => {
                let mut bytes = [0; IPV6_HEADERS_LEN];
                let ip = outside(&mut bytes, target, ethertype::IPV6, UDP_V6);
                ip[ipv6::NEXT_HEADER] = PROTOCOL_UDP as u8;
                let both = [source, group].concat();
                let both = both.into_iter().flat_map(u64::to_ne_bytes);
                for (to, from) in ip[ipv6::ADDRESSES].iter_mut().zip(both) {
                    *to = from;
                }
                let addresses = sum_words(&ip[ipv6::ADDRESSES]);
                (Headers::V6 { bytes }, addresses)
            }
        };
        Self {
            headers,
            ttl_rule: TtlRule::new(target.ttl),
            keeps: Keeps::default(),
            udp_sum: addresses + port,
            port: target.port,
        }
    }

    /// The same for copies that keep part of their place: its target is the first group and the
    /// first port of the output. [`Self::moved_to`] writes them.
    #[must_use]
    pub fn keeping(self, keeps: Keeps) -> Self {
        Self { keeps, ..self }
    }

    /// Whether the destination of its copies depends on that of the datagram.
    #[inline]
    #[must_use]
    pub const fn keeps_place(&self) -> bool {
        !self.keeps.nothing()
    }

    /// The template for the copies of datagrams that were sent to `offset`.
    ///
    /// Out of line, so that copies that keep nothing keep the registers.
    #[inline(never)]
    #[must_use]
    pub fn moved_to(&self, offset: Offset) -> Self {
        let Offset { host, port } = self.keeps.of(offset);
        let mut moved = self.clone();
        moved.keeps = Keeps::default();
        moved.port += port;
        // The first group has zeros where the others have the host part.
        let sum = sum_words(&host.to_be_bytes());
        moved.udp_sum = self.addresses() + sum + word(moved.port);
        match &mut moved.headers {
            Headers::V4 { bytes, ip_sum } => {
                *ip_sum += sum;
                join_v4(bytes, host);
                put(
                    bytes,
                    UDP_V4 + udp::DESTINATION_PORT.start,
                    moved.port.to_be_bytes(),
                );
            }
            Headers::V6 { bytes } => {
                join_v6(bytes, host);
                put(
                    bytes,
                    UDP_V6 + udp::DESTINATION_PORT.start,
                    moved.port.to_be_bytes(),
                );
            }
        }
        moved
    }

    /// The part of [`Self::udp_sum`] that is not the port.
    #[inline]
    fn addresses(&self) -> u32 {
        self.udp_sum - word(self.port)
    }

    /// Length of the headers that it writes, at most [`HEADERS_ROOM`].
    #[inline]
    #[must_use]
    pub const fn headers_len(&self) -> usize {
        match self.headers {
            Headers::V4 { .. } => IPV4_HEADERS_LEN,
            Headers::V6 { .. } => IPV6_HEADERS_LEN,
        }
    }

    /// The longest payload of a copy, in bytes, that an interface with this MTU takes.
    #[must_use]
    pub fn max_payload(&self, mtu: u32) -> u16 {
        let headers = (self.headers_len() - ETHERNET_LEN) as u32;
        u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
    }

    /// The time to live that a copy of `received` leaves with; `None` if it must not leave.
    #[inline]
    #[must_use]
    pub fn ttl(&self, received: &Received) -> Option<u8> {
        self.ttl_rule.after(received.ttl)
    }

    /// Writes the headers of this output's copy of `received`, which is of the same version of IP,
    /// to the first bytes of `to`, and returns how many these are: [`Self::headers_len`], or 0 where
    /// `to` is shorter. The payload must follow them, and `udp_sum` must be [`Received::udp_sum`] of
    /// that payload.
    #[inline]
    pub fn write(
        &self,
        to: &mut [u8],
        received: &Received,
        ttl: u8,
        udp_sum: Option<u32>,
    ) -> usize {
        let checksum = match udp_sum {
            Some(kept) => nonzero(!fold(kept + self.udp_sum)),
            None => 0,
        };
        self.write_with(to, received, ttl, received.udp_len(), checksum)
    }

    /// Writes the headers of a GSO packet of this output's copies of `received` and the datagrams
    /// that [follow](Received::is_followed_by) it, with `payload_len` bytes of payload in all.
    /// Otherwise as [`Self::write`].
    ///
    /// Its UDP checksum is the folded sum of the pseudo-header, not complemented; the kernel or the
    /// NIC completes it (Linux `CHECKSUM_PARTIAL`, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    #[inline]
    pub fn write_joined(
        &self,
        to: &mut [u8],
        received: &Received,
        ttl: u8,
        payload_len: u16,
    ) -> usize {
        let udp_len = payload_len + UDP_LEN as u16;
        let checksum = fold(self.addresses() + word(PROTOCOL_UDP) + word(udp_len));
        self.write_with(to, received, ttl, udp_len, checksum)
    }

    /// `checksum` as it lies in memory.
    #[inline]
    fn write_with(
        &self,
        to: &mut [u8],
        received: &Received,
        ttl: u8,
        udp_len: u16,
        checksum: u16,
    ) -> usize {
        match &self.headers {
            Headers::V4 { bytes, ip_sum } => {
                let Some(headers) = to.first_chunk_mut() else {
                    return 0;
                };
                *headers = *bytes;
                complete_v4(headers, *ip_sum, received, ttl, udp_len, checksum);
                bytes.len()
            }
            Headers::V6 { bytes } => {
                let Some(headers) = to.first_chunk_mut() else {
                    return 0;
                };
                write_v6(headers, bytes, received, ttl, udp_len, checksum);
                bytes.len()
            }
        }
    }
}

#[inline]
fn complete_v4(
    headers: &mut [u8; IPV4_HEADERS_LEN],
    ip_sum: u32,
    received: &Received,
    ttl: u8,
    udp_len: u16,
    checksum: u16,
) {
    let total_len = udp_len + IPV4_LEN as u16;
    let [id, flags] = received.words;
    let ip_sum = ip_sum + received.ip_sum + word(total_len) + word(u16::from(ttl) << 8);
    headers[IP + ipv4::TOS] = received.tos;
    put(headers, IP + ipv4::TOTAL_LEN.start, total_len.to_be_bytes());
    put(headers, IP + ipv4::ID.start, id.to_ne_bytes());
    put(headers, IP + ipv4::FRAGMENT.start, flags.to_ne_bytes());
    headers[IP + ipv4::TTL] = ttl;
    put(
        headers,
        IP + ipv4::CHECKSUM.start,
        (!fold(ip_sum)).to_ne_bytes(),
    );
    complete_udp(headers, UDP_V4, received, udp_len, checksum);
}

/// Out of line, so that copies over IPv4 keep the registers.
#[inline(never)]
fn write_v6(
    headers: &mut [u8; IPV6_HEADERS_LEN],
    bytes: &[u8; IPV6_HEADERS_LEN],
    received: &Received,
    ttl: u8,
    udp_len: u16,
    checksum: u16,
) {
    *headers = *bytes;
    let [first, second] = received.words;
    let at = IP + ipv6::VERSION_CLASS_AND_LABEL.start;
    put(headers, at, first.to_ne_bytes());
    put(headers, at + 2, second.to_ne_bytes());
    put(headers, IP + ipv6::PAYLOAD_LEN.start, udp_len.to_be_bytes());
    headers[IP + ipv6::HOP_LIMIT] = ttl;
    complete_udp(headers, UDP_V6, received, udp_len, checksum);
}

/// Completes the UDP header that starts at `at`.
#[inline(always)]
fn complete_udp<const LEN: usize>(
    headers: &mut [u8; LEN],
    at: usize,
    received: &Received,
    udp_len: u16,
    checksum: u16,
) {
    put(
        headers,
        at + udp::SOURCE_PORT.start,
        received.source_port.to_ne_bytes(),
    );
    put(headers, at + udp::LEN.start, udp_len.to_be_bytes());
    put(headers, at + udp::CHECKSUM.start, checksum.to_ne_bytes());
}

/// Writes the Ethernet header and the destination port, where the UDP header starts at `udp_at`.
/// Returns what is from the IP header on.
fn outside<'h>(
    headers: &'h mut [u8],
    target: &Target,
    ethertype: u16,
    udp_at: usize,
) -> &'h mut [u8] {
    headers[ethernet::DESTINATION].copy_from_slice(&target.destination_mac);
    headers[ethernet::SOURCE].copy_from_slice(&target.source_mac);
    headers[ethernet::TYPE].copy_from_slice(&ethertype.to_be_bytes());
    headers[udp_at..][udp::DESTINATION_PORT].copy_from_slice(&target.port.to_be_bytes());
    &mut headers[IP..]
}

/// Puts a host part into the group and the Ethernet address of an IPv4 header (RFC 1112, section
/// 6.4).
fn join_v4(headers: &mut [u8; IPV4_HEADERS_LEN], host: u128) {
    const IN_MAC: u128 = 0x007f_ffff;
    join(&mut headers[ethernet::DESTINATION], host & IN_MAC);
    join(&mut headers[IP..][ipv4::DESTINATION], host);
}

/// The same for IPv6 (RFC 2464, section 7).
fn join_v6(headers: &mut [u8; IPV6_HEADERS_LEN], host: u128) {
    const IN_MAC: u128 = 0xffff_ffff;
    join(&mut headers[ethernet::DESTINATION], host & IN_MAC);
    join(&mut headers[IP..][ipv6::DESTINATION], host);
}

/// Sets the bits of `host` in the last bytes of `address`.
fn join(address: &mut [u8], host: u128) {
    for (to, from) in address.iter_mut().rev().zip(host.to_le_bytes()) {
        *to |= from;
    }
}

/// Writes the field that starts at `at`.
#[inline(always)]
fn put<const N: usize, const LEN: usize>(headers: &mut [u8; LEN], at: usize, value: [u8; N]) {
    headers[at..at + N].copy_from_slice(&value);
}
