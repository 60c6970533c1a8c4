//! Header templates: the headers of an output, and how they are completed for one datagram.
//!
//! Most outputs set all that differs from the received headers once and for all: their copies are
//! written by [`Template::write`] alone. Where a copy keeps something that other copies do not, or
//! changes a field that the others keep, the template is not [plain](Template::is_plain), and is
//! adapted to the datagram first: [`Template::keeping`] gives one template for all datagrams that
//! have the same [`Kept`], and [`Template::received`] the fields as this output has them. So
//! what few outputs need costs the others nothing.
//!
//! Datagrams that differ only in payload and identification may also leave as one GSO packet: one
//! large packet that the kernel or the NIC cuts into datagrams, whose checksums it computes
//! ([`Template::write_joined`]). That would hide damage, so only payloads whose checksum is right
//! may be joined ([`Received::checksum_ok`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use relay_common::wire::{
    ETHERNET_LEN, IPV6_HEADERS_LEN, UDP_LEN, VLAN_LEN, ethernet::field as ethernet,
};

use super::{
    checksum::{fold, nonzero, word},
    headers::{Completed, Headers, Macs},
    kept::{Keeps, Kept, first_port},
    patch::Patched,
    received::{Changes, PROTOCOL_UDP, Received},
    tags::Tags,
    ttl::TtlRule,
};
use crate::config::rules::{Header, Match, PortMatch, Prefix, Ttl};

/// Room for the longest headers: IPv6 behind two tags, in whole words of 64 bits.
pub const HEADERS_ROOM: usize = (IPV6_HEADERS_LEN + 2 * VLAN_LEN).next_multiple_of(8);
/// Where the Ethernet addresses end.
const MACS_END: usize = ethernet::SOURCE.end;

/// The headers of one output, complete except for the fields that change from frame to frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    headers: Headers,
    tags: Tags,
    len: u8,
    is_plain: bool,
    ttl_rule: TtlRule,
    keeps: Keeps,
    changes: Changes,
    /// Sum of the words that the UDP checksum covers and that this output rewrites: both addresses
    /// and the destination port.
    udp_sum: u32,
    port: u16,
    ttl: Ttl,
    is_resolved: bool,
}

/// What an output sends, and what it makes that of.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// IP source; `None` keeps the datagram's.
    pub source: Option<IpAddr>,
    /// IP destination, or the prefix that its host part is kept on.
    pub group: Prefix,
    /// UDP destination port, or ports as many as the input's.
    pub port: PortMatch,
    /// The other fields.
    pub header: &'a Header,
    /// What datagrams it gets.
    pub input: &'a Match,
}

impl Template {
    /// The template for `target`; `None` if its addresses are of different versions of IP.
    #[must_use]
    pub fn new(target: &Target<'_>) -> Option<Self> {
        let macs = Macs {
            source: target.source_mac,
            destination: target.destination_mac,
        };
        let port = first_port(target.port);
        let tags = Tags::new(target.header, target.input.vlan);
        let group = target.group.address();
        let translates = group.is_ipv4() != target.input.group.address().is_ipv4();
        let source = match (target.source, group) {
            (Some(source), _) => source,
            (None, _) if translates => return None,
            (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (None, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let headers = Headers::new(macs, source, group, port)?;
        let keeps = Keeps {
            source: target.source.is_none(),
            tags: tags.keeps_any(),
            ..Keeps::places(&target.group, target.port)
        };
        let changes = Changes {
            source_port: target.header.source_port,
            dscp: target.header.dscp,
            translates,
        };
        let len = tags.len() + headers.len();
        Some(Self {
            udp_sum: headers.addresses() + word(port),
            len: len as u8,
            headers,
            tags,
            is_plain: keeps.nothing() && changes.nothing(),
            ttl_rule: TtlRule::new(target.header.ttl),
            keeps,
            changes,
            port,
            ttl: target.header.ttl,
            is_resolved: true,
        })
    }

    /// What its copies keep that others do not.
    #[must_use]
    pub const fn keeps(&self) -> Keeps {
        self.keeps
    }

    /// Whether [`Self::write`] alone writes its copies, from what the datagram came with. Otherwise
    /// [`Self::keeping`] and [`Self::received`] come first.
    #[inline]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The template for the copies of datagrams that have `kept` in common: it keeps nothing.
    #[must_use]
    pub fn keeping(&self, kept: &Kept) -> Self {
        let mut adapted = self.clone();
        adapted.keeps = Keeps::default();
        if self.keeps.nothing() {
            return adapted;
        }
        let place = self.keeps.places_of(kept.offset);
        adapted.port = self.port.wrapping_add(place.port);
        let source = if self.keeps.source { kept.source } else { 0 };
        adapted.headers.move_to(source, place.host, adapted.port);
        adapted.udp_sum = adapted.headers.addresses() + word(adapted.port);
        if self.keeps.tags {
            adapted.tags = self.tags.with(kept.tags);
        }
        adapted
    }

    /// The fields of a datagram as copies of this output have them.
    #[must_use]
    pub fn received(&self, received: &Received) -> Received {
        received.changed(&self.changes)
    }

    /// [`Received::udp_sum`] of what [`Self::received`] returns, where `sum` is that of `received`.
    #[must_use]
    pub fn udp_sum(&self, received: &Received, payload: &[u8], sum: Option<u32>) -> Option<u32> {
        received.changed_udp_sum(&self.changes, payload, sum)
    }

    /// Sets the Ethernet destination. Without one, nothing leaves: [`Self::ttl`] is `None` for
    /// every datagram.
    pub fn set_destination_mac(&mut self, mac: Option<[u8; 6]>) {
        self.is_resolved = mac.is_some();
        self.ttl_rule = match mac {
            Some(_) => TtlRule::new(self.ttl),
            None => TtlRule::NOTHING_LEAVES,
        };
        self.headers.set_destination_mac(mac.unwrap_or_default());
    }

    /// Whether it has an Ethernet destination.
    #[must_use]
    pub const fn is_resolved(&self) -> bool {
        self.is_resolved
    }

    /// The part of [`Self::udp_sum`] that is not the port.
    #[inline]
    fn addresses(&self) -> u32 {
        self.udp_sum - word(self.port)
    }

    /// Length of the headers that it writes, at most [`HEADERS_ROOM`].
    #[inline]
    #[must_use]
    pub const fn headers_len(&self) -> usize {
        self.len as usize
    }

    /// How many tags it writes.
    #[must_use]
    pub fn tags(&self) -> usize {
        self.tags.len() / VLAN_LEN
    }

    /// The longest payload of a copy, in bytes, that an interface with this MTU takes.
    #[must_use]
    pub fn max_payload(&self, mtu: u32) -> u16 {
        let beside_mtu = self.tags.len() - self.tags.len_in_mtu();
        let headers = (self.headers_len() - ETHERNET_LEN - beside_mtu) as u32;
        u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
    }

    /// The time to live that a copy of `received` leaves with; `None` if it must not leave.
    #[inline]
    #[must_use]
    pub fn ttl(&self, received: &Received) -> Option<u8> {
        self.ttl_rule.after(received.ttl)
    }

    /// The same for a datagram that came with this time to live.
    #[inline]
    #[must_use]
    pub fn ttl_after(&self, came: u8) -> Option<u8> {
        self.ttl_rule.after(came)
    }

    /// Writes the headers of this output's copy of `received`, which is of the same version of IP,
    /// to the first bytes of `to`, and returns how many these are: [`Self::headers_len`], or 0
    /// where `to` is shorter. The payload must follow them, and `udp_sum` must be
    /// [`Received::udp_sum`] of that payload.
    #[inline]
    pub fn write(
        &self,
        to: &mut [u8],
        received: &Received,
        ttl: u8,
        udp_sum: Option<u32>,
    ) -> usize {
        self.write_with(to, received, self.completed(received, ttl, udp_sum))
    }

    /// [`Self::write`], always inlined. The compiler would make a call of it on the way to a TX
    /// ring, which costs 16 instructions per copy; forced elsewhere it costs 11.
    #[inline(always)]
    pub fn write_in_place(
        &self,
        to: &mut [u8],
        received: &Received,
        ttl: u8,
        udp_sum: Option<u32>,
    ) -> usize {
        self.write_with(to, received, self.completed(received, ttl, udp_sum))
    }

    #[inline(always)]
    fn completed(&self, received: &Received, ttl: u8, udp_sum: Option<u32>) -> Completed {
        let checksum = match udp_sum {
            Some(kept) => nonzero(!fold(kept + self.udp_sum)),
            None => 0,
        };
        Completed {
            ttl,
            udp_len: received.udp_len(),
            checksum,
        }
    }

    /// What writes the headers of copies of many datagrams that leave with this time to live.
    /// `None` where each needs more than that: the template is not plain, or writes tags.
    #[must_use]
    pub fn patched(&self, ttl: u8) -> Option<Patched> {
        let is_simple = self.is_plain && self.tags.is_empty();
        is_simple.then(|| Patched::new(&self.headers, self.udp_sum, ttl))
    }

    /// Writes the headers of a GSO packet of this output's copies of `received` and the datagrams
    /// that [follow](Received::is_followed_by) it, with `payload_len` bytes of payload in all.
    /// Otherwise as [`Self::write`].
    ///
    /// Its UDP checksum is the folded sum of the pseudo-header, not complemented; the kernel or the
    /// NIC completes it (Linux `CHECKSUM_PARTIAL`, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    // Always inlined: a call costs 4 to 7 instructions per message.
    #[inline(always)]
    pub fn write_joined(
        &self,
        to: &mut [u8],
        received: &Received,
        ttl: u8,
        payload_len: u16,
    ) -> usize {
        let udp_len = payload_len + UDP_LEN as u16;
        let checksum = fold(self.addresses() + word(PROTOCOL_UDP) + word(udp_len));
        let completed = Completed {
            ttl,
            udp_len,
            checksum,
        };
        self.write_with(to, received, completed)
    }

    #[inline(always)]
    fn write_with(&self, to: &mut [u8], received: &Received, completed: Completed) -> usize {
        if !self.tags.is_empty() {
            return self.write_tagged(to, received, completed);
        }
        self.headers.write(to, received, completed)
    }

    /// Writes headers with tags: those without them where they end, then the Ethernet addresses
    /// once more in front, and the tags between.
    #[cold]
    #[inline(never)]
    fn write_tagged(&self, to: &mut [u8], received: &Received, completed: Completed) -> usize {
        let len = self.tags.len();
        let Some(untagged) = to.get_mut(len..) else {
            return 0;
        };
        let written = self.headers.write(untagged, received, completed);
        if written < ETHERNET_LEN {
            return 0;
        }
        to.copy_within(len..len + MACS_END, 0);
        if let Some(place) = to.get_mut(MACS_END..MACS_END + len) {
            place.copy_from_slice(self.tags.bytes());
        }
        len + written
    }
}
