//! The headers of many datagrams for one output, when each of them has a place of its own that is
//! longer than they are.
//!
//! What an output sets and what a datagram brings are different bytes of the headers. So both lie
//! ready as whole words, zero where the other one has its bytes, and a copy's headers are one `or`
//! of the two, and the checksums. That is a third of the work of [`super::Template::write`], which
//! looks at a datagram field by field.

use relay_common::wire::{
    IPV4_HEADERS_LEN, IPV4_LEN, IPV6_HEADERS_LEN, ipv4::field as ipv4, ipv6::field as ipv6,
    udp::field as udp,
};

use super::{
    checksum::{fold, nonzero, word},
    headers::{Headers, IP, UDP_V4, UDP_V6},
    received::Received,
};

/// The bytes that headers are written into; those behind them are zero.
pub const PATCH_ROOM: usize = 64;
const _: () = assert!(IPV6_HEADERS_LEN <= PATCH_ROOM);

/// Whole words of headers, as they lie in memory.
type Words = [u64; PATCH_ROOM / 8];

/// What the headers of all copies of one datagram have in common.
#[derive(Debug, Clone, Copy)]
pub struct Patch {
    words: Words,
    ip_sum: u32,
    /// Without a checksum this is zero, and so is the mask.
    udp_sum: u32,
    udp_mask: u16,
}

impl Patch {
    /// Of a datagram, where `udp_sum` is [`Received::udp_sum`].
    #[inline]
    #[must_use]
    pub fn new(received: &Received, udp_sum: Option<u32>) -> Self {
        let mut bytes = [0; PATCH_ROOM];
        let udp_len = received.udp_len();
        let [first, second] = received.words;
        let mut ip_sum = 0;
        let udp_header = if received.is_ipv6() {
            let at = IP + ipv6::VERSION_CLASS_AND_LABEL.start;
            put(&mut bytes, at, first.to_ne_bytes());
            put(&mut bytes, at + 2, second.to_ne_bytes());
            put(
                &mut bytes,
                IP + ipv6::PAYLOAD_LEN.start,
                udp_len.to_be_bytes(),
            );
            UDP_V6
        } else {
            let total_len = udp_len + IPV4_LEN as u16;
            bytes[IP + ipv4::TOS] = received.tos;
            put(
                &mut bytes,
                IP + ipv4::TOTAL_LEN.start,
                total_len.to_be_bytes(),
            );
            put(&mut bytes, IP + ipv4::ID.start, first.to_ne_bytes());
            put(&mut bytes, IP + ipv4::FRAGMENT.start, second.to_ne_bytes());
            ip_sum = received.ip_sum + word(total_len);
            UDP_V4
        };
        let source_port = received.source_port.to_ne_bytes();
        put(&mut bytes, udp_header + udp::SOURCE_PORT.start, source_port);
        put(
            &mut bytes,
            udp_header + udp::LEN.start,
            udp_len.to_be_bytes(),
        );
        Self {
            words: words(&bytes),
            ip_sum,
            udp_sum: udp_sum.unwrap_or_default(),
            udp_mask: udp_sum.map_or(0, |_| u16::MAX),
        }
    }
}

/// What the headers of all copies of one output have in common that leave with the same time to
/// live.
#[derive(Debug, Clone)]
pub struct Patched {
    words: Words,
    ip_sum: u32,
    udp_sum: u32,
    is_ipv6: bool,
}

impl Patched {
    /// Of headers without tags; `udp_sum` is what the output adds to the sum of a UDP checksum.
    pub(super) fn new(headers: &Headers, udp_sum: u32, ttl: u8) -> Self {
        let (of_output, ip_sum, is_ipv6) = match headers {
            Headers::V4(v4) => (&v4.bytes[..], v4.ip_sum, false),
            Headers::V6(v6) => (&v6.bytes[..], 0, true),
        };
        let mut bytes = [0; PATCH_ROOM];
        for (to, from) in bytes.iter_mut().zip(of_output) {
            *to = *from;
        }
        bytes[IP + if is_ipv6 { ipv6::HOP_LIMIT } else { ipv4::TTL }] = ttl;
        Self {
            words: words(&bytes),
            ip_sum: ip_sum + word(u16::from(ttl) << 8),
            udp_sum,
            is_ipv6,
        }
    }

    /// Whether the headers are of IPv6. Patches must be of the same version.
    #[inline]
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// How many of the written bytes are the headers.
    #[inline]
    #[must_use]
    pub const fn len<const IPV6: bool>() -> usize {
        if IPV6 {
            IPV6_HEADERS_LEN
        } else {
            IPV4_HEADERS_LEN
        }
    }

    /// Writes the headers of the copy of a datagram with this patch, of the version that `IPV6`
    /// says.
    #[inline(always)]
    pub fn write<const IPV6: bool>(&self, to: &mut [u8; PATCH_ROOM], patch: &Patch) {
        let used = Self::len::<IPV6>().div_ceil(8);
        let both = self.words.iter().zip(&patch.words);
        for (to, (output, datagram)) in to.as_chunks_mut().0.iter_mut().zip(both.take(used)) {
            *to = (output | datagram).to_ne_bytes();
        }
        let checksum = nonzero(!fold(patch.udp_sum + self.udp_sum)) & patch.udp_mask;
        let udp_header = if IPV6 { UDP_V6 } else { UDP_V4 };
        put(to, udp_header + udp::CHECKSUM.start, checksum.to_ne_bytes());
        if !IPV6 {
            let checksum = !fold(patch.ip_sum + self.ip_sum);
            put(to, IP + ipv4::CHECKSUM.start, checksum.to_ne_bytes());
        }
    }
}

fn words(bytes: &[u8; PATCH_ROOM]) -> Words {
    let mut words = Words::default();
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

/// Writes the field that starts at `at`.
#[inline(always)]
fn put<const N: usize>(headers: &mut [u8; PATCH_ROOM], at: usize, value: [u8; N]) {
    headers[at..at + N].copy_from_slice(&value);
}
