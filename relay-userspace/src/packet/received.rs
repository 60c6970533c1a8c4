//! The fields of a received datagram that its copies keep, and the state of its UDP checksum.
//!
//! Copies get a checksum derived from the received one, not one computed anew over the payload, so
//! that a damaged payload stays detectably damaged. Only a partial checksum is computed.

use relay_common::wire::{
    Addresses, Datagram, Field, IPV4_LEN, IPV6_LEN, UDP_LEN,
    ipv4::{self, field as ip},
    ipv6::field as ipv6,
    udp::field as udp,
};

use super::checksum::{fold, sum_payload, sum_words, word};

/// The protocol number of UDP.
pub(super) const PROTOCOL_UDP: u16 = ipv4::PROTOCOL_UDP as u16;
/// The flag of datagrams that no router may fragment (RFC 791).
const DONT_FRAGMENT: u16 = 0x4000;
/// The version in the first word of an IPv6 header.
const IPV6_VERSION: u16 = 6;
/// Bits for congestion notification in the type of service (RFC 3168).
const ECN_BITS: u32 = 2;
const ECN_MASK: u8 = (1 << ECN_BITS) - 1;
/// The part of the flow label in the first word of an IPv6 header.
const LABEL_MASK: u16 = 0xf;
/// At least the sum of both addresses and a port, and a multiple of 65535, so that subtracting from
/// it is subtracting as checksums do.
const MORE_THAN_ALL: u32 = 0xffff * (ipv6::ADDRESSES.end - ipv6::ADDRESSES.start + 2) as u32 / 2;

/// The fields that all copies of one received datagram have in common.
///
/// What only one version of IP has lies in the same place for both, so that a copy's headers are
/// written without asking for the version: that of the output's template is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    is_ipv6: bool,
    /// IPv4: type of service. IPv6: 0, its traffic class is in [`Self::words`].
    pub(super) tos: u8,
    /// Time to live, or hop limit.
    pub(super) ttl: u8,
    checksum: Checksum,
    /// As they lie in memory. IPv4: identification, then flags and fragment offset. IPv6: the first
    /// two words of the header, which are version, traffic class and flow label.
    pub(super) words: [u16; 2],
    /// As it lies in the header.
    pub(super) source_port: u16,
    /// Length of the UDP payload in bytes.
    payload_len: u16,
    /// IPv4: the sum of `tos` and `words`.
    pub(super) ip_sum: u32,
    /// Of a complete checksum: the sum of everything that it covers and that no output changes.
    kept: u32,
}

/// The headers of a received datagram, as far as they depend on the version of IP.
struct Ip {
    is_ipv6: bool,
    tos: u8,
    ttl: u8,
    words: [u16; 2],
    ip_sum: u32,
    /// Sum of the words of both addresses.
    addresses: u32,
}

impl Ip {
    #[inline(always)]
    fn v4(header: &[u8; IPV4_LEN]) -> Self {
        let (tos, words) = (
            header[ip::TOS],
            [at(header, ip::ID), at(header, ip::FRAGMENT)],
        );
        Self {
            is_ipv6: false,
            tos,
            ttl: header[ip::TTL],
            words,
            ip_sum: ip_sum(tos, words),
            addresses: sum_words(&header[ip::ADDRESSES]),
        }
    }

    #[inline(always)]
    fn v6(header: &[u8; IPV6_LEN]) -> Self {
        let first = ipv6::VERSION_CLASS_AND_LABEL.start;
        Self {
            is_ipv6: true,
            tos: 0,
            ttl: header[ipv6::HOP_LIMIT],
            words: [
                at(header, first..first + 2),
                at(header, first + 2..first + 4),
            ],
            ip_sum: 0,
            addresses: sum_words(&header[ipv6::ADDRESSES]),
        }
    }
}

/// The ports, the length and the checksum of a UDP header, as they lie in memory.
struct Udp {
    source_port: u16,
    destination_port: u16,
    len: u16,
    checksum: u16,
}

impl Udp {
    #[inline(always)]
    fn of(header: &[u8; UDP_LEN]) -> Self {
        Self {
            source_port: at(header, udp::SOURCE_PORT),
            destination_port: at(header, udp::DESTINATION_PORT),
            len: at(header, udp::LEN),
            checksum: at(header, udp::CHECKSUM),
        }
    }
}

/// The sum of the fields of an IPv4 header that copies keep.
#[inline(always)]
fn ip_sum(tos: u8, words: [u16; 2]) -> u32 {
    let [id, flags] = words.map(u32::from);
    word(u16::from(tos)) + id + flags
}

/// What a sum of words grows by where `new` takes the place of `old`.
fn swapped(old: u16, new: u16) -> u32 {
    u32::from(!old) + u32::from(new)
}

/// The 16 bits of `field`, as they lie in memory.
#[inline(always)]
fn at<const LEN: usize>(header: &[u8; LEN], field: Field) -> u16 {
    u16::from_ne_bytes([header[field.start], header[field.start + 1]])
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
    /// The sender sent none, which is legal over IPv4 (RFC 768). Over IPv6 the decoder refuses it.
    Absent,
    /// The sender left it to the hardware, but the frame passed no hardware: a local socket over
    /// veth.
    Partial,
    /// Complete.
    Complete,
    /// Complete, and verified by the kernel or the NIC.
    Right,
}

/// What an output changes in the fields that other copies keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// The source port.
    pub source_port: Option<u16>,
    /// The differentiated services code point.
    pub dscp: Option<u8>,
    /// Its copies leave over the other version of IP.
    pub translates: bool,
}

impl Changes {
    /// Whether there are none.
    #[must_use]
    pub const fn nothing(&self) -> bool {
        self.source_port.is_none() && self.dscp.is_none() && !self.translates
    }
}

impl Received {
    /// Whether it came over IPv6.
    #[inline]
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// The time to live, or hop limit, that it came with.
    #[inline]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.ttl
    }

    /// Reads the fields from the headers of `frame`, which `datagram` was decoded from; `known` is
    /// what the kernel says about its UDP checksum.
    ///
    /// `None` if the frame is shorter than `datagram` says, which a decoded frame never is.
    // Always inlined: a call costs 30 instructions per frame.
    #[inline(always)]
    #[must_use]
    pub fn read(frame: &[u8], datagram: &Datagram, known: Known) -> Option<Self> {
        let headers = frame.get(usize::from(datagram.network)..)?;
        let payload_len = datagram.payload_len;
        match datagram.addresses {
            Addresses::V4 { .. } => {
                let headers = headers.first_chunk::<{ IPV4_LEN + UDP_LEN }>()?;
                let (ip, udp) = headers.split_first_chunk()?;
                let udp = Udp::of(udp.first_chunk()?);
                Some(Self::of(&Ip::v4(ip), &udp, payload_len, known))
            }
            Addresses::V6 { .. } => {
                let headers = headers.first_chunk::<{ IPV6_LEN + UDP_LEN }>()?;
                let (ip, udp) = headers.split_first_chunk()?;
                let udp = Udp::of(udp.first_chunk()?);
                Some(Self::of(&Ip::v6(ip), &udp, payload_len, known))
            }
        }
    }

    #[inline(always)]
    fn of(ip: &Ip, udp: &Udp, payload_len: u16, known: Known) -> Self {
        let pseudo = || fold(ip.addresses + word(PROTOCOL_UDP) + u32::from(udp.len));
        let checksum = match known {
            _ if udp.checksum == 0 => Checksum::Absent,
            Known::Nothing if udp.checksum == pseudo() => Checksum::Partial,
            Known::Partial => Checksum::Partial,
            Known::Nothing | Known::Complete => Checksum::Complete,
            Known::Right => Checksum::Right,
        };
        let changed = ip.addresses + u32::from(udp.destination_port);
        Self {
            is_ipv6: ip.is_ipv6,
            tos: ip.tos,
            ttl: ip.ttl,
            checksum,
            words: ip.words,
            source_port: udp.source_port,
            payload_len,
            ip_sum: ip.ip_sum,
            kept: u32::from(!udp.checksum) + (MORE_THAN_ALL - changed),
        }
    }

    /// Datagram `number`, counted from 0, of the GSO packet whose headers these are, with
    /// `payload_len` bytes of payload. It gets the identification that segmentation would give it
    /// over IPv4, and a partial checksum: the kernel has built or joined the GSO packet itself, so
    /// none of its datagrams has a checksum that could be wrong.
    #[inline]
    #[must_use]
    pub fn part(&self, number: u16, payload_len: u16) -> Self {
        let [first, second] = self.words;
        let number = if self.is_ipv6 { 0 } else { number };
        let words = [u16::from_be(first).wrapping_add(number).to_be(), second];
        Self {
            checksum: match self.checksum {
                Checksum::Absent => Checksum::Absent,
                Checksum::Partial | Checksum::Complete | Checksum::Right => Checksum::Partial,
            },
            words,
            payload_len,
            ip_sum: ip_sum(self.tos, words),
            ..*self
        }
    }

    /// The same with other values.
    ///
    /// A header of the other version of IP has no flow label, or no identification and the flag
    /// that no router may fragment it: such datagrams need none (RFC 6864, section 4.1; RFC 7915,
    /// section 5.1).
    pub(super) fn changed(&self, changes: &Changes) -> Self {
        let mut changed = *self;
        if let Some(port) = changes.source_port {
            changed.source_port = port.to_be();
            changed.kept = self.kept + swapped(self.source_port, changed.source_port);
        }
        if changes.dscp.is_none() && !changes.translates {
            return changed;
        }
        let class = match changes.dscp {
            Some(dscp) => dscp << ECN_BITS | self.class() & ECN_MASK,
            None => self.class(),
        };
        changed.is_ipv6 = self.is_ipv6 != changes.translates;
        if changed.is_ipv6 {
            let [first, second] = self.words;
            let label = if self.is_ipv6 { first } else { 0 };
            let version = IPV6_VERSION << 12 | u16::from(class) << 4;
            let first = (version | u16::from_be(label) & LABEL_MASK).to_be();
            changed.words = [first, if self.is_ipv6 { second } else { 0 }];
            changed.tos = 0;
            changed.ip_sum = 0;
        } else {
            changed.tos = class;
            if self.is_ipv6 {
                changed.words = [0, DONT_FRAGMENT.to_be()];
            }
            changed.ip_sum = ip_sum(changed.tos, changed.words);
        }
        // Over IPv6 there must be one (RFC 8200, section 8.1).
        if changed.is_ipv6 && changed.checksum == Checksum::Absent {
            changed.checksum = Checksum::Partial;
        }
        changed
    }

    /// [`Self::udp_sum`] of what [`Self::changed`] returns, where `sum` is that of this datagram.
    pub(super) fn changed_udp_sum(
        &self,
        changes: &Changes,
        payload: &[u8],
        sum: Option<u32>,
    ) -> Option<u32> {
        match (sum, changes.source_port) {
            (Some(sum), Some(port)) => Some(sum + swapped(self.source_port, port.to_be())),
            (Some(sum), None) => Some(sum),
            (None, _) => self.changed(changes).udp_sum(payload),
        }
    }

    /// The type of service, or the traffic class.
    fn class(&self) -> u8 {
        let [first, _] = self.words;
        if self.is_ipv6 {
            (u16::from_be(first) >> 4) as u8
        } else {
            self.tos
        }
    }

    /// The identification; `None` over IPv6, which has none.
    #[must_use]
    pub const fn id(&self) -> Option<u16> {
        let [id, _] = self.words;
        if self.is_ipv6 {
            return None;
        }
        Some(u16::from_be(id))
    }

    /// The UDP source port.
    #[inline]
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        u16::from_be(self.source_port)
    }

    /// Length of the UDP payload in bytes.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> u16 {
        self.payload_len
    }

    /// Length of the UDP datagram in bytes, its header included.
    #[inline]
    pub(super) const fn udp_len(&self) -> u16 {
        self.payload_len.wrapping_add(UDP_LEN as u16)
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
            Checksum::Complete | Checksum::Right => Some(self.kept),
        }
    }

    /// Whether the checksum is that of the pseudo-header alone.
    #[inline]
    #[must_use]
    pub fn has_partial_checksum(&self) -> bool {
        self.checksum == Checksum::Partial
    }

    /// Whether a checksum computed anew over `payload` would hide no damage: the received one is
    /// right, partial or absent. Reads the payload only if the checksum is complete and neither the
    /// kernel nor the NIC has verified it.
    #[inline]
    #[must_use]
    pub fn checksum_ok(&self, payload: &[u8]) -> bool {
        match self.checksum {
            Checksum::Absent | Checksum::Partial | Checksum::Right => true,
            // Neither sum is 0.
            Checksum::Complete => fold(self.kept) == fold(self.computed(payload)),
        }
    }

    /// Whether it came from the same port.
    #[inline]
    #[must_use]
    pub fn has_port_of(&self, other: &Self) -> bool {
        self.source_port == other.source_port
    }

    /// Whether `next` may leave directly after this datagram in one GSO packet. The caller checks
    /// the payload's length: it must be equal, or shorter and the last.
    ///
    /// Over IPv4, the kernel or the NIC numbers the datagrams of a GSO packet upwards from the
    /// first. So the identifications must be consecutive, unless the datagrams are atomic: then
    /// every device must ignore them (RFC 6864, section 4.1). Over IPv6, all have the first one's
    /// traffic class and flow label.
    #[inline]
    #[must_use]
    pub fn is_followed_by(&self, next: &Self) -> bool {
        self.source_port == next.source_port
            && self.tos == next.tos
            && self.ttl == next.ttl
            && self.words_are_followed_by(next)
    }

    #[inline]
    fn words_are_followed_by(&self, next: &Self) -> bool {
        if self.is_ipv6 {
            return self.words == next.words;
        }
        let ([id, flags], [next_id, next_flags]) = (self.words, next.words);
        let follows = || u16::from_be(id).wrapping_add(1) == u16::from_be(next_id);
        flags == next_flags && (flags & DONT_FRAGMENT.to_be() != 0 || follows())
    }

    /// The value of [`Self::udp_sum`] for an intact `payload`.
    #[inline]
    fn computed(&self, payload: &[u8]) -> u32 {
        u32::from(sum_payload(payload))
            + word(PROTOCOL_UDP)
            + 2 * word(self.udp_len())
            + u32::from(self.source_port)
    }
}
