//! The frames that the benchmarks read, as a NIC or a local socket delivers them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use relay_common::wire::{
    self, Datagram, ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP_LEN, Vlan, ethernet, ipv4, ipv6, udp,
};

/// The source of IPv6 frames.
pub const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2);

/// A version of IP.
#[derive(Debug, Clone, Copy)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// A group that frames arrive for.
    pub fn group(self, number: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(0xef01_0000 | number).into(),
            Self::V6 => {
                let [high, low] = [(number >> 16) as u16, number as u16];
                Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8001 + high, low).into()
            }
        }
    }

    /// The group of an output, and the address that its copies leave with.
    pub fn output(self, number: u8) -> (IpAddr, IpAddr) {
        match self {
            Self::V4 => (
                Ipv4Addr::new(239, 2, 2, number).into(),
                Ipv4Addr::new(10, 2, 0, 1).into(),
            ),
            Self::V6 => (
                Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8002, number.into()).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1).into(),
            ),
        }
    }

    /// Length of the headers in front of the payload of an untagged datagram.
    pub const fn headers_len(self) -> usize {
        match self {
            Self::V4 => wire::IPV4_HEADERS_LEN,
            Self::V6 => wire::IPV6_HEADERS_LEN,
        }
    }
}

/// The UDP checksum of a frame.
#[derive(Debug, Clone, Copy)]
pub enum Checksum {
    /// Complete, as a NIC delivers it.
    Complete,
    /// The folded sum of the pseudo-header, as a local socket sends it over veth.
    Partial,
}

/// A frame for `group`, with `payload` bytes after its headers.
pub fn frame(group: IpAddr, payload: usize, checksum: Checksum) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], relay::plan::of_group(group));
    let (ip, ip_len, addresses) = match group {
        IpAddr::V4(group) => (
            ethernet.ipv4([10, 1, 0, 2], group.octets(), 16),
            IPV4_LEN,
            ipv4::field::ADDRESSES,
        ),
        IpAddr::V6(group) => (
            ethernet.ipv6(SOURCE6.octets(), group.octets(), 16),
            IPV6_LEN,
            ipv6::field::ADDRESSES,
        ),
    };
    ip.udp(40_000, 5001)
        .write(&mut frame, &vec![0x5a; payload])
        .unwrap();
    if let Checksum::Partial = checksum {
        let (ip, udp) = frame[ETHERNET_LEN..].split_at_mut(ip_len);
        let addresses = ip[addresses]
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let udp_len = (UDP_LEN + payload) as u32;
        let sum = addresses.sum::<u32>() + u32::from(ipv4::PROTOCOL_UDP) + udp_len;
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        udp[udp::field::CHECKSUM].copy_from_slice(&folded.to_be_bytes());
    }
    frame
}

/// The same, decoded, for a group of `version`.
pub fn decoded(version: Version, payload: usize, checksum: Checksum) -> (&'static [u8], Datagram) {
    let frame = frame(version.group(1), payload, checksum).leak();
    (frame, wire::decode(frame).unwrap())
}

/// A frame of 1000 bytes, its headers included.
pub fn untagged(version: Version) -> &'static [u8] {
    let (frame, _) = decoded(version, 1000 - version.headers_len(), Checksum::Complete);
    assert_eq!(frame.len(), 1000);
    frame
}

/// The same with an 802.1Q tag.
pub fn tagged() -> &'static [u8] {
    let mut frame = untagged(Version::V4).to_vec();
    let tag = ethernet::field::TYPE.start;
    frame.splice(tag..tag, [0x81, 0x00, 0x00, 0x07]);
    assert_eq!(wire::decode(&frame[..]).unwrap().vlan, Vlan::tag(7));
    frame.leak()
}
