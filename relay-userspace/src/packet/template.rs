//! Header templates: the headers of an output, and how they are completed for one datagram.
//!
//! Datagrams that differ only in payload and identification may also leave as one GSO packet: one
//! large packet that the kernel or the NIC cuts into datagrams, whose checksums it computes
//! ([`Template::write_joined`]). That would hide damage, so only payloads whose checksum is right
//! may be joined ([`Received::checksum_ok`]).

use std::net::Ipv4Addr;

use relay_common::wire::{
    ETHERNET_LEN, Field, IPV4_HEADERS_LEN, IPV4_LEN, UDP_LEN,
    ethernet::{ethertype, field as ethernet},
    ipv4::field as ipv4,
    udp::field as udp,
};

use super::{
    checksum::{fold, nonzero, sum_words},
    received::{PROTOCOL_UDP, Received},
    ttl::TtlRule,
};
use crate::config::rules::Ttl;

/// Where the IPv4 header starts in a frame that leaves.
/// Version 4, and a header of 5 words: without options.
const VERSION_AND_LEN: u8 = 0x45;
const IP: usize = ETHERNET_LEN;
/// Where the UDP header starts in a frame that leaves.
const UDP: usize = ETHERNET_LEN + IPV4_LEN;

/// The headers of one output, complete except for the fields that change from frame to frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    header: [u8; IPV4_HEADERS_LEN],
    ttl_rule: TtlRule,
    /// Sum of the words of the IPv4 header that are the same in every frame.
    ip_sum: u32,
    /// Sum of the words that the UDP checksum covers and that this output rewrites: both addresses
    /// and the destination port.
    udp_sum: u32,
    port: u16,
}

/// The header fields that an output sets.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// IPv4 source.
    pub source: Ipv4Addr,
    /// IPv4 destination.
    pub destination: Ipv4Addr,
    /// UDP destination port.
    pub port: u16,
    /// Time to live.
    pub ttl: Ttl,
}

impl Template {
    /// The template for `target`.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let mut header = [0; IPV4_HEADERS_LEN];
        header[ethernet::DESTINATION].copy_from_slice(&target.destination_mac);
        header[ethernet::SOURCE].copy_from_slice(&target.source_mac);
        header[ethernet::TYPE].copy_from_slice(&ethertype::IPV4.to_be_bytes());
        let ip = &mut header[IP..UDP];
        ip[ipv4::VERSION_AND_LEN] = VERSION_AND_LEN;
        ip[ipv4::PROTOCOL] = PROTOCOL_UDP as u8;
        ip[ipv4::SOURCE].copy_from_slice(&target.source.octets());
        ip[ipv4::DESTINATION].copy_from_slice(&target.destination.octets());
        let addresses = sum_words(&ip[ipv4::ADDRESSES]);
        header[UDP..][udp::DESTINATION_PORT].copy_from_slice(&target.port.to_be_bytes());
        Self {
            header,
            ttl_rule: TtlRule::new(target.ttl),
            ip_sum: addresses + (u32::from(VERSION_AND_LEN) << 8) + PROTOCOL_UDP,
            udp_sum: addresses + u32::from(target.port),
            port: target.port,
        }
    }

    /// The time to live that a copy of `received` leaves with; `None` if it must not leave.
    #[inline]
    #[must_use]
    pub fn ttl(&self, received: &Received) -> Option<u8> {
        self.ttl_rule.after(received.ttl)
    }

    /// Writes the headers of this output's copy of `received`. The payload must follow them, and
    /// `udp_sum` must be [`Received::udp_sum`] of that payload.
    #[inline]
    pub fn write(
        &self,
        header: &mut [u8; IPV4_HEADERS_LEN],
        received: &Received,
        ttl: u8,
        udp_sum: Option<u32>,
    ) {
        let checksum = match udp_sum {
            Some(kept) => nonzero(!fold(kept + self.udp_sum)),
            None => 0,
        };
        self.write_with(header, received, ttl, received.udp_len, checksum);
    }

    /// Writes the headers of a GSO packet of this output's copies of `received` and the datagrams
    /// that [follow](Received::is_followed_by) it, with `payload_len` bytes of payload in all.
    ///
    /// Its UDP checksum is the folded sum of the pseudo-header, not complemented; the kernel or the
    /// NIC completes it (Linux `CHECKSUM_PARTIAL`, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    #[inline]
    pub fn write_joined(
        &self,
        header: &mut [u8; IPV4_HEADERS_LEN],
        received: &Received,
        ttl: u8,
        payload_len: u16,
    ) {
        let udp_len = payload_len + UDP_LEN as u16;
        let addresses = self.udp_sum - u32::from(self.port);
        let checksum = fold(addresses + PROTOCOL_UDP + u32::from(udp_len));
        self.write_with(header, received, ttl, udp_len, checksum);
    }

    #[inline]
    fn write_with(
        &self,
        header: &mut [u8; IPV4_HEADERS_LEN],
        received: &Received,
        ttl: u8,
        udp_len: u16,
        checksum: u16,
    ) {
        *header = self.header;
        let total_len = udp_len + IPV4_LEN as u16;
        header[IP + ipv4::TOS] = received.tos;
        put(header, IP, ipv4::TOTAL_LEN, total_len);
        put(header, IP, ipv4::ID, received.id);
        put(header, IP, ipv4::FRAGMENT, received.flags);
        header[IP + ipv4::TTL] = ttl;
        let ip_sum = self.ip_sum
            + u32::from(received.tos)
            + u32::from(total_len)
            + u32::from(received.id)
            + u32::from(received.flags)
            + (u32::from(ttl) << 8);
        put(header, IP, ipv4::CHECKSUM, !fold(ip_sum));
        put(header, UDP, udp::SOURCE_PORT, received.source_port);
        put(header, UDP, udp::LEN, udp_len);
        put(header, UDP, udp::CHECKSUM, checksum);
    }
}

/// Writes a field of the header that starts at `header_at`.
#[inline]
fn put(headers: &mut [u8; IPV4_HEADERS_LEN], header_at: usize, field: Field, value: u16) {
    headers[header_at + field.start..header_at + field.end].copy_from_slice(&value.to_be_bytes());
}
