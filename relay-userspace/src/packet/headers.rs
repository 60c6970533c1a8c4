//! The headers of copies over each version of IP: the bytes that are the same in every frame, and
//! how they are completed for one datagram.

use std::net::{Ipv4Addr, Ipv6Addr};

use relay_common::wire::{
    ETHERNET_LEN, IPV4_HEADERS_LEN, IPV4_LEN, IPV6_HEADERS_LEN, UDP_LEN,
    ethernet::{ethertype, field as ethernet},
    ipv4::field as ipv4,
    ipv6::field as ipv6,
    udp::field as udp,
};

use super::{
    checksum::{fold, sum_words, word},
    received::{PROTOCOL_UDP, Received},
};

/// Version 4, and a header of 5 words: without options.
const VERSION_AND_LEN: u8 = 0x45;
/// Where the IP header starts.
const IP: usize = ETHERNET_LEN;
/// Where the UDP header starts.
const UDP_V4: usize = IPV4_HEADERS_LEN - UDP_LEN;
const UDP_V6: usize = IPV6_HEADERS_LEN - UDP_LEN;

/// Ethernet addresses, source and destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Macs {
    pub(super) source: [u8; 6],
    pub(super) destination: [u8; 6],
}

/// What of the headers differs from frame to frame, beside what is in [`Received`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Completed {
    pub(super) ttl: u8,
    pub(super) udp_len: u16,
    /// As it lies in memory.
    pub(super) checksum: u16,
}

/// Headers over IPv4 without tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V4 {
    bytes: [u8; IPV4_HEADERS_LEN],
    /// Sum of the words of the IPv4 header that are the same in every frame.
    ip_sum: u32,
}

/// Headers over IPv6 without tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V6 {
    bytes: [u8; IPV6_HEADERS_LEN],
}

impl V4 {
    pub(super) const LEN: usize = IPV4_HEADERS_LEN;

    pub(super) fn new(macs: Macs, source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Self {
        let mut bytes = [0; IPV4_HEADERS_LEN];
        outside(&mut bytes, macs, ethertype::IPV4, UDP_V4, port);
        let ip = &mut bytes[IP..];
        ip[ipv4::VERSION_AND_LEN] = VERSION_AND_LEN;
        ip[ipv4::PROTOCOL] = PROTOCOL_UDP as u8;
        ip[ipv4::SOURCE].copy_from_slice(&source.octets());
        ip[ipv4::DESTINATION].copy_from_slice(&destination.octets());
        let mut headers = Self { bytes, ip_sum: 0 };
        headers.sum_up();
        headers
    }

    fn sum_up(&mut self) {
        let version = word(u16::from(VERSION_AND_LEN) << 8);
        self.ip_sum = self.addresses() + version + word(PROTOCOL_UDP);
    }

    /// The sum of both addresses.
    pub(super) fn addresses(&self) -> u32 {
        sum_words(&self.bytes[IP..][ipv4::ADDRESSES])
    }

    /// Moves a group by a host part, and its Ethernet address with it (RFC 1112, section 6.4).
    pub(super) fn join_host(&mut self, host: u128) {
        const IN_MAC: u128 = 0x007f_ffff;
        join(&mut self.bytes[ethernet::DESTINATION], host & IN_MAC);
        join(&mut self.bytes[IP..][ipv4::DESTINATION], host);
        self.sum_up();
    }

    /// Sets a source address, which is 0 here.
    pub(super) fn set_source(&mut self, source: u128) {
        join(&mut self.bytes[IP..][ipv4::SOURCE], source);
        self.sum_up();
    }

    pub(super) fn set_port(&mut self, port: u16) {
        let at = UDP_V4 + udp::DESTINATION_PORT.start;
        put(&mut self.bytes, at, port.to_be_bytes());
    }

    pub(super) fn set_destination_mac(&mut self, mac: [u8; 6]) {
        put(&mut self.bytes, ethernet::DESTINATION.start, mac);
    }

    /// Writes them to the first bytes of `to`. Returns how many, 0 where `to` is shorter.
    #[inline(always)]
    pub(super) fn write(&self, to: &mut [u8], received: &Received, completed: Completed) -> usize {
        let Some(headers) = to.first_chunk_mut() else {
            return 0;
        };
        *headers = self.bytes;
        let Completed {
            ttl,
            udp_len,
            checksum,
        } = completed;
        let total_len = udp_len + IPV4_LEN as u16;
        let [id, flags] = received.words;
        let ip_sum = self.ip_sum + received.ip_sum + word(total_len) + word(u16::from(ttl) << 8);
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
        headers.len()
    }
}

impl V6 {
    pub(super) const LEN: usize = IPV6_HEADERS_LEN;

    pub(super) fn new(macs: Macs, source: Ipv6Addr, destination: Ipv6Addr, port: u16) -> Self {
        let mut bytes = [0; IPV6_HEADERS_LEN];
        outside(&mut bytes, macs, ethertype::IPV6, UDP_V6, port);
        let ip = &mut bytes[IP..];
        ip[ipv6::NEXT_HEADER] = PROTOCOL_UDP as u8;
        ip[ipv6::SOURCE].copy_from_slice(&source.octets());
        ip[ipv6::DESTINATION].copy_from_slice(&destination.octets());
        Self { bytes }
    }

    /// The sum of both addresses.
    pub(super) fn addresses(&self) -> u32 {
        sum_words(&self.bytes[IP..][ipv6::ADDRESSES])
    }

    /// Moves a group by a host part, and its Ethernet address with it (RFC 2464, section 7).
    pub(super) fn join_host(&mut self, host: u128) {
        const IN_MAC: u128 = 0xffff_ffff;
        join(&mut self.bytes[ethernet::DESTINATION], host & IN_MAC);
        join(&mut self.bytes[IP..][ipv6::DESTINATION], host);
    }

    /// Sets a source address, which is 0 here.
    pub(super) fn set_source(&mut self, source: u128) {
        join(&mut self.bytes[IP..][ipv6::SOURCE], source);
    }

    pub(super) fn set_port(&mut self, port: u16) {
        let at = UDP_V6 + udp::DESTINATION_PORT.start;
        put(&mut self.bytes, at, port.to_be_bytes());
    }

    pub(super) fn set_destination_mac(&mut self, mac: [u8; 6]) {
        put(&mut self.bytes, ethernet::DESTINATION.start, mac);
    }

    /// Writes them to the first bytes of `to`. Returns how many, 0 where `to` is shorter.
    #[inline(always)]
    pub(super) fn write(&self, to: &mut [u8], received: &Received, completed: Completed) -> usize {
        let Some(headers) = to.first_chunk_mut() else {
            return 0;
        };
        let Completed {
            ttl,
            udp_len,
            checksum,
        } = completed;
        self.complete(headers, received, ttl, udp_len, checksum);
        headers.len()
    }

    /// Out of line, so that copies over IPv4 keep the registers; each argument in a register of its
    /// own, so that they are not put together for it there.
    #[inline(never)]
    fn complete(
        &self,
        headers: &mut [u8; IPV6_HEADERS_LEN],
        received: &Received,
        ttl: u8,
        udp_len: u16,
        checksum: u16,
    ) {
        *headers = self.bytes;
        let [first, second] = received.words;
        let at = IP + ipv6::VERSION_CLASS_AND_LABEL.start;
        put(headers, at, first.to_ne_bytes());
        put(headers, at + 2, second.to_ne_bytes());
        put(headers, IP + ipv6::PAYLOAD_LEN.start, udp_len.to_be_bytes());
        headers[IP + ipv6::HOP_LIMIT] = ttl;
        complete_udp(headers, UDP_V6, received, udp_len, checksum);
    }
}

/// Writes the Ethernet header and the destination port, where the UDP header starts at `udp_at`.
fn outside(headers: &mut [u8], macs: Macs, ethertype: u16, udp_at: usize, port: u16) {
    headers[ethernet::DESTINATION].copy_from_slice(&macs.destination);
    headers[ethernet::SOURCE].copy_from_slice(&macs.source);
    headers[ethernet::TYPE].copy_from_slice(&ethertype.to_be_bytes());
    headers[udp_at..][udp::DESTINATION_PORT].copy_from_slice(&port.to_be_bytes());
}

/// Sets the bits of `number` in the last bytes of `address`.
fn join(address: &mut [u8], number: u128) {
    for (to, from) in address.iter_mut().rev().zip(number.to_le_bytes()) {
        *to |= from;
    }
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

/// Writes the field that starts at `at`.
#[inline(always)]
fn put<const N: usize, const LEN: usize>(headers: &mut [u8; LEN], at: usize, value: [u8; N]) {
    headers[at..at + N].copy_from_slice(&value);
}
