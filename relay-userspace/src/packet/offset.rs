//! Where in the prefix and the range of its flow a datagram was sent to, and which of that its
//! copies keep.
//!
//! A copy that keeps its place in a prefix has the host part of the group that the datagram was
//! sent to, in the prefix of its output. One that keeps its place in a range has a port as far from
//! the first one of the output's range as the datagram's was from the first one of the input's.

use relay_common::wire::{Addresses, Datagram};

use crate::config::rules::{Match, PortMatch, Prefix};

/// The place of a datagram's destination. All zeros is that of a flow whose copies keep nothing.
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

/// The prefix and the range of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    host_mask: u128,
    first_port: u16,
}

impl Span {
    /// What `matches` takes.
    #[must_use]
    pub fn new(matches: &Match) -> Self {
        Self {
            host_mask: host_mask(&matches.group),
            first_port: first_port(matches.ports),
        }
    }

    /// The place of the destination of `datagram`, which is in the prefix and the range.
    #[inline]
    #[must_use]
    pub fn offset(&self, datagram: &Datagram) -> Offset {
        let group = match datagram.addresses {
            Addresses::V4 { group, .. } => u128::from(u32::from_be(group)),
            Addresses::V6 { group, .. } => {
                let [high, low] = group.map(|half| u128::from(u64::from_be(half)));
                high << u64::BITS | low
            }
        };
        Offset {
            host: group & self.host_mask,
            port: datagram.port.wrapping_sub(self.first_port),
        }
    }
}

/// What of a place a copy keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keeps {
    /// The host part of the group: its output has a prefix.
    pub host: bool,
    /// The place in the range of ports: its output has a range, or any port.
    pub port: bool,
}

impl Keeps {
    /// What copies to these destinations keep.
    #[must_use]
    pub fn new(group: &Prefix, ports: PortMatch) -> Self {
        Self {
            host: !group.is_one(),
            port: ports.one().is_none(),
        }
    }

    /// Everything that a flow with these `matches` leaves open: two places go to two destinations.
    #[must_use]
    pub fn all_of(self, matches: &Match) -> bool {
        (self.host || matches.group.is_one()) && (self.port || matches.ports.one().is_some())
    }

    /// Nothing: all copies have the same destination.
    #[inline]
    #[must_use]
    pub const fn nothing(self) -> bool {
        !(self.host || self.port)
    }

    /// What is left of `offset`.
    #[inline]
    pub(super) const fn of(self, offset: Offset) -> Offset {
        Offset {
            host: if self.host { offset.host } else { 0 },
            port: if self.port { offset.port } else { 0 },
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
