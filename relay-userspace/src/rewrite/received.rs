//! What a received datagram has that its copies keep, and what is known of its UDP checksum.

use relay_common::wire::{
    Datagram, IPV4_LEN, UDP_LEN,
    field::{ipv4, udp},
};

use super::{DONT_FRAGMENT, PROTOCOL_UDP};
use crate::checksum::{fold, nonzero, sum_payload, sum_words};

/// What the outputs of one received datagram have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) id: u16,
    pub(super) flags: u16,
    pub(super) source_port: u16,
    pub(super) udp_len: u16,
    checksum: Checksum,
}

/// What is known of a received UDP checksum besides its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing. A partial one is then recognised by its value: the folded sum of the pseudo-header, not complemented
    /// (Linux `CHECKSUM_PARTIAL`). A complete checksum that has this value by chance, 1 in 65535, is computed anew: that
    /// gives the same value for an intact payload, and repairs a damaged one.
    Nothing,
    /// It is partial: the kernel has said so of this datagram.
    Partial,
    /// It is complete, and may be wrong.
    Complete,
    /// It is complete, and the kernel or the NIC has found it right.
    Right,
}

/// What the UDP checksum field of a received datagram is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    /// The sender sent none, which is legal over IPv4 (RFC 768).
    Absent,
    /// The sender left it to the hardware, and no hardware has touched the frame: a local socket over veth.
    Partial,
    /// Complete. `kept` is the sum of everything that it covers and no output changes.
    Complete { kept: u16 },
    /// The same, and right: the kernel or the NIC has seen to it.
    Right { kept: u16 },
}

impl Received {
    /// Reads what the outputs need from the headers of the frame that `datagram` was decoded from, of whose UDP
    /// checksum so much is `known`.
    ///
    /// `None` when the frame is not as long as `datagram` says, which a decoded one never is.
    #[inline]
    #[must_use]
    pub fn read(frame: &[u8], datagram: &Datagram, known: Known) -> Option<Self> {
        let headers = frame
            .get(usize::from(datagram.network)..)?
            .first_chunk::<{ IPV4_LEN + UDP_LEN }>()?;
        let field = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
        let udp_len = field(IPV4_LEN + udp::LEN);
        let addresses = sum_words(&headers[ipv4::SOURCE..IPV4_LEN]);
        let value = field(IPV4_LEN + udp::CHECKSUM);
        let partial = match known {
            Known::Nothing => value == fold(addresses + PROTOCOL_UDP + u32::from(udp_len)),
            Known::Partial => true,
            Known::Complete | Known::Right => false,
        };
        let checksum = if value == 0 {
            Checksum::Absent
        } else if partial {
            Checksum::Partial
        } else {
            let old = addresses + u32::from(datagram.port);
            let kept = fold(u32::from(!value) + u32::from(!fold(old)));
            match known {
                Known::Right => Checksum::Right { kept },
                _ => Checksum::Complete { kept },
            }
        };
        Some(Self {
            tos: headers[ipv4::TOS],
            ttl: headers[ipv4::TTL],
            id: field(ipv4::ID),
            flags: field(ipv4::FRAGMENT),
            source_port: field(IPV4_LEN + udp::SOURCE),
            udp_len,
            checksum,
        })
    }

    /// Datagram `number`, counted from 0, of the super-frame whose headers these are, with `payload_len` bytes of
    /// payload. Whoever cuts a super-frame apart numbers the datagrams on and computes their checksums: the kernel
    /// has joined or made them itself, and none of them has one that could be wrong.
    #[inline]
    #[must_use]
    pub fn part(&self, number: u16, payload_len: u16) -> Self {
        Self {
            id: self.id.wrapping_add(number),
            udp_len: payload_len + UDP_LEN as u16,
            checksum: match self.checksum {
                Checksum::Absent => Checksum::Absent,
                Checksum::Partial | Checksum::Complete { .. } | Checksum::Right { .. } => {
                    Checksum::Partial
                }
            },
            ..*self
        }
    }

    /// The sum of everything that the UDP checksum covers and no output changes; `None` when the datagram
    /// leaves without a checksum, as it came. Reads the payload only where the checksum is partial.
    #[inline]
    #[must_use]
    pub fn udp_sum(&self, payload: &[u8]) -> Option<u32> {
        match self.checksum {
            Checksum::Absent => None,
            Checksum::Partial => Some(self.computed(payload)),
            Checksum::Complete { kept } | Checksum::Right { kept } => Some(u32::from(kept)),
        }
    }

    /// Whether a checksum computed anew over `payload` says nothing that the received one did not: it is right,
    /// or there was none to be wrong. Reads the payload only where the checksum is complete and nobody has found it right.
    #[inline]
    #[must_use]
    pub fn vouches_for(&self, payload: &[u8]) -> bool {
        match self.checksum {
            Checksum::Absent | Checksum::Partial | Checksum::Right { .. } => true,
            Checksum::Complete { kept } => nonzero(kept) == nonzero(fold(self.computed(payload))),
        }
    }

    /// Whether `next` may leave right behind this one in one super-frame. Its payload must be as long, or
    /// shorter and the last.
    ///
    /// Whoever cuts a super-frame apart numbers the datagrams on from the first. So the identifications must
    /// follow, unless the datagrams are atomic: then nobody may read them (RFC 6864, section 4.1).
    #[inline]
    #[must_use]
    pub fn is_followed_by(&self, next: &Self) -> bool {
        self.source_port == next.source_port
            && self.tos == next.tos
            && self.ttl == next.ttl
            && self.flags == next.flags
            && (self.flags & DONT_FRAGMENT != 0 || self.id.wrapping_add(1) == next.id)
    }

    /// What `udp_sum` is for an intact `payload`.
    #[inline]
    fn computed(&self, payload: &[u8]) -> u32 {
        u32::from(sum_payload(payload))
            + PROTOCOL_UDP
            + 2 * u32::from(self.udp_len)
            + u32::from(self.source_port)
    }
}
