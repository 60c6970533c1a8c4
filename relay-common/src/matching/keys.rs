//! The keys of the tables of flows, as the kernel's maps have them.
//!
//! User space hashes them in words of 64 bits. Its hash multiplies, which carries upwards only, so
//! what differs most from key to key is in the low bits of a word: addresses are in host order
//! there.

use core::hash::{Hash, Hasher};

use super::Shape;
use crate::wire::{Vlan, ipv4, ipv6};

/// An interface and a VLAN in it.
#[inline(always)]
#[must_use]
pub const fn place(slot: u8, vlan: Vlan) -> u32 {
    (slot as u32) << Vlan::BITS | vlan.bits()
}

/// The interface's slot in a [`place`].
#[inline(always)]
pub(super) const fn slot(place: u32) -> u8 {
    (place >> Vlan::BITS) as u8
}

const _: () = assert!(size_of::<ExactKey4>() == 12 && size_of::<ExactKey6>() == 24);
const _: () = assert!(size_of::<ShapedKey4>() == 16 && size_of::<ShapedKey6>() == 40);
const _: () = assert!(Vlan::BITS + u8::BITS == u32::BITS);

/// The key of an exact flow over IPv4.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExactKey4 {
    /// See [`place`].
    pub place: u32,
    /// The group, as it lies in memory.
    pub group: ipv4::Address,
    /// The port.
    pub port: u32,
}

impl Hash for ExactKey4 {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(both(self.place, self.port));
        state.write_u64(u64::from(u32::from_be(self.group)));
    }
}

/// The key of an exact flow over IPv6.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExactKey6 {
    /// See [`place`].
    pub place: u32,
    /// The port.
    pub port: u32,
    /// The group, as it lies in memory.
    pub group: ipv6::Address,
}

impl Hash for ExactKey6 {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(both(self.place, self.port));
        state.write_u64(u64::from_be(self.group[0]));
        state.write_u64(u64::from_be(self.group[1]));
    }
}

/// The key of a shaped flow over IPv4.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapedKey4 {
    /// See [`place`].
    pub place: u32,
    /// The source as it lies in memory, 0 for any.
    pub source: ipv4::Address,
    /// The prefix, in host order.
    pub group: u32,
    /// See [`shape_and_port`].
    pub shape_and_port: u32,
}

impl Hash for ShapedKey4 {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(both(self.place, self.shape_and_port));
        state.write_u64(both(u32::from_be(self.source), self.group));
    }
}

/// The key of a shaped flow over IPv6.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapedKey6 {
    /// See [`place`].
    pub place: u32,
    /// See [`shape_and_port`].
    pub shape_and_port: u32,
    /// The halves of the addresses.
    pub halves: [Halves; 2],
}

impl Hash for ShapedKey6 {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(both(self.place, self.shape_and_port));
        state.write_u64(self.halves[0].group);
        state.write_u64(u64::from_be(self.halves[0].source));
        state.write_u64(self.halves[1].group);
        state.write_u64(u64::from_be(self.halves[1].source));
    }
}

/// One half of a prefix and of a source. They are interleaved because LLVM makes a call of `memset`
/// out of a source of zeros that lie together, and the verifier refuses that to a program without
/// CAP_PERFMON.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halves {
    /// Of the prefix, in host order.
    pub group: u64,
    /// Of the source as it lies in memory, 0 for any.
    pub source: u64,
}

/// A shape, and the port in the form that it has there.
#[inline(always)]
#[must_use]
pub const fn shape_and_port(shape: Shape, port: u16) -> u32 {
    (shape.bits() as u32) << 16 | port as u32
}

/// Two numbers as one.
#[inline(always)]
pub(super) const fn both(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}
