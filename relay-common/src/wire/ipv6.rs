//! IPv6 (RFC 8200): where the fields lie, and what a header must be for the relay to forward the
//! datagram.

use core::net::Ipv6Addr;

use super::{
    ipv4,
    layout::{WORD, half_of, in_long, in_word},
    skip::Skip,
};

/// Where the fields lie, in bytes from the start of the IPv6 header.
pub mod field {
    use super::super::layout::Field;

    /// Version, traffic class and flow label: 4, 8 and 20 bits.
    pub const VERSION_CLASS_AND_LABEL: Field = 0..4;
    /// Length of the payload: of everything behind this header.
    pub const PAYLOAD_LEN: Field = 4..6;
    /// What follows: [`PROTOCOL_UDP`](crate::wire::ipv4::PROTOCOL_UDP) for UDP.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SOURCE: Field = 8..24;
    /// Destination address.
    pub const DESTINATION: Field = 24..40;
    /// Both addresses, which the pseudo-header of UDP has, too.
    pub const ADDRESSES: Field = SOURCE.start..DESTINATION.end;
}

/// Length of the fixed header. Frames with extension headers are skipped.
pub const HEADER_LEN: usize = field::DESTINATION.end;

/// The extension headers that may stand in front of UDP (RFC 8200, section 4; IANA's list of IPv6
/// extension header types), but the fragment header.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;
const FRAGMENT: u8 = 44;
const UDP: u8 = ipv4::PROTOCOL_UDP;

/// An address, as it lies in memory.
pub type Address = [u64; 2];

/// An IPv4 address in IPv6 form (RFC 4291, section 2.5.5.2): no host may send from it, and it is no
/// group.
#[inline(always)]
#[must_use]
pub const fn mapped(address: ipv4::Address) -> Address {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

/// An address as others write it.
#[must_use]
pub const fn from_memory([first, second]: Address) -> Ipv6Addr {
    Ipv6Addr::from_bits((u64::from_be(first) as u128) << 64 | u64::from_be(second) as u128)
}

/// An address that others have written.
#[must_use]
pub const fn to_memory(address: Ipv6Addr) -> Address {
    let bits = address.to_bits();
    [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
}

/// The words in front of the addresses, each as it lies in memory.
pub(super) type Words = [u32; field::SOURCE.start / WORD];

/// Parts of the words of a header, and what they must be.
const VERSION: u32 = in_word(0, [0xf0]);
const VERSION_6: u32 = in_word(0, [0x60]);
const NEXT_HEADER: u32 = in_word(field::NEXT_HEADER, [0xff]);
const NEXT_IS_UDP: u32 = in_word(field::NEXT_HEADER, [UDP]);
/// ff00::/8 (RFC 4291, section 2.7).
const GROUP_BITS: u64 = in_long([0xff]);
/// The scope of a group.
const SCOPE: u64 = in_long([0, 0x0f]);
const INTERFACE_LOCAL: u64 = in_long([0, 1]);
/// The second half of ::1, and what the second half of a mapped address starts with.
const LOOPBACK: u64 = in_long([0, 0, 0, 0, 0, 0, 0, 1]);
const MAPPED_BITS: u64 = in_long([0xff; 4]);
const MAPPED: u64 = in_long([0, 0, 0xff, 0xff]);

/// What is wrong with a header, up to its addresses; `None` for that of a UDP datagram.
#[inline(always)]
pub(super) const fn skip_of([first, second]: Words) -> Option<Skip> {
    if (first & VERSION ^ VERSION_6) | (second & NEXT_HEADER ^ NEXT_IS_UDP) == 0 {
        return None;
    }
    if first & VERSION != VERSION_6 {
        return Some(Skip::Malformed);
    }
    let next = second.to_ne_bytes()[field::NEXT_HEADER % WORD];
    Some(match next {
        FRAGMENT => Skip::Fragment,
        HOP_BY_HOP | ROUTING | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => {
            Skip::Ipv6Extension
        }
        _ => Skip::NotUdp,
    })
}

/// Length of everything behind the header.
#[inline(always)]
pub(super) const fn payload_len([_, second]: Words) -> u16 {
    half_of(second, field::PAYLOAD_LEN)
}

/// Hop limit.
#[inline(always)]
pub(super) const fn hop_limit([_, second]: Words) -> u8 {
    second.to_ne_bytes()[field::HOP_LIMIT % WORD]
}

/// Whether an address is that of a group.
#[inline(always)]
pub(super) const fn is_group([first, _]: Address) -> bool {
    first & GROUP_BITS == GROUP_BITS
}

/// Whether no host can have this source: `::`, `::1`, a group or an IPv4 address in IPv6 form
/// (`::ffff:0:0/96`). What `ip6_rcv_core` (net/ipv6/ip6_input.c) refuses, and `::`, which must
/// never be forwarded (RFC 4291, section 2.5.2).
#[inline(always)]
pub(super) const fn is_martian(source: Address) -> bool {
    let special = source[1] == 0 || source[1] == LOOPBACK || source[1] & MAPPED_BITS == MAPPED;
    is_group(source) || source[0] == 0 && special
}

/// Whether no wire can have this group: its scope is 0 or that of one host (RFC 4291, section 2.7),
/// which `ip6_rcv_core` refuses as well.
#[inline(always)]
pub(super) const fn stays_on_its_host(group: Address) -> bool {
    let scope = group[0] & SCOPE;
    scope == 0 || scope == INTERFACE_LOCAL
}
