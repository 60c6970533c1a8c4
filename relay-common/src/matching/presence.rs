//! Presence bits: whether a hash table may have an entry, told by one bit of an array.
//!
//! Most of what the kernel programs ask their hash tables for is not there: no rule takes the
//! frame, or another shape does, and hardly any frame is the relay's own. To search a hash table is
//! a call, and on CPUs that must guard every return, a call costs several times what reading an
//! array does. So the programs read the bit first. Several keys share a bit: one that is set means
//! "perhaps", one that is clear means "no".

use super::keys::{ExactKey4, ExactKey6, ShapedKey4, ShapedKey6, both};
use crate::wire::ipv6;

/// Odd numbers without a pattern, one per 64 bits of a key: sums of products with such numbers
/// spread keys over their upper bits (multilinear hashing).
const FACTORS: [u64; 5] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
];

/// Where the presence bit of a key is, in an array of two to the power of `BITS` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Presence<const BITS: u32>(u32);

/// Of the keys of flows: with 10,000 flows, one search in two hundred is made for nothing, and with
/// full tables one in six.
pub type FlowPresence = Presence<FLOW_BITS>;
/// The binary logarithm of their number of bits.
pub const FLOW_BITS: u32 = 21;
/// Of the relay's own sources: with as many as there can be, one search in sixteen is made for
/// nothing.
pub type OwnPresence = Presence<OWN_BITS>;
/// The binary logarithm of their number of bits.
pub const OWN_BITS: u32 = 15;

impl<const BITS: u32> Presence<BITS> {
    /// Numbers of 64 bits in the array.
    pub const WORDS: u32 = 1 << (BITS - u64::BITS.trailing_zeros());

    /// Of a key of these parts.
    #[inline(always)]
    pub(crate) fn of<const N: usize>(parts: [u64; N]) -> Self {
        let mut sum = 0_u64;
        let mut at = 0;
        while at < N {
            sum = sum.wrapping_add(parts[at].wrapping_mul(FACTORS[at]));
            at += 1;
        }
        Self((sum >> (u64::BITS - BITS)) as u32)
    }

    /// The number of the array that has the bit.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        self.0 / u64::BITS
    }

    /// The bit in that number.
    #[inline(always)]
    #[must_use]
    pub const fn mask(self) -> u64 {
        1 << (self.0 % u64::BITS)
    }
}

impl From<&ExactKey4> for FlowPresence {
    #[inline(always)]
    fn from(key: &ExactKey4) -> Self {
        Self::of([both(key.place, key.port), key.group.into()])
    }
}

impl From<&ExactKey6> for FlowPresence {
    #[inline(always)]
    fn from(key: &ExactKey6) -> Self {
        let [upper, lower] = key.group;
        Self::of([both(key.place, key.port), upper, lower])
    }
}

impl From<&ShapedKey4> for FlowPresence {
    #[inline(always)]
    fn from(key: &ShapedKey4) -> Self {
        Self::of([
            both(key.place, key.shape_and_port),
            both(key.source, key.group),
        ])
    }
}

impl From<&ShapedKey6> for FlowPresence {
    #[inline(always)]
    fn from(key: &ShapedKey6) -> Self {
        let [upper, lower] = key.halves;
        Self::of([
            both(key.place, key.shape_and_port),
            upper.group,
            upper.source,
            lower.group,
            lower.source,
        ])
    }
}

impl From<&ipv6::Address> for OwnPresence {
    #[inline(always)]
    fn from(&[upper, lower]: &ipv6::Address) -> Self {
        Self::of([upper, lower])
    }
}
