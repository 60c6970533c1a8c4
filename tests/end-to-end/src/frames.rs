//! Raw Ethernet frames for everything that no UDP socket would send.
//!
//! Built with etherparse, which shares nothing with the relay's own decoder.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use anyhow::{Context, Result, bail};
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder, SingleVlanHeader, UdpHeader,
};

use crate::encapsulation::{CUSTOMER, SERVICE, Tag};
use crate::inspect::sum;
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

/// A UDP datagram as one frame, with everything that a test may want odd.
#[derive(Debug, Clone)]
pub struct UdpFrame {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// VLAN tags, the outer one first.
    pub tags: Vec<Tag>,
    /// IP source, of the version of the destination.
    pub source: IpAddr,
    /// IP destination.
    pub group: IpAddr,
    /// Ethernet destination, where it does not follow from a group by [`group_mac`].
    pub to_mac: Option<[u8; 6]>,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub port: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Flow label, over IPv6.
    pub flow_label: u32,
    /// IP identification, over IPv4.
    pub identification: u16,
    /// No router may fragment it, over IPv4.
    pub dont_fragment: bool,
    /// IP options, a multiple of four bytes, over IPv4.
    pub options: Vec<u8>,
    /// Fragment offset in units of eight bytes, and whether more fragments follow, over IPv4.
    pub fragment: (u16, bool),
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// The UDP checksum.
    pub checksum: Checksum,
}

/// The Ethernet address of a group (RFC 1112, section 6.4; RFC 2464, section 7).
pub fn group_mac(group: impl Into<IpAddr>) -> [u8; 6] {
    match group.into() {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// Whether the frame's bytes begin with a header that announces an 802.1Q tag.
pub fn is_tagged(frame: &[u8]) -> bool {
    Ethernet2Header::from_slice(frame)
        .is_ok_and(|(header, _)| [CUSTOMER, SERVICE].contains(&header.ether_type.0))
}

impl UdpFrame {
    /// An ordinary datagram of a host to `group`:`port`.
    pub fn new(from: &Endpoint, group: impl Into<IpAddr>, port: u16, payload: Vec<u8>) -> Self {
        let group = group.into();
        Self {
            source_mac: from.mac,
            tags: Vec::new(),
            source: from.address_for(group),
            group,
            to_mac: None,
            source_port: 40_000,
            port,
            ttl: 8,
            tos: 0,
            flow_label: 0,
            identification: 1,
            dont_fragment: true,
            options: Vec::new(),
            fragment: (0, false),
            payload,
            checksum: Checksum::Complete,
        }
    }

    /// Where the UDP header begins.
    pub fn udp_start(&self) -> usize {
        let ip = match self.group {
            IpAddr::V4(_) => Ipv4Header::MIN_LEN + self.options.len(),
            IpAddr::V6(_) => Ipv6Header::LEN,
        };
        ETHERNET_LEN + self.tags.len() * SingleVlanHeader::LEN + ip
    }

    /// The frame's bytes.
    pub fn build(&self) -> Result<Vec<u8>> {
        let udp_length = (UdpHeader::LEN + self.payload.len()) as u16;
        let mut ip = Vec::new();
        let (mut udp, pseudo, ether_type) = match (self.source, self.group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => {
                let header = self.ipv4(source, group, udp_length)?;
                header.write_raw(&mut ip)?;
                let udp = UdpHeader::with_ipv4_checksum(
                    self.source_port,
                    self.port,
                    &header,
                    &self.payload,
                );
                let addresses = [source.octets(), group.octets()].concat();
                (udp.context("UDP length")?, addresses, EtherType::IPV4)
            }
            (IpAddr::V6(source), IpAddr::V6(group)) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::try_new(self.flow_label).context("flow label")?,
                    payload_length: udp_length,
                    next_header: IpNumber::UDP,
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: group.octets(),
                };
                header.write(&mut ip)?;
                let udp = UdpHeader::with_ipv6_checksum(
                    self.source_port,
                    self.port,
                    &header,
                    &self.payload,
                );
                let addresses = [source.octets(), group.octets()].concat();
                (udp.context("UDP length")?, addresses, EtherType::IPV6)
            }
            (source, group) => bail!("a datagram of {source} to {group}"),
        };
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
            Checksum::LikePartial => udp.checksum = sum(&pseudo, 17 + u32::from(udp_length)),
        }
        let mut frame = Vec::with_capacity(self.udp_start() + usize::from(udp_length));
        frame.extend(self.to_mac.unwrap_or_else(|| group_mac(self.group)));
        frame.extend(self.source_mac);
        for (ether_type, id) in &self.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(ether_type.0.to_be_bytes());
        frame.extend(ip);
        udp.write(&mut frame)?;
        frame.extend_from_slice(&self.payload);
        Ok(frame)
    }

    fn ipv4(&self, source: Ipv4Addr, group: Ipv4Addr, udp_length: u16) -> Result<Ipv4Header> {
        let mut ip = Ipv4Header::new(
            udp_length,
            self.ttl,
            IpNumber::UDP,
            source.octets(),
            group.octets(),
        )
        .context("IPv4 payload length")?;
        ip.dscp = (self.tos >> 2).try_into().context("DSCP")?;
        ip.ecn = (self.tos & 3).try_into().context("ECN")?;
        ip.identification = self.identification;
        ip.dont_fragment = self.dont_fragment;
        ip.fragment_offset = IpFragOffset::try_new(self.fragment.0).context("fragment offset")?;
        ip.more_fragments = self.fragment.1;
        ip.options = self.options.as_slice().try_into().context("IPv4 options")?;
        ip.header_checksum = ip.calc_header_checksum();
        Ok(ip)
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

/// The same over IPv6.
pub fn icmpv6_echo(from: &Endpoint, to: &Endpoint, id: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    ipv6_packet(from, to)?
        .icmpv6_echo_request(id, 1)
        .write(&mut frame, payload)?;
    Ok(frame)
}

/// A TCP connection request over IPv6.
pub fn tcp_syn6(from: &Endpoint, to: &Endpoint, port: u16) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    ipv6_packet(from, to)?
        .tcp(40_001, port, 1, 1024)
        .syn()
        .write(&mut frame, &[])?;
    Ok(frame)
}

fn ipv6_packet(
    from: &Endpoint,
    to: &Endpoint,
) -> Result<etherparse::PacketBuilderStep<etherparse::IpHeaders>> {
    let (source, destination) = from.ipv6.zip(to.ipv6).context("hosts without IPv6")?;
    let (source, destination) = (source.octets(), destination.octets());
    Ok(PacketBuilder::ethernet2(from.mac, to.mac).ipv6(source, destination, 64))
}

/// A neighbour solicitation for the address of `to` (RFC 4861, section 4.3).
pub fn neighbour_solicitation(from: &Endpoint, to: &Endpoint) -> Result<Vec<u8>> {
    let (source, target) = from.ipv6.zip(to.ipv6).context("hosts without IPv6")?;
    let [.., a, b, c] = target.octets();
    let solicited = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    let mut message = target.octets().to_vec();
    // Source link-layer address.
    message.extend([1, 1]);
    message.extend(from.mac);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, group_mac(IpAddr::from(solicited)))
        .ipv6(source.octets(), solicited, 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &message)?;
    Ok(frame)
}

/// An MLDv2 report that joins `group` (RFC 9777, section 5.2), behind a router alert.
pub fn mld_report(from: &Endpoint, group: Ipv6Addr) -> Result<Vec<u8>> {
    let source = from.ipv6.context("a host without IPv6")?;
    let routers = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
    // One record, CHANGE_TO_EXCLUDE_MODE of no source.
    let mut record = vec![4, 0, 0, 0];
    record.extend(group.octets());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac, group_mac(IpAddr::from(routers)))
        .ipv6(source.octets(), routers, 1)
        .icmpv6_raw(143, 0, [0, 0, 0, 1])
        .write(&mut frame, &record)?;
    with_extension(&mut frame, 0, [5, 2, 0, 0, 1, 0]);
    Ok(frame)
}

/// Puts an extension header of this kind, of 8 bytes, behind the IPv6 header of a frame. `rest` is
/// what follows its length (RFC 8200, section 4).
pub fn with_extension(frame: &mut Vec<u8>, kind: u8, rest: [u8; 6]) {
    const NEXT_HEADER: usize = ETHERNET_LEN + 6;
    const PAYLOAD_LEN: Range<usize> = ETHERNET_LEN + 4..ETHERNET_LEN + 6;
    let next = std::mem::replace(&mut frame[NEXT_HEADER], kind);
    let len = u16::from_be_bytes([frame[PAYLOAD_LEN.start], frame[PAYLOAD_LEN.start + 1]]) + 8;
    frame[PAYLOAD_LEN].copy_from_slice(&len.to_be_bytes());
    let [a, b, c, d, e, f] = rest;
    let at = ETHERNET_LEN + Ipv6Header::LEN;
    frame.splice(at..at, [next, 0, a, b, c, d, e, f]);
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
