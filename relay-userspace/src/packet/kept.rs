//! What copies keep of a datagram and other copies of it do not: where in the prefix and the range
//! of its flow it was sent to, its source address, and the priority in its tags.
//!
//! A copy that keeps its place in a prefix has the host part of the group that the datagram was
//! sent to, in the prefix of its output. One that keeps its place in a range has a port as far from
//! the first one of the output's range as the datagram's was from the first one of the input's.

use relay_common::wire::{Addresses, Datagram, Tag};

use super::tags::ReceivedTags;
use crate::config::rules::{Match, PortMatch, Prefix};

/// The place of a datagram's destination. All zeros is that of a flow whose copies do not keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offset {
    /// The host part of its group.
    pub(super) host: u128,
    /// How far its port is from the first one.
    pub(super) port: u16,
}

impl Offset {
    /// The place with this host part, `port` behind the first port.
    #[must_use]
    pub const fn at(host: u128, port: u16) -> Self {
        Self { host, port }
    }

    /// A hash of `bits` bits of the place in `flow` (Fibonacci hashing).
    #[must_use]
    pub const fn hash(self, flow: u32, bits: u32) -> u32 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let host = (self.host as u64).wrapping_add(((self.host >> 64) as u64).wrapping_mul(GOLDEN));
        let of_flow = (flow as u64) << 32 | (self.port as u64) << 16;
        let mixed = host.wrapping_mul(GOLDEN) ^ of_flow;
        (mixed.wrapping_mul(GOLDEN) >> (u64::BITS - bits)) as u32
    }
}

/// What some copies of a datagram keep. What none of its flow keeps is 0, so that two datagrams
/// whose copies may leave together have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Its place.
    pub offset: Offset,
    /// Its source address; an IPv4 address in the lowest 32 bits.
    pub(super) source: u128,
    /// Its tags.
    pub(super) tags: ReceivedTags,
}

impl Kept {
    /// That of a datagram whose copies keep nothing but its place.
    #[must_use]
    pub fn at(offset: Offset) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }
}

/// What copies keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keeps {
    /// The host part of the group: its output has a prefix.
    pub host: bool,
    /// The place in the range of ports: its output has a range, or any port.
    pub port: bool,
    /// The source address.
    pub source: bool,
    /// Part of the tags.
    pub tags: bool,
}

impl Keeps {
    /// The places that copies to these destinations keep.
    #[must_use]
    pub fn places(group: &Prefix, ports: PortMatch) -> Self {
        Self {
            host: !group.is_one(),
            port: ports.one().is_none(),
            ..Self::default()
        }
    }

    /// What either keeps.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            host: self.host || other.host,
            port: self.port || other.port,
            source: self.source || other.source,
            tags: self.tags || other.tags,
        }
    }

    /// All places that a flow with these `matches` leaves open: two places go to two destinations.
    #[must_use]
    pub fn all_places_of(self, matches: &Match) -> bool {
        (self.host || matches.group.is_one()) && (self.port || matches.ports.one().is_some())
    }

    /// Nothing: all copies are alike.
    #[inline]
    #[must_use]
    pub const fn nothing(self) -> bool {
        !(self.host || self.port || self.source || self.tags)
    }

    /// What is left of `offset`.
    #[inline]
    pub(super) const fn places_of(self, offset: Offset) -> Offset {
        Offset {
            host: if self.host { offset.host } else { 0 },
            port: if self.port { offset.port } else { 0 },
        }
    }
}

/// What the copies of a flow keep, and how to find it in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    host_mask: u128,
    first_port: u16,
    keeps: Keeps,
}

impl Keeping {
    /// Of a flow that takes what `matches` takes.
    #[must_use]
    pub fn new(matches: &Match, keeps: Keeps) -> Self {
        Self {
            host_mask: host_mask(&matches.group),
            first_port: first_port(matches.ports),
            keeps,
        }
    }

    /// That of `datagram`, which the flow takes, from its `frame`, whose outermost tag may be
    /// `beside` it.
    #[must_use]
    pub fn kept(&self, datagram: &Datagram, frame: &[u8], beside: Option<Tag>) -> Kept {
        let (source, group) = numbers(&datagram.addresses);
        let place = Offset {
            host: group & self.host_mask,
            port: datagram.port.wrapping_sub(self.first_port),
        };
        Kept {
            offset: self.keeps.places_of(place),
            source: if self.keeps.source { source } else { 0 },
            tags: if self.keeps.tags {
                ReceivedTags::read(frame, datagram.network.into(), beside)
            } else {
                ReceivedTags::default()
            },
        }
    }
}

/// Source and destination as numbers.
fn numbers(addresses: &Addresses) -> (u128, u128) {
    match *addresses {
        Addresses::V4 { source, group } => {
            let number = |address| u128::from(u32::from_be(address));
            (number(source), number(group))
        }
        Addresses::V6 { source, group } => {
            let number = |address: [u64; 2]| {
                let [high, low] = address.map(|half| u128::from(u64::from_be(half)));
                high << u64::BITS | low
            };
            (number(source), number(group))
        }
    }
}

/// The port that places in `ports` are counted from. Of any port that is 0, which a datagram may
/// have, so that each keeps its own.
#[must_use]
pub fn first_port(ports: PortMatch) -> u16 {
    match ports {
        PortMatch::Any => 0,
        PortMatch::One(_) | PortMatch::Range(..) => ports.bounds().0,
    }
}

/// The host bits of a group in `prefix`.
fn host_mask(prefix: &Prefix) -> u128 {
    let unused = u128::BITS - u32::from(prefix.host_bits());
    u128::MAX.checked_shr(unused).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_part_has_as_many_bits_as_the_prefix_leaves() {
        let mask = |prefix: &str| host_mask(&prefix.parse().unwrap());
        assert_eq!(mask("239.1.1.1"), 0);
        assert_eq!(mask("239.1.1.0/31"), 1);
        assert_eq!(mask("239.1.1.0/24"), 0xff);
        assert_eq!(mask("224.0.0.0/4"), 0x0fff_ffff);
        assert_eq!(mask("ff3e::/128"), 0);
        assert_eq!(mask("ff3e::/97"), u128::from(u32::MAX >> 1));
        assert_eq!(mask("ff00::/8"), u128::MAX >> 8);
    }
}
