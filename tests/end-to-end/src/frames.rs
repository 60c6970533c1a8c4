//! Raw Ethernet frames for everything that no UDP socket would send.
//!
//! Built with etherparse, which shares nothing with the relay's own decoder.

use std::{net::Ipv4Addr, ops::Range};

use anyhow::{Context, Result};
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, PacketBuilder,
    SingleVlanHeader, UdpHeader, VlanId,
};

use crate::veth::Endpoint;

/// Length of an Ethernet header without a tag.
pub const ETHERNET_LEN: usize = Ethernet2Header::LEN;
/// The shortest tagged frame that the kernel shows to a socket: it drops a frame that has fewer
/// than 2 bytes behind the tag (`skb_vlan_untag`, net/core/skbuff.c).
pub const SHORTEST_TAGGED: usize = Ethernet2Header::LEN + SingleVlanHeader::LEN + 2;

/// The checksum of an IGMPv2 message (RFC 2236).
const IGMP_CHECKSUM: Range<usize> = 2..4;

/// What stands in the UDP checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The right one.
    Complete,
    /// 0: none, legal over IPv4.
    Zero,
    /// One that does not fit the payload.
    Wrong,
    /// One that does not fit the payload, and is what a partial one would be: the sum of the
    /// pseudo-header.
    LikePartial,
}

/// A UDP datagram to a multicast group as one frame, with everything that a test may want odd.
#[derive(Debug, Clone)]
pub struct UdpFrame {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// 802.1Q tag.
    pub vlan: Option<u16>,
    /// IP source.
    pub source: Ipv4Addr,
    /// IP destination; the Ethernet destination follows from it (RFC 1112, section 6.4).
    pub group: Ipv4Addr,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub port: u16,
    /// Time to live.
    pub ttl: u8,
    /// IP identification.
    pub identification: u16,
    /// No router may fragment it.
    pub dont_fragment: bool,
    /// IP options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Fragment offset in units of eight bytes, and whether more fragments follow.
    pub fragment: (u16, bool),
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// The UDP checksum.
    pub checksum: Checksum,
}

/// The Ethernet address of an IPv4 group.
pub fn group_mac(group: Ipv4Addr) -> [u8; 6] {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

/// Whether the frame's bytes begin with a header that announces an 802.1Q tag.
pub fn is_tagged(frame: &[u8]) -> bool {
    Ethernet2Header::from_slice(frame).is_ok_and(|(header, _)| {
        [EtherType::VLAN_TAGGED_FRAME, EtherType::PROVIDER_BRIDGING].contains(&header.ether_type)
    })
}

impl UdpFrame {
    /// An ordinary datagram of a host to `group`:`port`.
    pub fn new(from: &Endpoint, group: Ipv4Addr, port: u16, payload: Vec<u8>) -> Self {
        Self {
            source_mac: from.mac,
            vlan: None,
            source: from.address,
            group,
            source_port: 40_000,
            port,
            ttl: 8,
            identification: 1,
            dont_fragment: true,
            options: Vec::new(),
            fragment: (0, false),
            payload,
            checksum: Checksum::Complete,
        }
    }

    /// The frame's bytes.
    pub fn build(&self) -> Result<Vec<u8>> {
        let udp_length = UdpHeader::LEN + self.payload.len();
        let mut ip = Ipv4Header::new(
            udp_length as u16,
            self.ttl,
            IpNumber::UDP,
            self.source.octets(),
            self.group.octets(),
        )
        .context("IPv4 payload length")?;
        ip.identification = self.identification;
        ip.dont_fragment = self.dont_fragment;
        ip.fragment_offset = IpFragOffset::try_new(self.fragment.0).context("fragment offset")?;
        ip.more_fragments = self.fragment.1;
        ip.options = self.options.as_slice().try_into().context("IPv4 options")?;
        ip.header_checksum = ip.calc_header_checksum();
        let mut udp =
            UdpHeader::with_ipv4_checksum(self.source_port, self.port, &ip, &self.payload)
                .context("UDP length")?;
        match self.checksum {
            Checksum::Complete => {}
            Checksum::Zero => udp.checksum = 0,
            // Never 0 and never right: 0 is only reached from 0xffff, 1 from 0xfffe.
            Checksum::Wrong => {
                udp.checksum = if udp.checksum >= 0xfffe {
                    0x1234
                } else {
                    udp.checksum + 1
                }
            }
            Checksum::LikePartial => {
                let mut words = [self.source.octets(), self.group.octets()].concat();
                words.extend([0, 17]);
                words.extend((udp_length as u16).to_be_bytes());
                let words = words.chunks(2);
                let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
                udp.checksum = ((sum & 0xffff) + (sum >> 16)) as u16;
            }
        }
        let mut frame = Vec::with_capacity(64 + self.payload.len());
        let ether_type = if self.vlan.is_some() {
            EtherType::VLAN_TAGGED_FRAME
        } else {
            EtherType::IPV4
        };
        Ethernet2Header {
            source: self.source_mac,
            destination: group_mac(self.group),
            ether_type,
        }
        .write(&mut frame)?;
        if let Some(vlan) = self.vlan {
            let tag = SingleVlanHeader {
                vlan_id: VlanId::try_new(vlan).context("VLAN id")?,
                ether_type: EtherType::IPV4,
                ..Default::default()
            };
            tag.write(&mut frame)?;
        }
        ip.write_raw(&mut frame)?;
        udp.write(&mut frame)?;
        frame.extend_from_slice(&self.payload);
        Ok(frame)
    }
}

/// An ICMP echo request, a ping.
pub fn icmp_echo(from: &Endpoint, to: &Endpoint, id: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv4(from.address.octets(), to.address.octets(), 64)
        .icmpv4_echo_request(id, 1)
        .write(&mut frame, payload)?;
    Ok(frame)
}

/// A TCP connection request.
pub fn tcp_syn(from: &Endpoint, to: &Endpoint, port: u16) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv4(from.address.octets(), to.address.octets(), 64)
        .tcp(40_001, port, 1, 1024)
        .syn()
        .write(&mut frame, &[])?;
    Ok(frame)
}

/// An ARP request for the address of `to`.
pub fn arp_request(from: &Endpoint, to: &Endpoint) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend([0xff; 6]);
    frame.extend(from.mac);
    frame.extend([0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x01]);
    frame.extend(from.mac);
    frame.extend(from.address.octets());
    frame.extend([0; 6]);
    frame.extend(to.address.octets());
    frame.resize(60, 0);
    frame
}

/// An IGMPv2 membership report for `group` (RFC 2236): the router alert option makes the header six
/// words long.
pub fn igmp_report(from: &Endpoint, group: Ipv4Addr) -> Result<Vec<u8>> {
    let mut message = vec![0x16, 0, 0, 0];
    message.extend(group.octets());
    let sum = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum::<u32>();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[IGMP_CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    let mut ip = Ipv4Header::new(8, 1, IpNumber::IGMP, from.address.octets(), group.octets())
        .context("IPv4 payload length")?;
    ip.options = [0x94, 4, 0, 0]
        .as_slice()
        .try_into()
        .context("router alert option")?;
    ip.header_checksum = ip.calc_header_checksum();
    let mut frame = Vec::new();
    let (source, destination) = (from.mac, group_mac(group));
    Ethernet2Header {
        source,
        destination,
        ether_type: EtherType::IPV4,
    }
    .write(&mut frame)?;
    ip.write_raw(&mut frame)?;
    frame.extend(message);
    Ok(frame)
}
