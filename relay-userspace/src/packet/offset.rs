//! Where in the prefix and the range of its flow a datagram was sent to, and which of that its
//! copies keep.
//!
//! A copy that keeps its place in a prefix has the host part of the group that the datagram was
//! sent to, in the prefix of its output. One that keeps its place in a range has a port as far from
//! the first one of the output's range as the datagram's was from the first one of the input's.

use relay_common::wire::{Addresses, Datagram};

use crate::config::rules::{Match, PortMatch, Prefix};

/// The most bits of a host part that a copy can keep: those of the identifier of an IPv6 group
/// (RFC 3307).
pub const MAX_HOST_BITS: u8 = 32;

/// The place of a datagram's destination. All zeros is that of a flow whose copies keep nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offset {
    /// The host part of its group.
    pub(super) host: u32,
    /// How far its port is from the first one.
    pub(super) port: u16,
}

/// The prefix and the range of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    host_mask: u32,
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
        let end_of_group = match datagram.addresses {
            Addresses::V4 { group, .. } => u32::from_be(group),
            Addresses::V6 {
                group: [_, end], ..
            } => u64::from_be(end) as u32,
        };
        Offset {
            host: end_of_group & self.host_mask,
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

/// The host bits of `prefix`, of the last [`MAX_HOST_BITS`] of a group.
fn host_mask(prefix: &Prefix) -> u32 {
    match prefix.host_bits() {
        0 => 0,
        bits => u32::MAX >> MAX_HOST_BITS.saturating_sub(bits),
    }
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
        assert_eq!(mask("ff3e::/97"), u32::MAX >> 1);
        assert_eq!(mask("ff3e::/96"), u32::MAX);
    }
}
