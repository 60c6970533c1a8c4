//! The frames that the benchmarks read, as a NIC or a local socket delivers them.

use etherparse::PacketBuilder;
use relay_common::wire::{
    self, Datagram, ETHERNET_LEN, IPV4_LEN, UDP_LEN, Vlan, ethernet, ipv4, udp,
};

/// The UDP checksum of a frame.
#[derive(Debug, Clone, Copy)]
pub enum Checksum {
    /// Complete, as a NIC delivers it.
    Complete,
    /// The folded sum of the pseudo-header, as a local socket sends it over veth.
    Partial,
}

/// A frame for the group `group`, with `payload` bytes after its headers.
pub fn frame(group: [u8; 4], payload: usize, checksum: Checksum) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1])
        .ipv4([10, 1, 0, 2], group, 16)
        .udp(40_000, 5001)
        .write(&mut frame, &vec![0x5a; payload])
        .unwrap();
    if let Checksum::Partial = checksum {
        let (ip, udp) = frame[ETHERNET_LEN..].split_at_mut(IPV4_LEN);
        let addresses = ip[ipv4::field::ADDRESSES]
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let udp_len = (UDP_LEN + payload) as u32;
        let sum = addresses.sum::<u32>() + u32::from(ipv4::PROTOCOL_UDP) + udp_len;
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        udp[udp::field::CHECKSUM].copy_from_slice(&folded.to_be_bytes());
    }
    frame
}

/// The same, decoded, for 239.1.1.1.
pub fn decoded(payload: usize, checksum: Checksum) -> (&'static [u8], Datagram) {
    let frame = frame([239, 1, 1, 1], payload, checksum).leak();
    (frame, wire::decode(frame).unwrap())
}

/// A frame of 1000 bytes, its headers included.
pub fn untagged() -> &'static [u8] {
    let (frame, _) = decoded(1000 - wire::IPV4_HEADERS_LEN, Checksum::Complete);
    assert_eq!(frame.len(), 1000);
    frame
}

/// The same with an 802.1Q tag.
pub fn tagged() -> &'static [u8] {
    let mut frame = untagged().to_vec();
    let tag = ethernet::field::TYPE.start;
    frame.splice(tag..tag, [0x81, 0x00, 0x00, 0x07]);
    assert_eq!(wire::decode(&frame[..]).unwrap().vlan, Vlan::tag(7));
    frame.leak()
}
