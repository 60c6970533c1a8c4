//! Frames as values: written and read by etherparse, and by sums that are added up here, with
//! nothing of the relay's.

use std::net::IpAddr;

use etherparse::{
    IpDscp, IpEcn, Ipv4Header, Ipv6FlowLabel, Ipv6Header, LinkExtSlice, LinkSlice, NetSlice,
    SlicedPacket, TransportSlice, UdpHeader, ip_number,
};

/// What is in the UDP checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// None.
    Absent,
    /// The right one.
    Right,
    /// Another one.
    Wrong,
    /// The folded sum of the pseudo-header. Never read: by its value it is a wrong one.
    Partial,
}

/// A UDP datagram in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    /// EtherType and control information of each tag.
    pub tags: Vec<(u16, u16)>,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Type of service, or traffic class.
    pub class: u8,
    /// 0 over IPv6.
    pub id: u16,
    /// Never over IPv6.
    pub dont_fragment: bool,
    /// 0 over IPv4.
    pub label: u32,
    pub ttl: u8,
    pub source_port: u16,
    pub port: u16,
    pub checksum: Checksum,
    pub payload: Vec<u8>,
}

impl Fields {
    /// The frame.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = [self.destination_mac, self.source_mac].concat();
        for (tpid, tci) in &self.tags {
            bytes.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
        }
        let udp_len = self.payload.len() as u16 + 8;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut ip =
                    Ipv4Header::new(udp_len, self.ttl, ip_number::UDP, source, destination)
                        .unwrap();
                ip.dscp = IpDscp::try_new(self.class >> 2).unwrap();
                ip.ecn = IpEcn::try_new(self.class & 3).unwrap();
                ip.identification = self.id;
                ip.dont_fragment = self.dont_fragment;
                ip.header_checksum = ip.calc_header_checksum();
                bytes.extend([0x08, 0x00]);
                bytes.extend(ip.to_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::try_new(self.label).unwrap(),
                    payload_length: udp_len,
                    next_header: ip_number::UDP,
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                bytes.extend([0x86, 0xdd]);
                bytes.extend(ip.to_bytes());
            }
            _ => panic!("addresses of two versions of IP"),
        }
        let udp = UdpHeader {
            source_port: self.source_port,
            destination_port: self.port,
            length: udp_len,
            checksum: self.checksum_field(),
        };
        bytes.extend(udp.to_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// The UDP checksum field.
    pub fn checksum_field(&self) -> u16 {
        let right = right_checksum(
            self.source,
            self.destination,
            self.source_port,
            self.port,
            &self.payload,
        );
        match self.checksum {
            Checksum::Absent => 0,
            Checksum::Right => right,
            Checksum::Wrong if right == 0x0100 => right ^ 1,
            Checksum::Wrong => right ^ 0x0100,
            Checksum::Partial => self.pseudo_sum(),
        }
    }

    /// The folded sum of the pseudo-header.
    pub fn pseudo_sum(&self) -> u16 {
        let octets = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let len = self.payload.len() as u16 + 8;
        let rest = [[0, 17], len.to_be_bytes()].concat();
        fold(&[octets(self.source), octets(self.destination), rest].concat())
    }

    /// What etherparse reads in `frame`, whose IPv4 header must have the right checksum.
    pub fn read(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else {
            panic!("not Ethernet");
        };
        let mut announced = ethernet.ether_type().0;
        let mut tags = Vec::new();
        for tag in &packet.link_exts {
            let LinkExtSlice::Vlan(tag) = tag else {
                panic!("MACsec");
            };
            let header: [u8; 2] = tag.slice()[..2].try_into().unwrap();
            tags.push((announced, u16::from_be_bytes(header)));
            announced = tag.ether_type().0;
        }
        let Some(TransportSlice::Udp(udp)) = &packet.transport else {
            panic!("not UDP");
        };
        let mut fields = Self {
            destination_mac: ethernet.destination(),
            source_mac: ethernet.source(),
            tags,
            source: [0; 4].into(),
            destination: [0; 4].into(),
            class: 0,
            id: 0,
            dont_fragment: false,
            label: 0,
            ttl: 0,
            source_port: udp.source_port(),
            port: udp.destination_port(),
            checksum: Checksum::Wrong,
            payload: udp.payload().to_vec(),
        };
        match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header();
                assert_eq!(ip.slice().len(), 20);
                assert!(words_add_up(ip.slice()), "checksum of the IPv4 header");
                assert_eq!(ip.total_len(), udp.length() + 20);
                assert!(!ip.is_fragmenting_payload());
                fields.source = ip.source_addr().into();
                fields.destination = ip.destination_addr().into();
                fields.class = ip.dcp().value() << 2 | ip.ecn().value();
                fields.id = ip.identification();
                fields.dont_fragment = ip.dont_fragment();
                fields.ttl = ip.ttl();
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header();
                assert_eq!(ip.next_header(), ip_number::UDP);
                assert_eq!(ip.payload_length(), udp.length());
                fields.source = ip.source_addr().into();
                fields.destination = ip.destination_addr().into();
                fields.class = ip.traffic_class();
                fields.label = ip.flow_label().value();
                fields.ttl = ip.hop_limit();
            }
            other => panic!("not IP: {other:?}"),
        }
        let right = right_checksum(
            fields.source,
            fields.destination,
            fields.source_port,
            fields.port,
            &fields.payload,
        );
        fields.checksum = match udp.checksum() {
            0 => Checksum::Absent,
            found if found == right => Checksum::Right,
            _ => Checksum::Wrong,
        };
        fields
    }
}

fn right_checksum(
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    port: u16,
    payload: &[u8],
) -> u16 {
    let udp = UdpHeader {
        source_port,
        destination_port: port,
        length: payload.len() as u16 + 8,
        checksum: 0,
    };
    let right = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            udp.calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            udp.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload)
        }
        _ => panic!("addresses of two versions of IP"),
    };
    right.unwrap()
}

/// The sum of the 16-bit words of `bytes`, of an even number, folded (RFC 1071).
fn fold(bytes: &[u8]) -> u16 {
    let (words, _) = bytes.as_chunks::<2>();
    let sum: u32 = words
        .iter()
        .map(|&word| u32::from(u16::from_be_bytes(word)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Whether the words of a header add up to what its checksum makes them add up to (RFC 1071).
pub fn words_add_up(header: &[u8]) -> bool {
    fold(header) == 0xffff
}

/// The Ethernet address of a group (RFC 1112, section 6.4; RFC 2464, section 7).
pub fn mac_of(group: IpAddr) -> [u8; 6] {
    match group {
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
