//! What a GSO packet is cut into: one frame for each datagram, as the kernel's segmentation makes
//! them (`__udp_gso_segment`, net/ipv4/udp_offload.c; `inet_gso_segment`, net/ipv4/af_inet.c).
//!
//! For those who look at frames, not for the way of a frame: the kernel or the NIC cuts the packets
//! that leave. Each datagram gets the packet's headers with lengths and checksums of its own, and
//! over IPv4 the packet's identification and its own number on top. A NIC that cuts may number
//! otherwise.

use relay_common::wire::{
    ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN, VLAN_LEN,
    ethernet::{ethertype, field as ethernet},
    ipv4::field as ipv4,
    ipv6::field as ipv6,
    udp::field as udp,
};

use super::{
    checksum::{complete, fold, sum_words, word},
    received::PROTOCOL_UDP,
};

/// The most tags that are looked through.
const TAGS: usize = 3;

/// Where the headers of a UDP datagram lie in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Where the IP header starts.
    network: usize,
    is_ipv6: bool,
}

impl Parts {
    /// Of a frame with at most three tags, without IP options and extension headers: all that the
    /// relay takes and sends. `None` if it is none.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut at = ethernet::SOURCE.end;
        for _ in 0..=TAGS {
            let kind = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
            let network = at.checked_add(2)?;
            match kind {
                ethertype::VLAN | ethertype::QINQ => at = at.checked_add(VLAN_LEN)?,
                ethertype::IPV4 | ethertype::IPV6 => {
                    let parts = Self {
                        network,
                        is_ipv6: kind == ethertype::IPV6,
                    };
                    return (frame.len() >= parts.headers_len()).then_some(parts);
                }
                _ => return None,
            }
        }
        None
    }

    /// Where the UDP header starts.
    const fn udp(self) -> usize {
        self.network + if self.is_ipv6 { IPV6_LEN } else { IPV4_LEN }
    }

    /// Where the payload starts.
    #[must_use]
    pub const fn headers_len(self) -> usize {
        self.udp() + UDP_LEN
    }

    /// The UDP length in the headers of `frame`, less that of the header.
    #[must_use]
    pub fn payload_len(self, frame: &[u8]) -> Option<usize> {
        let len = read(frame, self.udp() + udp::LEN.start)?;
        usize::from(len).checked_sub(UDP_LEN)
    }

    /// Makes the headers of `frame` those of one datagram that ends with it: its lengths, over IPv4
    /// the identification if one is given, and the checksum of the header. A UDP checksum is as it
    /// was.
    pub fn fit(self, frame: &mut [u8], id: Option<u16>) {
        let udp_len = frame.len().saturating_sub(self.udp()) as u16;
        write(frame, self.udp() + udp::LEN.start, udp_len);
        if self.is_ipv6 {
            write(frame, self.network + ipv6::PAYLOAD_LEN.start, udp_len);
            return;
        }
        let ip_len = udp_len.saturating_add(IPV4_LEN as u16);
        write(frame, self.network + ipv4::TOTAL_LEN.start, ip_len);
        if let Some(id) = id {
            write(frame, self.network + ipv4::ID.start, id);
        }
        let Some(header) = frame.get_mut(self.network..self.network + IPV4_LEN) else {
            return;
        };
        write(header, ipv4::CHECKSUM.start, 0);
        let checksum = !fold(sum_words(header));
        if let Some(field) = header.get_mut(ipv4::CHECKSUM) {
            field.copy_from_slice(&checksum.to_ne_bytes());
        }
    }

    /// The identification in the IPv4 header of `frame`.
    fn id(self, frame: &[u8]) -> Option<u16> {
        read(frame, self.network + ipv4::ID.start).filter(|_| !self.is_ipv6)
    }

    /// Computes the UDP checksum of the datagram that ends with `frame`.
    pub fn complete_udp(self, frame: &mut [u8]) {
        let addresses = match self.is_ipv6 {
            true => ipv6::ADDRESSES,
            false => ipv4::ADDRESSES,
        };
        let at = self.network;
        let addresses = frame.get(at + addresses.start..at + addresses.end);
        let addresses = sum_words(addresses.unwrap_or_default());
        let Some(datagram) = frame.get_mut(self.udp()..) else {
            return;
        };
        let pseudo = addresses + word(PROTOCOL_UDP) + word(datagram.len() as u16);
        if let Some(field) = datagram.get_mut(udp::CHECKSUM) {
            field.copy_from_slice(&fold(pseudo).to_ne_bytes());
        }
        complete(datagram, udp::CHECKSUM.start);
    }
}

/// The number at `at`.
fn read(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

/// Writes a number, if there is room.
fn write(frame: &mut [u8], at: usize, number: u16) {
    if let Some(field) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = number.to_be_bytes();
    }
}

/// Room for the headers that [`cut`] keeps while it writes over them.
const ROOM: usize = ETHERNET_LEN + TAGS * VLAN_LEN + IPV6_LEN + UDP_LEN;

/// Cuts a GSO packet into frames with `size` bytes of payload each, of which the last may have
/// fewer, and shows them one after another to `each`. What cannot be cut is shown whole. `packet`
/// is used up.
pub fn cut(packet: &mut [u8], size: usize, mut each: impl FnMut(&[u8])) {
    let parts = Parts::of(packet).filter(|parts| size > 0 && parts.headers_len() <= ROOM);
    let Some(parts) = parts else {
        each(packet);
        return;
    };
    let len = parts.headers_len();
    let mut kept = [0; ROOM];
    for (to, from) in kept.iter_mut().zip(packet.iter().take(len)) {
        *to = *from;
    }
    let first = parts.id(packet);
    let mut start = 0;
    let mut number = 0_u16;
    // Each frame is made where its payload is: its headers take the place of what came before.
    while start + len < packet.len() || number == 0 {
        let end = packet.len().min(start + len + size);
        let Some(frame) = packet.get_mut(start..end) else {
            return;
        };
        for (to, from) in frame.iter_mut().zip(kept.iter().take(len)) {
            *to = *from;
        }
        parts.fit(frame, first.map(|first| first.wrapping_add(number)));
        parts.complete_udp(frame);
        each(frame);
        start += size;
        number = number.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    fn packet(ipv6: bool, tags: usize, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1]);
        let mut bytes = Vec::new();
        if ipv6 {
            let packet = ethernet.ipv6([1; 16], [2; 16], 9).udp(7, 8);
            packet.write(&mut bytes, payload).unwrap();
        } else {
            let packet = ethernet.ipv4([10, 0, 0, 1], [239, 1, 1, 1], 9).udp(7, 8);
            packet.write(&mut bytes, payload).unwrap();
        }
        for tag in 0..tags {
            bytes.splice(12..12, [0x81, 0, 0, tag as u8]);
        }
        bytes
    }

    #[test]
    fn each_frame_has_its_own_lengths_number_and_checksums() {
        let payload: Vec<u8> = (0..2500_u32).map(|n| (n * 7) as u8).collect();
        for (ipv6, tags) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
            let mut whole = packet(ipv6, tags, &payload);
            let parts = Parts::of(&whole).unwrap();
            if !ipv6 {
                write(&mut whole, parts.network + ipv4::ID.start, 0xffff);
            }
            let mut frames = Vec::new();
            cut(&mut whole, 1000, |frame| frames.push(frame.to_vec()));
            assert_eq!(frames.len(), 3);
            let mut seen = Vec::new();
            for (number, frame) in frames.iter().enumerate() {
                let sliced = SlicedPacket::from_ethernet(frame).unwrap();
                let Some(TransportSlice::Udp(udp)) = &sliced.transport else {
                    panic!("no UDP");
                };
                seen.extend_from_slice(udp.payload());
                // All parts are there: a datagram like this has the same bytes.
                let mut expected = packet(ipv6, tags, udp.payload());
                let id = if number == 0 {
                    0xffff
                } else {
                    number as u16 - 1
                };
                if !ipv6 {
                    parts.fit(&mut expected, Some(id));
                }
                assert_eq!(*frame, expected, "{ipv6} {tags} {number}");
            }
            assert_eq!(seen, payload);
        }
    }

    #[test]
    fn what_cannot_be_cut_is_shown_whole_and_nothing_panics() {
        let whole = packet(false, 0, &[1; 100]);
        for len in 0..whole.len() {
            let mut short = whole[..len].to_vec();
            let mut count = 0;
            cut(&mut short, 40, |_| count += 1);
            assert!(count > 0);
        }
        let mut count = 0;
        cut(&mut whole.clone(), 0, |frame| {
            assert_eq!(frame, whole);
            count += 1;
        });
        assert_eq!(count, 1);
    }
}
