//! The fields of a received datagram that its copies keep, and the state of its UDP checksum.
//!
//! Copies get a checksum derived from the received one, not one computed anew over the payload, so
//! that a damaged payload stays detectably damaged. Only a partial checksum is computed.

use relay_common::wire::{
    Datagram, Field, IPV4_LEN, UDP_LEN,
    ipv4::{self, field as ip},
    udp::field as udp,
};

use super::checksum::{fold, nonzero, sum_payload, sum_words};

/// The protocol number of UDP, as a word of a sum.
pub(super) const PROTOCOL_UDP: u32 = ipv4::PROTOCOL_UDP as u32;
/// The flag of datagrams that no router may fragment (RFC 791).
const DONT_FRAGMENT: u16 = 0x4000;

/// The fields that all copies of one received datagram have in common.
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

/// What the kernel says about a received UDP checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing. The relay then recognises a partial checksum by its value: the folded sum of the
    /// pseudo-header, not complemented (Linux `CHECKSUM_PARTIAL`). It computes a complete checksum
    /// that has this value by chance, 1 in 65535, anew: that gives the same value for an intact
    /// payload, and a right checksum for a damaged one.
    Nothing,
    /// It is partial.
    Partial,
    /// It is complete, and may be wrong.
    Complete,
    /// It is complete, and the kernel or the NIC has verified it.
    Right,
}

/// The state of a received datagram's UDP checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    /// The sender sent none, which is legal over IPv4 (RFC 768).
    Absent,
    /// The sender left it to the hardware, but the frame passed no hardware: a local socket over
    /// veth.
    Partial,
    /// Complete. `kept` is the sum of everything that it covers and that no output changes.
    Complete { kept: u16 },
    /// Complete, and verified by the kernel or the NIC.
    Right { kept: u16 },
}

impl Received {
    /// Reads the fields from the headers of `frame`, which `datagram` was decoded from; `known` is
    /// what the kernel says about its UDP checksum.
    ///
    /// `None` if the frame is shorter than `datagram` says, which a decoded frame never is.
    // Always inlined: a call costs 30 instructions per frame.
    #[inline(always)]
    #[must_use]
    pub fn read(frame: &[u8], datagram: &Datagram, known: Known) -> Option<Self> {
        let headers = frame
            .get(usize::from(datagram.network)..)?
            .first_chunk::<{ IPV4_LEN + UDP_LEN }>()?;
        let field = |header_at: usize, field: Field| {
            let at = header_at + field.start;
            u16::from_be_bytes([headers[at], headers[at + 1]])
        };
        let udp_len = field(IPV4_LEN, udp::LEN);
        let addresses = sum_words(&headers[ip::ADDRESSES]);
        let value = field(IPV4_LEN, udp::CHECKSUM);
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
            tos: headers[ip::TOS],
            ttl: headers[ip::TTL],
            id: field(0, ip::ID),
            flags: field(0, ip::FRAGMENT),
            source_port: field(IPV4_LEN, udp::SOURCE_PORT),
            udp_len,
            checksum,
        })
    }

    /// Datagram `number`, counted from 0, of the GSO packet whose headers these are, with
    /// `payload_len` bytes of payload. It gets the identification that segmentation would give it,
    /// and a partial checksum: the kernel has built or joined the GSO packet itself, so none of its
    /// datagrams has a checksum that could be wrong.
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

    /// The sum of everything that the UDP checksum covers and that no output changes; `None` if the
    /// datagram arrived without a checksum, and leaves without one. Reads the payload only if the
    /// checksum is partial.
    #[inline]
    #[must_use]
    pub fn udp_sum(&self, payload: &[u8]) -> Option<u32> {
        match self.checksum {
            Checksum::Absent => None,
            Checksum::Partial => Some(self.computed(payload)),
            Checksum::Complete { kept } | Checksum::Right { kept } => Some(u32::from(kept)),
        }
    }

    /// Whether a checksum computed anew over `payload` would hide no damage: the received one is
    /// right, partial or absent. Reads the payload only if the checksum is complete and neither the
    /// kernel nor the NIC has verified it.
    #[inline]
    #[must_use]
    pub fn checksum_ok(&self, payload: &[u8]) -> bool {
        match self.checksum {
            Checksum::Absent | Checksum::Partial | Checksum::Right { .. } => true,
            Checksum::Complete { kept } => nonzero(kept) == nonzero(fold(self.computed(payload))),
        }
    }

    /// Whether `next` may leave directly after this datagram in one GSO packet. The caller checks
    /// the payload's length: it must be equal, or shorter and the last.
    ///
    /// The kernel or the NIC numbers the datagrams of a GSO packet upwards from the first. So the
    /// identifications must be consecutive, unless the datagrams are atomic: then every device must
    /// ignore them (RFC 6864, section 4.1).
    #[inline]
    #[must_use]
    pub fn is_followed_by(&self, next: &Self) -> bool {
        self.source_port == next.source_port
            && self.tos == next.tos
            && self.ttl == next.ttl
            && self.flags == next.flags
            && (self.flags & DONT_FRAGMENT != 0 || self.id.wrapping_add(1) == next.id)
    }

    /// The value of [`Self::udp_sum`] for an intact `payload`.
    #[inline]
    fn computed(&self, payload: &[u8]) -> u32 {
        u32::from(sum_payload(payload))
            + PROTOCOL_UDP
            + 2 * u32::from(self.udp_len)
            + u32::from(self.source_port)
    }
}
