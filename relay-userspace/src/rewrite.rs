//! Header templates and checksums: how a received datagram becomes an output's datagram.
//!
//! Pure arithmetic on bytes, shared by every backend. A [`Template`] is built once an output; for each
//! frame a [`Received`] is read once, and then each output costs one header write and two folds. The
//! UDP checksum is derived from the one that came in, so a payload damaged upstream stays
//! detectably damaged.
//!
//! Datagrams that differ only in payload and identification may also leave as one super-frame, which the
//! kernel or the NIC cuts apart and computes the checksums of ([`Template::write_joined`]). That would hide
//! damage, so only payloads whose checksum was found right may be joined ([`Received::vouches_for`]).

mod lifetime;
mod received;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use relay_common::wire::{
    ETHERNET_LEN, IPV4_HEADERS_LEN, IPV4_LEN, UDP_LEN,
    field::{ipv4, udp},
};

use self::lifetime::Lifetime;
pub use self::received::{Known, Received};
use crate::{
    checksum::{fold, nonzero, sum_words},
    rules::Ttl,
};

const PROTOCOL_UDP: u32 = 17;
/// The flag of datagrams that no router may fragment (RFC 791).
const DONT_FRAGMENT: u16 = 0x4000;

/// Where the IPv4 header starts in what leaves.
const IP: usize = ETHERNET_LEN;
/// Where the UDP header starts in what leaves.
const UDP: usize = ETHERNET_LEN + IPV4_LEN;

/// The headers of one output, complete but for the fields that change from frame to frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    header: [u8; IPV4_HEADERS_LEN],
    lifetime: Lifetime,
    /// Sum of the words of the IPv4 header that are the same in every frame.
    ip_sum: u32,
    /// Sum of the words that the UDP checksum covers and that this output rewrites: both addresses
    /// and the destination port.
    udp_sum: u32,
    port: u16,
}

/// What an output is rewritten to.
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
        header[0..6].copy_from_slice(&target.destination_mac);
        header[6..12].copy_from_slice(&target.source_mac);
        header[12..14].copy_from_slice(&[0x08, 0x00]);
        header[IP] = 0x45;
        header[IP + 9] = 17;
        header[IP + ipv4::SOURCE..][..4].copy_from_slice(&target.source.octets());
        header[IP + ipv4::DESTINATION..][..4].copy_from_slice(&target.destination.octets());
        header[UDP + udp::DESTINATION..][..2].copy_from_slice(&target.port.to_be_bytes());
        let addresses = sum_words(&header[IP + ipv4::SOURCE..UDP]);
        Self {
            header,
            lifetime: Lifetime::new(target.ttl),
            ip_sum: addresses + 0x4500 + PROTOCOL_UDP,
            udp_sum: addresses + u32::from(target.port),
            port: target.port,
        }
    }

    /// The time to live that a copy of `received` leaves with, `None` when it may not leave.
    #[inline]
    #[must_use]
    pub fn ttl(&self, received: &Received) -> Option<u8> {
        self.lifetime.after(received.ttl)
    }

    /// Writes the headers of this output's copy of `received`. What follows them must be its payload, and
    /// `udp_sum` what [`Received::udp_sum`] says for it.
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

    /// Writes the headers of a super-frame of this output's copies of `received` and datagrams that
    /// [follow](Received::is_followed_by) it, with `payload_len` bytes of payload in all.
    ///
    /// Its UDP checksum is the folded sum of the pseudo-header, not complemented, as whoever completes it
    /// expects (Linux `CHECKSUM_PARTIAL`, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
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
        put(header, IP + ipv4::TOTAL_LEN, total_len);
        put(header, IP + ipv4::ID, received.id);
        put(header, IP + ipv4::FRAGMENT, received.flags);
        header[IP + ipv4::TTL] = ttl;
        let ip_sum = self.ip_sum
            + u32::from(received.tos)
            + u32::from(total_len)
            + u32::from(received.id)
            + u32::from(received.flags)
            + (u32::from(ttl) << 8);
        put(header, IP + ipv4::CHECKSUM, !fold(ip_sum));
        put(header, UDP + udp::SOURCE, received.source_port);
        put(header, UDP + udp::LEN, udp_len);
        put(header, UDP + udp::CHECKSUM, checksum);
    }
}

#[inline]
fn put(header: &mut [u8; IPV4_HEADERS_LEN], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
