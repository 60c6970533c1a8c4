//! IPv4 (RFC 791): where the fields lie, and what a header must be for the relay to forward the
//! datagram.

use super::{
    layout::{WORD, half_of, in_word},
    skip::Skip,
};

/// Where the fields lie, in bytes from the start of the IPv4 header.
pub mod field {
    use super::super::layout::Field;

    /// Version, and length of the header in words of 4 bytes: 4 bits each.
    pub const VERSION_AND_LEN: usize = 0;
    /// Type of service: DSCP and ECN.
    pub const TOS: usize = 1;
    /// Length of header and payload.
    pub const TOTAL_LEN: Field = 2..4;
    /// Identification.
    pub const ID: Field = 4..6;
    /// Flags and fragment offset.
    pub const FRAGMENT: Field = 6..8;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol: [`PROTOCOL_UDP`](super::PROTOCOL_UDP) for UDP.
    pub const PROTOCOL: usize = 9;
    /// Checksum of the header.
    pub const CHECKSUM: Field = 10..12;
    /// Source address.
    pub const SOURCE: Field = 12..16;
    /// Destination address.
    pub const DESTINATION: Field = 16..20;
    /// Both addresses, which the pseudo-header of UDP has, too.
    pub const ADDRESSES: Field = SOURCE.start..DESTINATION.end;
}

/// Length of an IPv4 header without options. Frames with options are skipped.
pub const HEADER_LEN: usize = field::DESTINATION.end;

/// The protocol number of UDP.
#[doc(alias = "IPPROTO_UDP")]
pub const PROTOCOL_UDP: u8 = 17;

/// More fragments, or a fragment offset other than 0: everything but DF and the reserved bit.
const FRAGMENT_MASK: u16 = 0x3fff;

/// An address, as it lies in memory.
pub type Address = u32;

/// The words of a header in the order of RFC 791's figure, each as it lies in memory.
pub(super) type Words = [u32; HEADER_LEN / WORD];

/// Parts of the words of a header, and what they must be.
const VERSION_AND_LEN: u32 = in_word(field::VERSION_AND_LEN, [0xff]);
const OPTIONLESS: u32 = in_word(field::VERSION_AND_LEN, [0x45]);
const FRAGMENT: u32 = in_word(field::FRAGMENT.start, FRAGMENT_MASK.to_be_bytes());
const PROTOCOL: u32 = in_word(field::PROTOCOL, [0xff]);
const UDP: u32 = in_word(field::PROTOCOL, [PROTOCOL_UDP]);
/// 224.0.0.0/4 (RFC 5771).
const GROUP_BITS: u32 = in_word(field::DESTINATION.start, [0xf0, 0, 0, 0]);
const MULTICAST: u32 = in_word(field::DESTINATION.start, [0xe0, 0, 0, 0]);

/// Whether the header is sound and that of a whole UDP datagram, without options: to a group, or
/// with `hosts` to any address.
#[inline(always)]
pub(super) const fn is_of_udp(words: Words, hosts: bool) -> bool {
    let [first, second, third, _, group] = words;
    // All at once, since nearly every frame passes: one jump.
    let odd = (first & VERSION_AND_LEN ^ OPTIONLESS)
        | (second & FRAGMENT)
        | (third & PROTOCOL ^ UDP)
        | if hosts {
            0
        } else {
            group & GROUP_BITS ^ MULTICAST
        };
    odd == 0 && is_complete(words)
}

/// Whether an address is that of a group.
#[inline(always)]
pub(super) const fn is_group(address: Address) -> bool {
    address & GROUP_BITS == MULTICAST
}

/// What is wrong with a header that is not [`is_of_udp`].
#[inline(always)]
pub(super) const fn skip_of([first, second, third, _, group]: Words, hosts: bool) -> Skip {
    let [version_and_len, ..] = first.to_ne_bytes();
    if version_and_len >> 4 != 4 || version_and_len & 0x0f < 5 {
        Skip::Malformed
    } else if version_and_len & 0x0f > 5 {
        Skip::IpOptions
    } else if second & FRAGMENT != 0 {
        Skip::Fragment
    } else if third & PROTOCOL != UDP {
        Skip::NotUdp
    } else if !hosts && !is_group(group) {
        Skip::NotMulticast
    } else {
        // The checksum.
        Skip::Malformed
    }
}

/// Length of header and payload.
#[inline(always)]
pub(super) const fn total_len([first, ..]: Words) -> u16 {
    half_of(first, field::TOTAL_LEN)
}

/// Time to live.
#[inline(always)]
pub(super) const fn ttl([_, _, third, ..]: Words) -> u8 {
    third.to_ne_bytes()[field::TTL % WORD]
}

/// Whether no host can have this source: `ip_mc_validate_source` (net/ipv4/route.c) refuses
/// 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4 and 255.255.255.255.
#[inline(always)]
pub(super) const fn is_martian(source: Address) -> bool {
    let first = source.to_ne_bytes()[0] as u64;
    let is_odd = first.wrapping_sub(1) >= 223;
    first == 127 || is_odd && (first < 240 || source == u32::MAX)
}

/// Whether the checksum in a header is right: then its 16-bit words add up to `0xffff` (RFC 1071),
/// whatever the order of their bytes is.
///
/// The sum of the words of 32 bits is `a + b * 2^16 + c * 2^32` with `a` and `b` below 2^16 and `c`
/// below 5. The product has `a + b + c` from bit 32 on, and the carry of `a + b`: together `0xffff`
/// or `0x1ffff` if, and only if, the former is `0xffff` or twice that.
#[inline(always)]
const fn is_complete([a, b, c, d, e]: Words) -> bool {
    let sum = a as u64 + b as u64 + c as u64 + d as u64 + e as u64;
    (sum.wrapping_mul(0x1_0001_0001) >> 32) & 0xffff == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_complete_when_its_words_add_up_and_only_then() {
        let folded = |words: Words| {
            let halves = words
                .into_iter()
                .flat_map(|word| [word >> 16, word & 0xffff]);
            let sum: u32 = halves.sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            (sum & 0xffff) + (sum >> 16)
        };
        let add_up = |words| folded(words) == 0xffff;
        let edges = [
            0,
            1,
            0xfffe,
            0xffff,
            0x1_0000,
            0xfffe_ffff,
            0xffff_0000,
            u32::MAX,
        ];
        // Miri is slow.
        let step = if cfg!(miri) { 97 } else { 1 };
        for number in (0..edges.len().pow(5)).step_by(step) {
            let words = core::array::from_fn(|at| edges[number / edges.len().pow(at as u32) % 8]);
            assert_eq!(is_complete(words), add_up(words), "{words:x?}");
        }
        let mut state = 1_u64;
        for _ in 0..10_000 / step {
            let [first, second, third, source, group] = [0; 5].map(|_: u32| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 32) as u32
            });
            let words = [first, second, third, source, group];
            assert_eq!(is_complete(words), add_up(words), "{words:x?}");
            let third = third & 0xffff_0000;
            let checksum = !folded([first, second, third, source, group]) & 0xffff;
            let words = [first, second, third | checksum, source, group];
            assert!(is_complete(words) && add_up(words), "{words:x?}");
        }
    }
}
