//! The headers of copies over each version of IP: the bytes that are the same in every frame, and
//! how they are completed for one datagram.

use std::net::IpAddr;

use relay_common::wire::{
    ETHERNET_LEN, Field, IPV4_HEADERS_LEN, IPV4_LEN, IPV6_HEADERS_LEN, UDP_LEN,
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
pub(super) const IP: usize = ETHERNET_LEN;
/// Where the UDP header starts.
pub(super) const UDP_V4: usize = IPV4_HEADERS_LEN - UDP_LEN;
/// The same over IPv6.
pub(super) const UDP_V6: usize = IPV6_HEADERS_LEN - UDP_LEN;

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

/// Headers without tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Headers {
    V4(V4),
    V6(V6),
}

/// Headers over IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V4 {
    pub(super) bytes: [u8; IPV4_HEADERS_LEN],
    /// Sum of the words of the IPv4 header that are the same in every frame.
    pub(super) ip_sum: u32,
}

/// Headers over IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V6 {
    pub(super) bytes: [u8; IPV6_HEADERS_LEN],
}

/// Where the fields lie that an output sets, in bytes from the start of the frame.
struct Fields {
    source: Field,
    destination: Field,
    port: Field,
    /// The bits of a group that are in its Ethernet address too.
    in_mac: u128,
}

/// RFC 1112, section 6.4.
const FIELDS_V4: Fields = Fields {
    source: IP + ipv4::SOURCE.start..IP + ipv4::SOURCE.end,
    destination: IP + ipv4::DESTINATION.start..IP + ipv4::DESTINATION.end,
    port: UDP_V4 + udp::DESTINATION_PORT.start..UDP_V4 + udp::DESTINATION_PORT.end,
    in_mac: 0x007f_ffff,
};
/// RFC 2464, section 7.
const FIELDS_V6: Fields = Fields {
    source: IP + ipv6::SOURCE.start..IP + ipv6::SOURCE.end,
    destination: IP + ipv6::DESTINATION.start..IP + ipv6::DESTINATION.end,
    port: UDP_V6 + udp::DESTINATION_PORT.start..UDP_V6 + udp::DESTINATION_PORT.end,
    in_mac: 0xffff_ffff,
};

impl Headers {
    /// Of datagrams from `source` to `destination`; `None` if they are of different versions of IP.
    pub(super) fn new(macs: Macs, source: IpAddr, destination: IpAddr, port: u16) -> Option<Self> {
        let mut headers = match (source, destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let mut bytes = [0; IPV4_HEADERS_LEN];
                bytes[ethernet::TYPE].copy_from_slice(&ethertype::IPV4.to_be_bytes());
                bytes[IP + ipv4::VERSION_AND_LEN] = VERSION_AND_LEN;
                bytes[IP + ipv4::PROTOCOL] = PROTOCOL_UDP as u8;
                Self::V4(V4 { bytes, ip_sum: 0 })
            }
            (IpAddr::V6(_), IpAddr::V6(_)) => {
                let mut bytes = [0; IPV6_HEADERS_LEN];
                bytes[ethernet::TYPE].copy_from_slice(&ethertype::IPV6.to_be_bytes());
                bytes[IP + ipv6::NEXT_HEADER] = PROTOCOL_UDP as u8;
                Self::V6(V6 { bytes })
            }
            _ => return None,
        };
        let (bytes, _) = headers.parts();
        bytes[ethernet::DESTINATION].copy_from_slice(&macs.destination);
        bytes[ethernet::SOURCE].copy_from_slice(&macs.source);
        headers.add(number(source), number(destination), 0, port);
        Some(headers)
    }

    /// The bytes, and where the fields lie in them.
    fn parts(&mut self) -> (&mut [u8], &'static Fields) {
        match self {
            Self::V4(v4) => (&mut v4.bytes, &FIELDS_V4),
            Self::V6(v6) => (&mut v6.bytes, &FIELDS_V6),
        }
    }

    /// Moves a group by a host part, and its Ethernet address with it. Sets the source address,
    /// which is 0 here unless `source` is, and the destination port.
    pub(super) fn move_to(&mut self, source: u128, host: u128, port: u16) {
        let in_mac = self.parts().1.in_mac;
        self.add(source, host, host & in_mac, port);
    }

    /// Sets the bits of these numbers in the addresses, and the destination port.
    fn add(&mut self, source: u128, destination: u128, mac: u128, port: u16) {
        let (bytes, fields) = self.parts();
        join(&mut bytes[ethernet::DESTINATION], mac);
        join(&mut bytes[fields.source.clone()], source);
        join(&mut bytes[fields.destination.clone()], destination);
        bytes[fields.port.clone()].copy_from_slice(&port.to_be_bytes());
        let addresses = self.addresses();
        if let Self::V4(v4) = self {
            let version = word(u16::from(VERSION_AND_LEN) << 8);
            v4.ip_sum = addresses + version + word(PROTOCOL_UDP);
        }
    }

    pub(super) fn set_destination_mac(&mut self, mac: [u8; 6]) {
        let (bytes, _) = self.parts();
        bytes[ethernet::DESTINATION].copy_from_slice(&mac);
    }

    /// The sum of both addresses.
    pub(super) fn addresses(&self) -> u32 {
        match self {
            Self::V4(v4) => sum_words(&v4.bytes[IP..][ipv4::ADDRESSES]),
            Self::V6(v6) => sum_words(&v6.bytes[IP..][ipv6::ADDRESSES]),
        }
    }

    pub(super) const fn len(&self) -> usize {
        match self {
            Self::V4(v4) => v4.bytes.len(),
            Self::V6(v6) => v6.bytes.len(),
        }
    }

    /// Writes them to the first bytes of `to`. Returns how many, 0 where `to` is shorter.
    #[inline(always)]
    pub(super) fn write(&self, to: &mut [u8], received: &Received, completed: Completed) -> usize {
        match self {
            Self::V4(v4) => v4.write(to, received, completed),
            Self::V6(v6) => v6.write(to, received, completed),
        }
    }
}

impl V4 {
    #[inline(always)]
    fn write(&self, to: &mut [u8], received: &Received, completed: Completed) -> usize {
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
    #[inline(always)]
    fn write(&self, to: &mut [u8], received: &Received, completed: Completed) -> usize {
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

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
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
