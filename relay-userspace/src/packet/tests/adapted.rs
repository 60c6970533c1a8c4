//! Copies whose headers keep what others do not, or change what others keep: tags, source, DSCP,
//! source port, and the version of IP, compared with frames of an independent implementation.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, SlicedPacket, TransportSlice, VlanSlice,
};
use proptest::prelude::*;
use relay_common::wire::Tag;

use super::*;
use crate::config::rules::OutputVlan;

const SENDER_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SENDER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const CLASS: u8 = 0xba;
const LABEL: u32 = 0xa_bcde;

/// Tags as they lie in a frame.
type InBytes<'a> = &'a [(u16, u16)];

/// A frame to the group of its version of IP, with these tags.
fn came(is_ipv4: bool, tags: InBytes<'_>, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1];
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    let len = payload.len() as u16 + 8;
    let udp = if is_ipv4 {
        let group = [239, 1, 1, 1];
        let mut ip = Ipv4Header::new(len, 9, 17.into(), SENDER_V4.octets(), group).unwrap();
        (ip.dscp, ip.ecn) = (
            (CLASS >> 2).try_into().unwrap(),
            (CLASS & 3).try_into().unwrap(),
        );
        ip.identification = 0x1234;
        ip.dont_fragment = false;
        ip.header_checksum = ip.calc_header_checksum();
        frame.extend(0x0800_u16.to_be_bytes());
        ip.write(&mut frame).unwrap();
        etherparse::UdpHeader::with_ipv4_checksum(40_000, 5001, &ip, payload).unwrap()
    } else {
        let group: Ipv6Addr = "ff3e::8000:1".parse().unwrap();
        let ip = Ipv6Header {
            traffic_class: CLASS,
            flow_label: Ipv6FlowLabel::try_new(LABEL).unwrap(),
            payload_length: len,
            next_header: 17.into(),
            hop_limit: 9,
            source: SENDER_V6.octets(),
            destination: group.octets(),
        };
        frame.extend(0x86dd_u16.to_be_bytes());
        ip.write(&mut frame).unwrap();
        etherparse::UdpHeader::with_ipv6_checksum(40_000, 5001, &ip, payload).unwrap()
    };
    frame.extend(udp.to_bytes());
    frame.extend(payload);
    frame
}

/// Removes the UDP checksum of an IPv4 frame with this many tags.
fn without_checksum(frame: &mut [u8], tags: usize) {
    frame[40 + 4 * tags..][..2].fill(0);
}

/// An output to test.
#[derive(Debug, Clone, Copy)]
struct Case {
    from_v4: bool,
    to_v4: bool,
    keeps_source: bool,
    header: Header,
    vlan: Vlan,
}

/// What leaves through an output for `frame`; `beside` is a tag that the kernel took out of it.
fn leaves(case: &Case, frame: &[u8], beside: Option<Tag>) -> Vec<u8> {
    let mut matches = input(case.from_v4);
    matches.vlan = case.vlan;
    let source = if case.to_v4 {
        "10.2.0.1"
    } else {
        "2001:db8:2::1"
    };
    let group = if case.to_v4 {
        "239.2.2.2"
    } else {
        "ff3e::8000:2"
    };
    let template = Template::new(&Target {
        source_mac: [2, 0, 0, 0, 0, 9],
        destination_mac: [2, 0, 0, 0, 0, 10],
        source: (!case.keeps_source).then(|| source.parse().unwrap()),
        group: group.parse().unwrap(),
        port: PortMatch::One(5002),
        header: &case.header,
        input: &matches,
    })
    .unwrap();
    let datagram = wire::decode_stripped(frame, beside).unwrap();
    let received = Received::read(frame, &datagram, Known::Complete).unwrap();
    let payload = &frame[datagram.payload()..datagram.end()];
    let udp_sum = received.udp_sum(payload);
    let ttl = template.ttl(&received).unwrap();
    let keeping = Keeping::new(&matches, template.keeps());
    let adapted = template.keeping(&keeping.kept(&datagram, frame, beside));
    let udp_sum = template.udp_sum(&received, payload, udp_sum);
    let mut copy = vec![0; HEADERS_ROOM];
    let len = adapted.write(&mut copy, &template.received(&received), ttl, udp_sum);
    assert_eq!((len, adapted.headers_len()), (template.headers_len(), len));
    copy.truncate(len);
    copy.extend(payload);
    copy
}

/// The EtherTypes and tag control information of a frame, the outer tag first.
fn tags(frame: &[u8]) -> Vec<(u16, u16)> {
    let mut tags = Vec::new();
    let mut at = 12;
    while matches!(frame[at..], [0x81, 0, ..] | [0x88, 0xa8, ..]) {
        let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        tags.push((half(at), half(at + 2)));
        at += 4;
    }
    tags
}

/// Checks all headers of a copy but its tags. `checksum` is whether its UDP checksum must be right,
/// or absent if `None`.
fn check(case: &Case, copy: &[u8], payload: &[u8], checksum: Option<bool>) {
    let sliced = SlicedPacket::from_ethernet(copy).unwrap();
    assert_eq!(&copy[..12], &[2, 0, 0, 0, 0, 10, 2, 0, 0, 0, 0, 9]);
    let class = case.header.dscp.map_or(CLASS, |dscp| dscp << 2 | CLASS & 3);
    let Some(TransportSlice::Udp(udp)) = sliced.transport else {
        panic!("no UDP");
    };
    let right = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            assert!(case.to_v4);
            let header = ip.header().to_header();
            let source = if case.keeps_source {
                SENDER_V4
            } else {
                [10, 2, 0, 1].into()
            };
            assert_eq!(header.source, source.octets());
            assert_eq!(header.destination, [239, 2, 2, 2]);
            assert_eq!(header.dscp.value() << 2 | header.ecn.value(), class);
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            let atomic = (0, true);
            let kept = (0x1234, false);
            assert_eq!(
                (header.identification, header.dont_fragment),
                if case.from_v4 { kept } else { atomic }
            );
            assert_eq!(usize::from(header.total_len), 28 + payload.len());
            udp.to_header()
                .calc_checksum_ipv4(&header, payload)
                .unwrap()
        }
        NetSlice::Ipv6(ip) => {
            assert!(!case.to_v4);
            let header = ip.header().to_header();
            let own: Ipv6Addr = "2001:db8:2::1".parse().unwrap();
            let source = if case.keeps_source { SENDER_V6 } else { own };
            assert_eq!(header.source, source.octets());
            assert_eq!(header.traffic_class, class);
            let label = if case.from_v4 { 0 } else { LABEL };
            assert_eq!(header.flow_label.value(), label);
            assert_eq!(usize::from(header.payload_length), 8 + payload.len());
            udp.to_header()
                .calc_checksum_ipv6(&header, payload)
                .unwrap()
        }
        other => panic!("{other:?}"),
    };
    let port = case.header.source_port.unwrap_or(40_000);
    assert_eq!((udp.source_port(), udp.destination_port()), (port, 5002));
    assert_eq!(udp.payload(), payload);
    match checksum {
        None => assert_eq!(udp.checksum(), 0),
        Some(is_right) => assert_eq!(udp.checksum() == right, is_right, "{case:?}"),
    }
}

fn header() -> impl Strategy<Value = Header> {
    let vlan = prop_oneof![
        Just(OutputVlan::Untagged),
        Just(OutputVlan::Keep),
        (1..=4094_u16).prop_map(OutputVlan::Tag),
        (1..=4094_u16, 1..=4094_u16).prop_map(|(outer, inner)| OutputVlan::Double(outer, inner)),
    ];
    let fields = (
        proptest::option::of(1..=u16::MAX),
        proptest::option::of(0..64_u8),
        vlan,
        proptest::option::of(0..8_u8),
    );
    fields.prop_map(|(source_port, dscp, vlan, pcp)| Header {
        ttl: Ttl::Decrement,
        source_port,
        dscp,
        vlan,
        pcp,
    })
}

proptest! {
    #[test]
    fn every_header_field_is_as_the_output_says_and_the_checksum_follows(
        (from_v4, to_v4, keeps_source) in any::<(bool, bool, bool)>(),
        header in header(),
        payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            (0..300_usize).prop_map(|len| vec![0xff; len]),
            (0..300_usize).prop_map(|len| vec![0; len]),
        ],
        damage in proptest::option::of(any::<proptest::sample::Index>()),
        absent in any::<bool>(),
        vlan in prop_oneof![
            Just(Vlan::Untagged),
            Just(Vlan::Tag(100)),
            Just(Vlan::Double(300, 200)),
        ],
    ) {
        let case = Case {
            from_v4,
            to_v4,
            keeps_source: keeps_source && from_v4 == to_v4,
            header,
            vlan,
        };
        let in_bytes: InBytes<'_> = match vlan {
            Vlan::Untagged => &[],
            Vlan::Tag(_) => &[(0x8100, 0xb064)],
            Vlan::Double(..) => &[(0x8100, 0x712c), (0x8100, 0x30c8)],
        };
        let mut frame = came(from_v4, in_bytes, &payload);
        let is_damaged = damage.is_some() && !payload.is_empty() && payload[0] != 0xff;
        if let Some(damage) = damage && is_damaged {
            let at = frame.len() - payload.len() + damage.index(payload.len());
            frame[at] ^= 0x41;
        }
        let sent = frame[frame.len() - payload.len()..].to_vec();
        let absent = absent && from_v4;
        if absent {
            without_checksum(&mut frame, in_bytes.len());
        }
        let copy = leaves(&case, &frame, None);
        let checksum = match (absent, to_v4) {
            (true, true) => None,
            // What had no checksum gets one over IPv6, whatever the payload is.
            (true, false) => Some(true),
            (false, _) => Some(!is_damaged),
        };
        check(&case, &copy, &sent, checksum);
    }
}

#[test]
fn tags_are_added_changed_kept_and_removed() {
    const C: u16 = 0x8100;
    const S: u16 = 0x88a8;
    let double = OutputVlan::Double(30, 40);
    // A priority of 5 with drop eligibility is 0xb, of 3 without 0x6, of 2 0x4.
    #[rustfmt::skip]
    let cases: [(Vlan, InBytes<'_>, OutputVlan, Option<u8>, InBytes<'_>); 16] = [
        (Vlan::Untagged, &[], OutputVlan::Untagged, None, &[]),
        (Vlan::Untagged, &[(C, 0xb000)], OutputVlan::Untagged, None, &[]),
        (Vlan::Untagged, &[], OutputVlan::Keep, None, &[]),
        (Vlan::Untagged, &[], OutputVlan::Tag(30), None, &[(C, 30)]),
        (Vlan::Untagged, &[(C, 0xb000)], OutputVlan::Tag(30), Some(7), &[(C, 0xe01e)]),
        (Vlan::Untagged, &[], double, Some(2), &[(S, 0x401e), (C, 0x4028)]),
        (Vlan::Tag(100), &[(C, 0xb064)], OutputVlan::Untagged, None, &[]),
        (Vlan::Tag(100), &[(C, 0xb064)], OutputVlan::Keep, None, &[(C, 0xb064)]),
        (Vlan::Tag(100), &[(C, 0xb064)], OutputVlan::Keep, Some(0), &[(C, 0x0064)]),
        (Vlan::Tag(100), &[(C, 0xb064)], OutputVlan::Tag(30), None, &[(C, 0xb01e)]),
        (Vlan::Tag(100), &[(C, 0xb064)], double, None, &[(S, 0xb01e), (C, 0xb028)]),
        (Vlan::Tag(100), &[(S, 0x4000), (C, 0xb064)], OutputVlan::Keep, None, &[(C, 0xb064)]),
        (Vlan::Double(300, 200), &[(S, 0x612c), (C, 0x40c8)], OutputVlan::Keep, None,
            &[(S, 0x612c), (C, 0x40c8)]),
        (Vlan::Double(300, 200), &[(C, 0x012c), (C, 0x40c8)], OutputVlan::Keep, None,
            &[(C, 0x012c), (C, 0x40c8)]),
        (Vlan::Double(300, 200), &[(S, 0x612c), (C, 0x40c8)], OutputVlan::Tag(30), None,
            &[(C, 0x401e)]),
        (Vlan::Double(300, 200), &[(S, 0x612c), (C, 0x40c8)], double, Some(1),
            &[(S, 0x201e), (C, 0x2028)]),
    ];
    for (vlan, came_with, out, pcp, leaves_with) in cases {
        for from_v4 in [true, false] {
            let case = Case {
                from_v4,
                to_v4: true,
                keeps_source: false,
                header: Header {
                    ttl: Ttl::Decrement,
                    vlan: out,
                    pcp,
                    ..Header::default()
                },
                vlan,
            };
            let whole = came(from_v4, came_with, b"payload");
            let copy = leaves(&case, &whole, None);
            assert_eq!(tags(&copy), leaves_with, "{came_with:x?} {out:?} {pcp:?}");
            check(&case, &copy, b"payload", Some(true));
            let sliced = SlicedPacket::from_ethernet(&copy).unwrap();
            assert_eq!(sliced.vlan().is_some(), !leaves_with.is_empty());
            if let Some(VlanSlice::SingleVlan(tag)) = sliced.vlan() {
                assert_eq!(tag.vlan_identifier().value(), leaves_with[0].1 & 0xfff);
            }
            // The same where the kernel keeps the outer tag beside the frame.
            if let [(tpid, tci), ..] = *came_with {
                let mut stripped = whole.clone();
                stripped.drain(12..16);
                let copy_of_stripped = leaves(&case, &stripped, Some(Tag { tpid, tci }));
                assert_eq!(copy_of_stripped, copy);
            }
        }
    }
}

#[test]
fn one_customer_tag_comes_on_top_of_the_mtu_and_any_other_counts() {
    let most = |vlan| {
        let header = Header {
            vlan,
            ..Header::default()
        };
        let target = |group: &str, source: &str| {
            Template::new(&Target {
                source_mac: [0; 6],
                destination_mac: [0; 6],
                source: Some(source.parse().unwrap()),
                group: group.parse().unwrap(),
                port: PortMatch::One(1),
                header: &header,
                input: &input(true),
            })
            .unwrap()
            .max_payload(1500)
        };
        [
            target("239.1.1.1", "10.0.0.1"),
            target("ff3e::1", "fe80::1"),
        ]
    };
    assert_eq!(most(OutputVlan::Untagged), [1472, 1452]);
    assert_eq!(most(OutputVlan::Tag(1)), [1472, 1452]);
    assert_eq!(most(OutputVlan::Double(1, 2)), [1464, 1444]);
}
