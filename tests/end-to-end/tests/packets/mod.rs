//! The table of packets that every decoder must agree on: user space, the XDP program and the
//! socket filter.
//!
//! etherparse builds the frames, which shares nothing with the relay's own decoder. What a case
//! changes in them is named by the decoder's own ranges: a range in the wrong place would damage
//! another field, and the case would not count as it must.
#![expect(clippy::expect_used, reason = "a table of frames in memory, in tests")]

mod combinations;
mod hosts;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use relay::{config::rules::PortMatch, plan::FlowKey};
use relay_common::{
    abi::Counter,
    wire::{
        ETHERNET_LEN, IPV4_LEN, IPV6_LEN, VLAN_LEN, Vlan, ethernet::field as ethernet,
        ipv4::field as ipv4, ipv6::field as ipv6, udp::field as udp, vlan::field as vlan,
    },
};

/// The kernel refuses test frames shorter than an Ethernet header.
pub const SHORTEST: usize = ETHERNET_LEN;

/// Where the headers of an untagged frame start.
pub const IP: usize = ETHERNET_LEN;
pub const UDP: usize = ETHERNET_LEN + IPV4_LEN;
/// The same over IPv6.
const UDP6: usize = ETHERNET_LEN + IPV6_LEN;
/// Where a tag goes: behind the addresses.
pub const TAG: usize = ethernet::TYPE.start;

pub const GROUP: [u8; 4] = [239, 1, 1, 1];
pub const PORT: u16 = 5001;
/// ff3e::8000:1, and 2001:db8::7.
pub const GROUP6: [u8; 16] = [0xff, 0x3e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 1];
/// Addresses of the relay's host: that of `in0` of a testbed, and 2a01:db8::1.
pub const HOST: [u8; 4] = [10, 1, 0, 1];
pub const HOST6: [u8; 16] = [0x2a, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// The VLANs of the rules: none, one tag, two tags.
pub const RULE_VLAN: u16 = 100;
pub const RULE_DOUBLE: [u16; 2] = [100, 200];
const SOURCE6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
/// The Ethernet address of the input, `in0` of a testbed.
pub const INPUT_MAC: [u8; 6] = [2, 0, 10, 1, 0, 1];
/// The addresses of the output, `out0` of a testbed: what copies leave with.
pub const OUTPUT_MAC: [u8; 6] = [2, 0, 10, 2, 0, 1];
pub const OUTPUT_ADDRESS: [u8; 4] = [10, 2, 0, 1];

/// What the rules of the table match on an interface, given by its index: one IPv4 and one IPv6
/// group, and one address of the host of each version, each untagged, with one tag and with two.
pub fn rules(interface: u32) -> Vec<FlowKey> {
    let groups: [IpAddr; 4] = [
        Ipv4Addr::from(GROUP).into(),
        Ipv6Addr::from(GROUP6).into(),
        Ipv4Addr::from(HOST).into(),
        Ipv6Addr::from(HOST6).into(),
    ];
    let [outer, inner] = RULE_DOUBLE;
    let vlans = [
        Vlan::UNTAGGED,
        Vlan::tag(RULE_VLAN),
        Vlan::double(outer, inner),
    ];
    let of = |group: IpAddr| {
        vlans.map(|vlan| FlowKey {
            interface,
            vlan,
            group: group.into(),
            ports: PortMatch::One(PORT),
            source: None,
        })
    };
    groups.into_iter().flat_map(of).collect()
}

/// A frame and what it counts as.
pub struct Case {
    pub what: String,
    pub frame: Vec<u8>,
    pub expected: Counter,
}

fn case(what: &str, frame: Vec<u8>, expected: Counter) -> Case {
    Case {
        what: what.to_owned(),
        frame,
        expected,
    }
}

fn from_host() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1])
}

/// A datagram to `group`, and to the Ethernet address that belongs to it if it is one.
fn udp_to(group: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    from_host()
        .ipv4([10, 1, 0, 2], group, 1)
        .udp(40_000, port)
        .write(&mut frame, payload)
        .expect("a frame in memory");
    let [_, b, c, d] = group;
    frame[ethernet::DESTINATION].copy_from_slice(&[1, 0, 0x5e, b & 0x7f, c, d]);
    frame
}

/// A datagram to the IPv6 `group`, and to the Ethernet address that belongs to it if it is one.
pub fn udp6_to(group: [u8; 16], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    from_host()
        .ipv6(SOURCE6, group, 1)
        .udp(40_000, port)
        .write(&mut frame, payload)
        .expect("a frame in memory");
    let [.., a, b, c, d] = group;
    frame[ethernet::DESTINATION].copy_from_slice(&[0x33, 0x33, a, b, c, d]);
    frame
}

/// A datagram over IPv6 with changes to its bytes.
fn changed6(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = udp6_to(GROUP6, PORT, b"payload");
    change(&mut frame);
    frame
}

/// A datagram of the rule.
pub fn matching(payload: &[u8]) -> Vec<u8> {
    udp_to(GROUP, PORT, payload)
}

/// A matching frame with changes to its bytes, its IPv4 checksum made right again.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = matching(b"payload");
    change(&mut frame);
    fix_header(&mut frame);
    frame
}

/// A matching frame from another IPv4 source.
fn from_address(source: [u8; 4]) -> Vec<u8> {
    changed(|frame| frame[IP..][ipv4::SOURCE].copy_from_slice(&source))
}

/// A matching frame from another Ethernet source.
fn from_mac(mac: [u8; 6]) -> Vec<u8> {
    changed(|frame| frame[ethernet::SOURCE].copy_from_slice(&mac))
}

/// A matching frame to another Ethernet address.
fn to_mac(mac: [u8; 6]) -> Vec<u8> {
    changed(|frame| frame[ethernet::DESTINATION].copy_from_slice(&mac))
}

/// Makes the IPv4 checksum right.
pub fn fix_header(frame: &mut [u8]) {
    let header = &mut frame[IP..UDP];
    header[ipv4::CHECKSUM].fill(0);
    let sum: u32 = header
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[ipv4::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
}

/// `inner` with a tag of `ethertype` and identifier 10.
pub fn tagged(ethertype: u16, inner: &[u8]) -> Vec<u8> {
    let mut frame = inner[..TAG].to_vec();
    frame.extend(ethertype.to_be_bytes());
    frame.extend([0x00, 0x0a]);
    frame.extend(&inner[TAG..]);
    frame
}

/// `inner` with a tag of `ethertype` and no identifier but the priority 5.
pub fn priority_tagged(ethertype: u16, inner: &[u8]) -> Vec<u8> {
    let mut frame = tagged(ethertype, inner);
    frame[ETHERNET_LEN..][vlan::TCI].copy_from_slice(&[0xa0, 0x00]);
    frame
}

/// A frame of `ethertype` with 46 bytes of zeros.
fn bare(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// Every kind of frame, at least one for each verdict.
pub fn table() -> Vec<Case> {
    let mut with_options = Vec::new();
    from_host()
        .ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header {
                options: [0x94, 4, 0, 0].into(),
                ..etherparse::Ipv4Header::new(
                    15,
                    1,
                    etherparse::IpNumber::UDP,
                    [10, 1, 0, 2],
                    GROUP,
                )
                .expect("a short payload")
            },
            etherparse::Ipv4Extensions::default(),
        ))
        .udp(40_000, PORT)
        .write(&mut with_options, b"payload")
        .expect("a frame in memory");
    let ipv6 = udp6_to(GROUP6, PORT, b"payload");
    let mut tcp = Vec::new();
    from_host()
        .ipv4([10, 1, 0, 2], GROUP, 1)
        .tcp(1, PORT, 0, 0)
        .write(&mut tcp, &[])
        .expect("a frame in memory");
    let plain = matching(b"payload");
    let mut padded = matching(b"abc");
    padded.resize(60, 0xee);

    let mut table = vec![
        case("a datagram of the rule", plain.clone(), Counter::Redirected),
        case("one without payload", matching(&[]), Counter::Redirected),
        case(
            "one of 1472 bytes",
            matching(&[7; 1472]),
            Counter::Redirected,
        ),
        case(
            "one with Ethernet padding behind it",
            padded,
            Counter::Redirected,
        ),
        case(
            "one without a UDP checksum",
            changed(|f| f[UDP..][udp::CHECKSUM].fill(0)),
            Counter::Redirected,
        ),
        case(
            "one with a wrong UDP checksum",
            changed(|f| f[UDP..][udp::CHECKSUM][0] ^= 0xff),
            Counter::Redirected,
        ),
        case(
            "one that must not be fragmented",
            changed(|f| f[IP..][ipv4::FRAGMENT][0] = 0x40),
            Counter::Redirected,
        ),
        case(
            "one with a DSCP and ECN",
            changed(|f| f[IP..][ipv4::TOS] = 0xbb),
            Counter::Redirected,
        ),
        case(
            "another port",
            udp_to(GROUP, 5002, b"x"),
            Counter::PassNoRule,
        ),
        case(
            "another group",
            udp_to([239, 1, 1, 2], PORT, b"x"),
            Counter::PassNoRule,
        ),
        case(
            "the group of another MAC bit",
            udp_to([239, 129, 1, 1], PORT, b"x"),
            Counter::PassNoRule,
        ),
        case(
            "a tagged datagram",
            tagged(0x8100, &plain),
            Counter::PassVlan,
        ),
        case(
            "a priority tag, which names no VLAN",
            priority_tagged(0x8100, &plain),
            Counter::Redirected,
        ),
        case(
            "a priority tag in front of another port",
            priority_tagged(0x8100, &udp_to(GROUP, 5002, b"x")),
            Counter::PassNoRule,
        ),
        case(
            "a service tag with identifier 0",
            priority_tagged(0x88a8, &plain),
            Counter::Redirected,
        ),
        case(
            "a priority tag in front of a tag",
            priority_tagged(0x8100, &tagged(0x8100, &plain)),
            Counter::PassVlan,
        ),
        case(
            "two priority tags",
            priority_tagged(0x8100, &priority_tagged(0x8100, &plain)),
            Counter::Redirected,
        ),
        case(
            "a double tag",
            tagged(0x88a8, &tagged(0x8100, &plain)),
            Counter::PassVlan,
        ),
        case(
            "two customer tags",
            tagged(0x8100, &tagged(0x8100, &plain)),
            Counter::PassVlan,
        ),
        case("IPv6", ipv6.clone(), Counter::Redirected),
        case("tagged IPv6", tagged(0x8100, &ipv6), Counter::PassVlan),
        case(
            "IPv6 with an extension header",
            changed6(|f| f[IP + ipv6::NEXT_HEADER] = 0),
            Counter::PassIpv6Extension,
        ),
        case(
            "IPv6 without a checksum",
            changed6(|f| f[UDP6..][udp::CHECKSUM].fill(0)),
            Counter::PassNoChecksum,
        ),
        case("ARP", bare(0x0806), Counter::PassNotIp),
        case(
            "tagged ARP",
            tagged(0x8100, &bare(0x0806)),
            Counter::PassNotIp,
        ),
        case("PTP over Ethernet", bare(0x88f7), Counter::PassNotIp),
        case(
            "an 802.3 length instead of a type",
            bare(46),
            Counter::PassNotIp,
        ),
        case(
            "IP options (router alert)",
            with_options,
            Counter::PassIpOptions,
        ),
        case(
            "the first fragment",
            changed(|f| f[IP..][ipv4::FRAGMENT][0] = 0x20),
            Counter::PassFragment,
        ),
        case(
            "a later fragment",
            changed(|f| f[IP..][ipv4::FRAGMENT][1] = 0x08),
            Counter::PassFragment,
        ),
        case("TCP", tcp, Counter::PassNotUdp),
        case(
            "ICMP",
            changed(|f| f[IP..][ipv4::PROTOCOL] = 1),
            Counter::PassNotUdp,
        ),
        case(
            "IGMP",
            changed(|f| f[IP..][ipv4::PROTOCOL] = 2),
            Counter::PassNotUdp,
        ),
        case(
            "unicast",
            udp_to([10, 1, 0, 1], PORT, b"x"),
            Counter::PassNotMulticast,
        ),
        case(
            "broadcast",
            udp_to([255; 4], PORT, b"x"),
            Counter::PassNotMulticast,
        ),
        case(
            "a wrong IPv4 checksum",
            {
                let mut frame = plain.clone();
                frame[IP..][ipv4::CHECKSUM][0] ^= 1;
                frame
            },
            Counter::PassMalformed,
        ),
        case(
            "IP version 5",
            changed(|f| f[IP..][ipv4::VERSION_AND_LEN] = 0x55),
            Counter::PassMalformed,
        ),
        case(
            "an IPv4 header of 16 bytes",
            changed(|f| f[IP..][ipv4::VERSION_AND_LEN] = 0x44),
            Counter::PassMalformed,
        ),
        case(
            "a total length beyond the frame",
            changed(|f| f[IP..][ipv4::TOTAL_LEN][1] = 200),
            Counter::PassMalformed,
        ),
        case(
            "a total length of 0",
            changed(|f| f[IP..][ipv4::TOTAL_LEN].fill(0)),
            Counter::PassMalformed,
        ),
        case(
            "a UDP length beyond the IP packet",
            changed(|f| f[UDP..][udp::LEN][1] = 200),
            Counter::PassMalformed,
        ),
        case(
            "a UDP length short of the IP packet",
            changed(|f| f[UDP..][udp::LEN][1] -= 1),
            Counter::PassMalformed,
        ),
        case(
            "a UDP length of 7",
            changed(|f| f[UDP..][udp::LEN][1] = 7),
            Counter::PassMalformed,
        ),
    ];
    for source in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [127, 255, 255, 255],
        [224, 0, 0, 1],
        [239, 1, 1, 1],
        [255, 255, 255, 255],
    ] {
        let what = format!("the source {}", Ipv4Addr::from(source));
        table.push(case(&what, from_address(source), Counter::PassMartian));
    }
    for source in [
        [1, 0, 0, 1],
        [126, 255, 255, 255],
        [128, 0, 0, 1],
        [223, 255, 255, 255],
        [240, 0, 0, 1],
        [255, 255, 255, 254],
        [10, 2, 0, 2],
    ] {
        let what = format!("the source {}", Ipv4Addr::from(source));
        table.push(case(&what, from_address(source), Counter::Redirected));
    }
    for (what, mac) in [
        ("no Ethernet source", [0; 6]),
        ("an Ethernet source that is a group", [1, 0, 0x5e, 1, 1, 1]),
        ("an Ethernet source that is everybody", [0xff; 6]),
    ] {
        table.push(case(what, from_mac(mac), Counter::PassMartian));
    }
    let mut almost_own = OUTPUT_MAC;
    almost_own[5] ^= 0x80;
    table.extend([
        case(
            "an Ethernet source like that of the output",
            from_mac(almost_own),
            Counter::Redirected,
        ),
        case(
            "the Ethernet source of the output",
            from_mac(OUTPUT_MAC),
            Counter::OwnFrame,
        ),
        case(
            "the Ethernet source of the output behind a priority tag",
            priority_tagged(0x8100, &from_mac(OUTPUT_MAC)),
            Counter::OwnFrame,
        ),
        case(
            "the source address of the output",
            from_address(OUTPUT_ADDRESS),
            Counter::OwnFrame,
        ),
        case(
            "the Ethernet source of the output and no rule",
            {
                let mut frame = udp_to(GROUP, 5002, b"x");
                frame[ethernet::SOURCE].copy_from_slice(&OUTPUT_MAC);
                frame
            },
            Counter::PassNoRule,
        ),
        case(
            "to the Ethernet address of the input",
            to_mac(INPUT_MAC),
            Counter::Redirected,
        ),
        case(
            "to that of the output",
            to_mac(OUTPUT_MAC),
            Counter::PassOtherMac,
        ),
        case(
            "to that of another host",
            to_mac([2, 0, 10, 1, 0, 9]),
            Counter::PassOtherMac,
        ),
        case("to everybody", to_mac([0xff; 6]), Counter::PassOtherMac),
    ]);
    for (at, bit) in [(0, 0x02), (1, 1), (2, 1), (3, 0x80), (4, 1), (5, 1)] {
        let mut mac = [1, 0, 0x5e, 1, 1, 1];
        mac[at] ^= bit;
        let what = format!("to another group's Ethernet address, byte {at}");
        table.push(case(&what, to_mac(mac), Counter::PassOtherMac));
    }
    for len in SHORTEST..plain.len() {
        let mut frame = plain.clone();
        frame.truncate(len);
        table.push(case(
            &format!("cut to {len} bytes"),
            frame,
            Counter::PassMalformed,
        ));
    }
    let tagged = tagged(0x8100, &plain);
    for len in SHORTEST..ETHERNET_LEN + VLAN_LEN {
        table.push(case(
            &format!("tagged, cut to {len} bytes"),
            tagged[..len].to_vec(),
            Counter::PassNotIp,
        ));
    }
    table.extend(combinations::combinations());
    table.extend(hosts::hosts());
    table
}
