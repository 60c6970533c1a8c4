//! Header templates and checksums: how a received datagram becomes an output's datagram.
//!
//! Pure arithmetic on bytes, shared by every backend. A [`Template`] is built once an output; for each
//! frame a [`Received`] is read once, and then each output costs one header write and two folds. The
//! UDP checksum is derived from the one that came in, so a payload damaged upstream stays
//! detectably damaged.
//!
//! Datagrams that differ only in payload and identification may also leave as one super-frame, which the
//! kernel or the NIC cuts apart and computes the checksums of ([`Template::write_joined`]). That would hide
//! damage, so only payloads whose checksum was found right may be joined ([`Received::vouches_for`]).

use std::net::Ipv4Addr;

use relay_common::wire::{
    Datagram, ETHERNET_LEN, IPV4_HEADERS_LEN, IPV4_LEN, UDP_LEN,
    field::{ipv4, udp},
};

use crate::rules::Ttl;

const PROTOCOL_UDP: u32 = 17;
/// The flag of datagrams that no router may fragment (RFC 791).
const DONT_FRAGMENT: u16 = 0x4000;

/// Where the IPv4 header starts in what leaves.
const IP: usize = ETHERNET_LEN;
/// Where the UDP header starts in what leaves.
const UDP: usize = ETHERNET_LEN + IPV4_LEN;

/// The headers of one output, complete but for the fields that change from frame to frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    header: [u8; IPV4_HEADERS_LEN],
    ttl: Ttl,
    /// Sum of the words of the IPv4 header that are the same in every frame.
    ip_sum: u32,
    /// Sum of the words that the UDP checksum covers and that this output rewrites: both addresses
    /// and the destination port.
    udp_sum: u32,
    port: u16,
}

/// What an output is rewritten to.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// IPv4 source.
    pub source: Ipv4Addr,
    /// IPv4 destination.
    pub destination: Ipv4Addr,
    /// UDP destination port.
    pub port: u16,
    /// Time to live.
    pub ttl: Ttl,
}

impl Template {
    /// The template for `target`.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let mut header = [0; IPV4_HEADERS_LEN];
        header[0..6].copy_from_slice(&target.destination_mac);
        header[6..12].copy_from_slice(&target.source_mac);
        header[12..14].copy_from_slice(&[0x08, 0x00]);
        header[IP] = 0x45;
        header[IP + 9] = 17;
        header[IP + ipv4::SOURCE..][..4].copy_from_slice(&target.source.octets());
        header[IP + ipv4::DESTINATION..][..4].copy_from_slice(&target.destination.octets());
        header[UDP + udp::DESTINATION..][..2].copy_from_slice(&target.port.to_be_bytes());
        let addresses = sum_words(&header[IP + ipv4::SOURCE..UDP]);
        Self {
            header,
            ttl: target.ttl,
            ip_sum: addresses + 0x4500 + PROTOCOL_UDP,
            udp_sum: addresses + u32::from(target.port),
            port: target.port,
        }
    }

    /// The time to live that a copy of `received` leaves with, `None` when it may not leave.
    #[inline]
    #[must_use]
    pub fn ttl(&self, received: &Received) -> Option<u8> {
        match self.ttl {
            Ttl::Set(ttl) => Some(ttl),
            Ttl::Decrement => received.ttl.checked_sub(1).filter(|&left| left > 0),
        }
    }

    /// Writes the headers of this output's copy of `received`. What follows them must be its payload, and
    /// `udp_sum` what [`Received::udp_sum`] says for it.
    #[inline]
    pub fn write(
        &self,
        header: &mut [u8; IPV4_HEADERS_LEN],
        received: &Received,
        ttl: u8,
        udp_sum: Option<u32>,
    ) {
        let checksum = match udp_sum {
            Some(kept) => nonzero(!fold(kept + self.udp_sum)),
            None => 0,
        };
        self.write_with(header, received, ttl, received.udp_len, checksum);
    }

    /// Writes the headers of a super-frame of this output's copies of `received` and datagrams that
    /// [follow](Received::is_followed_by) it, with `payload_len` bytes of payload in all.
    ///
    /// Its UDP checksum is the folded sum of the pseudo-header, not complemented, as whoever completes it
    /// expects (Linux `CHECKSUM_PARTIAL`, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    #[inline]
    pub fn write_joined(
        &self,
        header: &mut [u8; IPV4_HEADERS_LEN],
        received: &Received,
        ttl: u8,
        payload_len: u16,
    ) {
        let udp_len = payload_len + UDP_LEN as u16;
        let addresses = self.udp_sum - u32::from(self.port);
        let checksum = fold(addresses + PROTOCOL_UDP + u32::from(udp_len));
        self.write_with(header, received, ttl, udp_len, checksum);
    }

    #[inline]
    fn write_with(
        &self,
        header: &mut [u8; IPV4_HEADERS_LEN],
        received: &Received,
        ttl: u8,
        udp_len: u16,
        checksum: u16,
    ) {
        *header = self.header;
        let total_len = udp_len + IPV4_LEN as u16;
        header[IP + ipv4::TOS] = received.tos;
        put(header, IP + ipv4::TOTAL_LEN, total_len);
        put(header, IP + ipv4::ID, received.id);
        put(header, IP + ipv4::FRAGMENT, received.flags);
        header[IP + ipv4::TTL] = ttl;
        let ip_sum = self.ip_sum
            + u32::from(received.tos)
            + u32::from(total_len)
            + u32::from(received.id)
            + u32::from(received.flags)
            + (u32::from(ttl) << 8);
        put(header, IP + ipv4::CHECKSUM, !fold(ip_sum));
        put(header, UDP + udp::SOURCE, received.source_port);
        put(header, UDP + udp::LEN, udp_len);
        put(header, UDP + udp::CHECKSUM, checksum);
    }
}

/// What the outputs of one received datagram have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    tos: u8,
    ttl: u8,
    id: u16,
    flags: u16,
    source_port: u16,
    udp_len: u16,
    checksum: Checksum,
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
}

impl Received {
    /// Reads what the outputs need from the headers of the frame that `datagram` was decoded from.
    ///
    /// A partial checksum is known by its value: the folded sum of the pseudo-header, not complemented
    /// (Linux `CHECKSUM_PARTIAL`). A complete checksum that has this value by chance, 1 in 65535, is computed
    /// anew, which gives the same value for an intact payload.
    ///
    /// `None` when the frame is not as long as `datagram` says, which a decoded one never is.
    #[inline]
    #[must_use]
    pub fn read(frame: &[u8], datagram: &Datagram) -> Option<Self> {
        Self::read_told(frame, datagram, None)
    }

    /// The same where the kernel may have told whether the checksum is partial, so that its value need not.
    #[inline]
    #[must_use]
    pub fn read_told(frame: &[u8], datagram: &Datagram, partial: Option<bool>) -> Option<Self> {
        let headers = frame
            .get(usize::from(datagram.network)..)?
            .first_chunk::<{ IPV4_LEN + UDP_LEN }>()?;
        let field = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
        let udp_len = field(IPV4_LEN + udp::LEN);
        let addresses = sum_words(&headers[ipv4::SOURCE..IPV4_LEN]);
        let checksum = match field(IPV4_LEN + udp::CHECKSUM) {
            0 => Checksum::Absent,
            value
                if partial.unwrap_or_else(|| {
                    value == fold(addresses + PROTOCOL_UDP + u32::from(udp_len))
                }) =>
            {
                Checksum::Partial
            }
            complete => {
                let old = addresses + u32::from(datagram.port);
                Checksum::Complete {
                    kept: fold(u32::from(!complete) + u32::from(!fold(old))),
                }
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
                Checksum::Partial | Checksum::Complete { .. } => Checksum::Partial,
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
            Checksum::Complete { kept } => Some(u32::from(kept)),
        }
    }

    /// Whether a checksum computed anew over `payload` says nothing that the received one did not: it is right,
    /// or there was none to be wrong. Reads the payload only where the checksum is complete.
    #[inline]
    #[must_use]
    pub fn vouches_for(&self, payload: &[u8]) -> bool {
        match self.checksum {
            Checksum::Absent | Checksum::Partial => true,
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

#[inline]
fn put(header: &mut [u8; IPV4_HEADERS_LEN], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A computed UDP checksum of 0 is sent as `0xffff`, because 0 means none (RFC 768).
#[inline]
fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The one's complement sum of up to a few dozen big-endian words, not folded.
#[inline]
fn sum_words(bytes: &[u8]) -> u32 {
    bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

/// The folded one's complement sum of a payload; an odd last byte is padded with zero (RFC 1071).
#[inline]
fn sum_payload(bytes: &[u8]) -> u16 {
    // Sums in native order, eight bytes at a time, and swaps once at the end (RFC 1071, section 2 B).
    let mut chunks = bytes.chunks_exact(8);
    let mut sum: u64 = 0;
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        let word = u64::from_ne_bytes(word);
        sum += (word & 0xffff_ffff) + (word >> 32);
    }
    let mut rest = [0; 8];
    rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    let word = u64::from_ne_bytes(rest);
    sum += (word & 0xffff_ffff) + (word >> 32);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::from_be(sum as u16)
}

/// Folds the carries of a one's complement sum (RFC 1071).
#[inline]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4Slice, PacketBuilder, UdpHeaderSlice};
    use relay_common::wire;

    use super::*;

    fn target(ttl: Ttl) -> Target {
        let destination = Ipv4Addr::new(239, 130, 2, 2);
        Target {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: crate::plan::of_group(destination),
            source: Ipv4Addr::new(10, 2, 0, 1),
            destination,
            port: 5002,
            ttl,
        }
    }

    /// A frame with a complete checksum, as a NIC delivers it.
    fn frame(payload: &[u8], ttl: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1])
            .ipv4([10, 1, 0, 2], [239, 1, 1, 1], ttl)
            .udp(40_000, 5001)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    /// Rewrites in place, as the forwarding loop does.
    fn rewrite(frame: &mut [u8], ttl: Ttl) -> Option<()> {
        let datagram = wire::decode(&*frame).unwrap();
        let received = Received::read(frame, &datagram).unwrap();
        let template = Template::new(&target(ttl));
        let ttl = template.ttl(&received)?;
        let udp_sum = received.udp_sum(&frame[datagram.payload()..datagram.end()]);
        template.write(frame.first_chunk_mut().unwrap(), &received, ttl, udp_sum);
        Some(())
    }

    /// Whether an independent implementation finds the UDP checksum right.
    fn checksum_is_right(frame: &[u8]) -> bool {
        let ip = Ipv4Slice::from_slice(&frame[14..]).unwrap();
        let udp = UdpHeaderSlice::from_slice(ip.payload().payload).unwrap();
        let payload = &ip.payload().payload[8..];
        let expected = udp
            .to_header()
            .calc_checksum_ipv4(&ip.header().to_header(), payload)
            .unwrap();
        expected == udp.checksum()
    }

    fn payloads() -> impl Iterator<Item = Vec<u8>> {
        [0, 1, 2, 7, 8, 9, 18, 46, 64, 999, 1472]
            .into_iter()
            .flat_map(|len| {
                [
                    vec![0; len],
                    vec![0xff; len],
                    (0..len).map(|i| (i * 37 + 11) as u8).collect(),
                ]
            })
    }

    #[test]
    fn a_complete_checksum_stays_right_for_every_payload() {
        for payload in payloads() {
            let mut frame = frame(&payload, 1);
            assert!(checksum_is_right(&frame));
            rewrite(&mut frame, Ttl::DEFAULT).unwrap();
            assert!(checksum_is_right(&frame), "{} bytes", payload.len());
            let ip = Ipv4Slice::from_slice(&frame[14..]).unwrap();
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            assert_eq!(header.destination, [239, 130, 2, 2]);
            assert_eq!(header.source, [10, 2, 0, 1]);
            assert_eq!(header.time_to_live, 64);
            assert_eq!(&frame[..6], &[1, 0, 0x5e, 2, 2, 2]);
            assert_eq!(&frame[42..], payload);
        }
    }

    #[test]
    fn a_partial_checksum_is_completed_for_every_payload() {
        for payload in payloads() {
            let mut frame = frame(&payload, 1);
            let pseudo = sum_words(&frame[26..34]) + 17 + payload.len() as u32 + 8;
            put(frame.first_chunk_mut().unwrap(), 40, fold(pseudo));
            rewrite(&mut frame, Ttl::DEFAULT).unwrap();
            assert!(checksum_is_right(&frame), "{} bytes", payload.len());
        }
    }

    #[test]
    fn each_datagram_of_a_super_frame_leaves_as_if_it_had_come_alone() {
        let payload: Vec<u8> = (0..700 * 3 + 13).map(|i| (i * 31) as u8).collect();
        let mut whole = frame(&payload, 9);
        put(whole.first_chunk_mut().unwrap(), 18, 0xffff); // identifications wrap
        let ip_sum = sum_words(&whole[14..24]) + sum_words(&whole[26..34]);
        put(whole.first_chunk_mut().unwrap(), 24, !fold(ip_sum));
        let datagram = wire::decode(&whole[..]).unwrap();
        let super_frame = Received::read_told(&whole, &datagram, Some(true)).unwrap();
        let template = Template::new(&target(Ttl::Decrement));
        let mut last: Option<Received> = None;
        for (number, payload) in (0u16..).zip(payload.chunks(700)) {
            let part = super_frame.part(number, payload.len() as u16);
            let mut frame = vec![0; 42];
            let header = frame.first_chunk_mut().unwrap();
            template.write(header, &part, 8, part.udp_sum(payload));
            frame.extend(payload);
            assert!(checksum_is_right(&frame), "{number}");
            let ip = Ipv4Slice::from_slice(&frame[14..])
                .unwrap()
                .header()
                .to_header();
            assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
            assert_eq!(ip.identification, 0xffffu16.wrapping_add(number));
            assert_eq!(usize::from(ip.total_len), 28 + payload.len());
            assert!(part.vouches_for(payload));
            assert!(last.is_none_or(|last| last.is_followed_by(&part)));
            last = Some(part);
        }
    }

    #[test]
    fn what_the_kernel_tells_of_a_checksum_wins_over_its_value() {
        let mut frame = frame(b"payload", 1);
        let pseudo = fold(sum_words(&frame[26..34]) + 17 + 7 + 8);
        put(frame.first_chunk_mut().unwrap(), 40, pseudo);
        let datagram = wire::decode(&frame[..]).unwrap();
        let read = |told| Received::read_told(&frame, &datagram, told).unwrap();
        assert!(read(None).vouches_for(b"payload"), "partial by its value");
        assert!(read(Some(true)).vouches_for(b"payload"));
        assert!(
            !read(Some(false)).vouches_for(b"payload"),
            "complete, and wrong"
        );
    }

    #[test]
    fn a_missing_checksum_stays_missing() {
        let mut frame = frame(b"payload", 1);
        frame[40..42].fill(0);
        rewrite(&mut frame, Ttl::DEFAULT).unwrap();
        assert_eq!(frame[40..42], [0, 0]);
    }

    #[test]
    fn a_payload_damaged_on_the_way_in_is_still_damaged_on_the_way_out() {
        for at in 0..7 {
            for bit in 0..8 {
                let mut frame = frame(b"payload", 1);
                frame[42 + at] ^= 1 << bit;
                rewrite(&mut frame, Ttl::DEFAULT).unwrap();
                assert!(!checksum_is_right(&frame), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn identification_flags_service_and_source_port_are_kept() {
        let mut frame = frame(b"payload", 9);
        frame[15] = 0xb8;
        frame[18..20].copy_from_slice(&[0xbe, 0xef]);
        frame[20] = 0x40;
        frame[24..26].fill(0);
        let sum = !fold(sum_words(&frame[14..34]));
        put(frame.first_chunk_mut().unwrap(), 24, sum);
        rewrite(&mut frame, Ttl::Decrement).unwrap();
        assert_eq!(frame[15], 0xb8);
        assert_eq!(frame[18..21], [0xbe, 0xef, 0x40]);
        assert_eq!(frame[22], 8);
        assert_eq!(frame[34..36], 40_000u16.to_be_bytes());
        assert_eq!(fold(sum_words(&frame[14..34])), 0xffff);
    }

    #[test]
    fn a_decremented_ttl_of_one_or_zero_does_not_leave() {
        assert!(rewrite(&mut frame(b"payload", 2), Ttl::Decrement).is_some());
        assert!(rewrite(&mut frame(b"payload", 1), Ttl::Decrement).is_none());
        assert!(rewrite(&mut frame(b"payload", 0), Ttl::Decrement).is_none());
    }

    fn received(frame: &[u8]) -> Received {
        Received::read(frame, &wire::decode(frame).unwrap()).unwrap()
    }

    #[test]
    fn a_complete_checksum_vouches_for_its_payload_and_for_no_other() {
        for payload in payloads() {
            let frame = frame(&payload, 1);
            let received = received(&frame);
            assert!(received.vouches_for(&payload), "{} bytes", payload.len());
            for at in 0..payload.len() {
                let mut damaged = payload.clone();
                damaged[at] ^= 1;
                assert!(!received.vouches_for(&damaged), "byte {at}");
            }
        }
    }

    #[test]
    fn a_datagram_follows_the_one_before_it_and_no_other() {
        let frame = |change: fn(&mut [u8])| {
            let mut frame = frame(b"payload", 9);
            frame[18..22].copy_from_slice(&[0xff, 0xff, 0, 0]);
            change(&mut frame);
            frame[24..26].fill(0);
            let sum = !fold(sum_words(&frame[14..34]));
            put(frame.first_chunk_mut().unwrap(), 24, sum);
            received(&frame)
        };
        let first = frame(|_| ());
        let next = |change: fn(&mut [u8])| first.is_followed_by(&frame(change));
        assert!(next(|frame| frame[18..20].fill(0)));
        assert!(!next(|_| ()), "the same identification");
        assert!(!next(|frame| frame[18..20].copy_from_slice(&[0, 1])));
        assert!(!next(|frame| {
            frame[18..20].fill(0);
            frame[15] = 0xb8;
        }));
        assert!(!next(|frame| {
            frame[18..20].fill(0);
            frame[22] = 8;
        }));
        assert!(!next(|frame| {
            frame[18..20].fill(0);
            frame[20] = 0x40;
        }));
        assert!(!next(|frame| {
            frame[18..20].fill(0);
            frame[35] ^= 1;
        }));
        let atomic = frame(|frame| frame[20] = 0x40);
        assert!(atomic.is_followed_by(&atomic));
    }

    #[test]
    fn a_super_frame_has_the_length_of_all_and_the_sum_of_its_pseudo_header() {
        let received = received(&frame(b"payload", 1));
        let template = Template::new(&target(Ttl::DEFAULT));
        let mut header = [0; IPV4_HEADERS_LEN];
        template.write_joined(&mut header, &received, 64, 3000);
        let (ip, rest) = etherparse::Ipv4Header::from_slice(&header[14..]).unwrap();
        assert_eq!(ip.total_len, 3028);
        assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
        let udp = UdpHeaderSlice::from_slice(rest).unwrap();
        assert_eq!(udp.length(), 3008);
        assert_eq!(udp.destination_port(), 5002);
        let pseudo = sum_words(&header[26..34]) + 17 + 3008;
        assert_eq!(udp.checksum(), fold(pseudo));
    }
}
