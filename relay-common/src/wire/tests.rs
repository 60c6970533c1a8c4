//! Whole frames through the decoder. The expected values are written out here; that kernel and user
//! space agree is tested in tests/, on frames that another implementation builds.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::*;

/// Where the headers of an untagged frame start.
const IP: usize = ETHERNET_LEN;
const UDP: usize = ETHERNET_LEN + IPV4_LEN;
/// Where a tag goes: behind the addresses.
const TAG: usize = ethernet::field::TYPE.start;

/// An untagged datagram of 3 bytes to 239.1.1.1:5001 with Ethernet padding behind it.
const FRAME: [u8; 60] = {
    let head = [
        0x01, 0x00, 0x5e, 0x01, 0x01, 0x01, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
        0x45, 0x00, 0x00, 0x1f, 0x12, 0x34, 0x40, 0x00, 0x01, 0x11, 0x6d, 0x95, // IPv4
        10, 1, 0, 2, 239, 1, 1, 1, //
        0x9c, 0x40, 0x13, 0x89, 0x00, 0x0b, 0x12, 0x34, // UDP
        b'a', b'b', b'c',
    ];
    let mut frame = [0; 60];
    let mut at = 0;
    while at < head.len() {
        frame[at] = head[at];
        at += 1;
    }
    frame
};
/// The bytes of [`FRAME`] without padding.
const LEN: usize = IPV4_HEADERS_LEN + 3;

#[test]
fn a_plain_datagram_decodes_to_its_fields() {
    let datagram = decode(&FRAME[..]).unwrap();
    assert_eq!(datagram.group(), Ipv4Addr::new(239, 1, 1, 1));
    assert_eq!(datagram.source(), Ipv4Addr::new(10, 1, 0, 2));
    assert_eq!(datagram.ttl, 1);
    assert_eq!(datagram.port, 5001);
    assert_eq!(datagram.vlan, Vlan::UNTAGGED);
    assert_eq!(&FRAME[datagram.payload()..datagram.end()], b"abc");
}

#[test]
fn every_truncation_is_skipped_and_none_panics() {
    for len in 0..LEN {
        assert!(decode(&FRAME[..len]).is_err(), "{len} bytes");
    }
    assert!(decode(&FRAME[..LEN]).is_ok());
}

#[test]
fn one_changed_byte_in_the_ip_header_never_passes_for_the_same_datagram() {
    let whole = decode(&FRAME[..]).unwrap();
    for at in IP..UDP {
        for bit in 0..8 {
            let mut frame = FRAME;
            frame[at] ^= 1 << bit;
            assert_ne!(decode(&frame[..]), Ok(whole), "byte {at}, bit {bit}");
        }
    }
}

/// Makes the checksum of an IPv4 header right.
fn complete(header: &mut [u8]) {
    header[ipv4::field::CHECKSUM].fill(0);
    let words = header.as_chunks::<2>().0.iter();
    let sum = words.map(|word| u32::from(u16::from_be_bytes(*word)));
    let sum = sum.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    header[ipv4::field::CHECKSUM].copy_from_slice(&(!sum as u16).to_be_bytes());
}

#[test]
fn what_may_not_stand_in_an_ipv4_header_has_a_reason() {
    let changed = |change: &dyn Fn(&mut [u8])| {
        let mut frame = FRAME;
        change(&mut frame[IP..]);
        complete(&mut frame[IP..UDP]);
        judge(&frame[..], None, [2, 0, 0, 0, 0, 9]).err()
    };
    let version = |value| changed(&|ip| ip[ipv4::field::VERSION_AND_LEN] = value);
    assert_eq!(
        [0x45, 0x46, 0x4f].map(version),
        [None, Some(Skip::IpOptions), Some(Skip::IpOptions)]
    );
    assert_eq!(
        [0x44, 0x40, 0x55, 0x35].map(version),
        [Some(Skip::Malformed); 4]
    );
    let fragment =
        |value: u16| changed(&|ip| ip[ipv4::field::FRAGMENT].copy_from_slice(&value.to_be_bytes()));
    assert_eq!([0, 0x4000].map(fragment), [None; 2]);
    assert_eq!(
        [0x2000, 0x6000, 1, 0x100, 0x1fff].map(fragment),
        [Some(Skip::Fragment); 5]
    );
    let protocol = |value| changed(&|ip| ip[ipv4::field::PROTOCOL] = value);
    assert_eq!([1, 6, 16, 18, 255].map(protocol), [Some(Skip::NotUdp); 5]);
    // The first reason of several.
    let several = changed(&|ip| {
        ip[ipv4::field::FRAGMENT].copy_from_slice(&[0x20, 0]);
        ip[ipv4::field::PROTOCOL] = 6;
    });
    assert_eq!(several, Some(Skip::Fragment));
    let lengths = |ip_len: u16, udp_len: u16| {
        changed(&|ip| {
            ip[ipv4::field::TOTAL_LEN].copy_from_slice(&ip_len.to_be_bytes());
            ip[IPV4_LEN..][udp::field::LEN].copy_from_slice(&udp_len.to_be_bytes());
        })
    };
    for udp in [8, 10, 11, 26] {
        assert_eq!(lengths(20 + udp, udp), None, "{udp} bytes");
    }
    for (ip, udp) in [
        (27, 7),
        (20, 0),
        (31, 10),
        (30, 11),
        (0, 11),
        (47, 27),
        (65_535, 65_515),
    ] {
        assert_eq!(lengths(ip, udp), Some(Skip::Malformed), "{ip}, {udp}");
    }
    let source =
        |address: [u8; 4]| changed(&|ip| ip[ipv4::field::SOURCE].copy_from_slice(&address));
    for host in [
        [1, 0, 0, 0],
        [126, 255, 255, 255],
        [128, 0, 0, 1],
        [223, 255, 255, 255],
        [240, 0, 0, 1],
        [255, 255, 255, 254],
    ] {
        assert_eq!(source(host), None, "{host:?}");
    }
    for martian in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [239, 255, 255, 255],
        [255; 4],
    ] {
        assert_eq!(source(martian), Some(Skip::Martian), "{martian:?}");
    }
    for at in 0..6 {
        let mut frame = FRAME;
        frame[at] ^= 2;
        let skip = judge(&frame[..], None, [2, 0, 0, 0, 0, 9]).err();
        assert_eq!(
            skip,
            Some(Skip::OtherMac),
            "byte {at} of the Ethernet address"
        );
    }
    for from in [[0; 6], [3, 0, 0, 0, 0, 1]] {
        let mut frame = FRAME;
        frame[ethernet::field::SOURCE].copy_from_slice(&from);
        let skip = judge(&frame[..], None, [2, 0, 0, 0, 0, 9]).err();
        assert_eq!(skip, Some(Skip::Martian), "from {from:?}");
    }
}

#[test]
fn datagrams_to_hosts_are_taken_where_they_are_asked_for_and_broadcasts_never() {
    struct Port;

    impl Verdict for Port {
        type Output = u16;

        fn of(&self, datagram: Datagram, _: Mac) -> u16 {
            datagram.port
        }
    }

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 9];
    let sent = |to: [u8; 6], destination: [u8; 4]| {
        let mut frame = FRAME;
        frame[ethernet::field::DESTINATION].copy_from_slice(&to);
        frame[IP..][ipv4::field::DESTINATION].copy_from_slice(&destination);
        complete(&mut frame[IP..UDP]);
        let to_all = judge_all_for(&frame[..], None, OWN, &Port);
        (to_all, judge_for(&frame[..], None, OWN, &Port))
    };
    let host = [10, 1, 0, 9];
    assert_eq!(sent(OWN, host), (Ok(5001), Err(Skip::NotMulticast)));
    assert_eq!(
        sent([2, 0, 0, 0, 0, 8], host),
        (Err(Skip::OtherMac), Err(Skip::NotMulticast))
    );
    assert_eq!(
        sent([0xff; 6], host),
        (Err(Skip::NotMulticast), Err(Skip::NotMulticast))
    );
    let group = [239, 1, 1, 1];
    assert_eq!(sent([1, 0, 0x5e, 1, 1, 1], group), (Ok(5001), Ok(5001)));
    assert_eq!(sent(OWN, group), (Ok(5001), Ok(5001)));
    assert_eq!(
        sent([0xff; 6], group),
        (Err(Skip::OtherMac), Err(Skip::OtherMac))
    );
    let sent = |to: [u8; 6], destination: &str| {
        let destination: Ipv6Addr = destination.parse().unwrap();
        let mut frame = FRAME6;
        frame[ethernet::field::DESTINATION].copy_from_slice(&to);
        frame[IP..][ipv6::field::DESTINATION].copy_from_slice(&destination.octets());
        let to_all = judge_all_for(&frame[..], None, OWN, &Port);
        (to_all, judge_for(&frame[..], None, OWN, &Port))
    };
    assert_eq!(
        sent(OWN, "2001:db8::9"),
        (Ok(5001), Err(Skip::NotMulticast))
    );
    assert_eq!(
        sent([0x33, 0x33, 0, 0, 0, 9], "ff3e::9"),
        (Ok(5001), Ok(5001))
    );
}

/// [`FRAME`] with `tags` behind its addresses, of one EtherType and one control information each,
/// and `ethertype` behind them.
fn tagged<const N: usize>(tags: [(u16, u16); N], ethertype: u16) -> ([u8; 80], usize) {
    let mut frame = [0; 80];
    frame[..TAG].copy_from_slice(&FRAME[..TAG]);
    let mut at = TAG;
    for (tpid, tci) in tags {
        let tag = &mut frame[at..][..VLAN_LEN];
        let (tag_type, tag_tci) = tag.split_at_mut(vlan::field::TCI.len());
        tag_type.copy_from_slice(&tpid.to_be_bytes());
        tag_tci.copy_from_slice(&tci.to_be_bytes());
        at += VLAN_LEN;
    }
    let rest = &FRAME[TAG..];
    frame[at..][..rest.len()].copy_from_slice(rest);
    frame[at..][..size_of::<u16>()].copy_from_slice(&ethertype.to_be_bytes());
    (frame, at + rest.len())
}

#[test]
fn a_stripped_tag_counts_as_if_it_were_in_its_place() {
    const TYPES: [u16; 4] = [ethertype::IPV4, ethertype::IPV6, 0x0806, 0];
    const TCIS: [u16; 3] = [0, 10, 0xe00a];
    let check = |whole: &[u8], tag: Tag| {
        let mut stripped = [0; 80];
        let len = whole.len() - VLAN_LEN;
        stripped[..TAG].copy_from_slice(&whole[..TAG]);
        stripped[TAG..len].copy_from_slice(&whole[TAG + VLAN_LEN..]);
        let expected = decode(whole).map(|datagram| Datagram {
            network: datagram.network - VLAN_LEN as u16,
            ..datagram
        });
        let found = decode_stripped(&stripped[..len], Some(tag));
        assert_eq!(found, expected, "{tag:x?} {whole:02x?}");
    };
    for outer in [ethertype::VLAN, ethertype::QINQ] {
        for tci in TCIS {
            let tag = Tag { tpid: outer, tci };
            for ethertype in TYPES {
                let (one, len) = tagged([(outer, tci)], ethertype);
                // From the shortest frame that still has an EtherType without the tag.
                for len in ETHERNET_LEN + VLAN_LEN..=len {
                    check(&one[..len], tag);
                }
                for inner in [ethertype::VLAN, ethertype::QINQ] {
                    for inner_tci in [0x2000, 20] {
                        let (two, len) = tagged([(outer, tci), (inner, inner_tci)], ethertype);
                        for len in ETHERNET_LEN + VLAN_LEN..=len {
                            check(&two[..len], tag);
                        }
                        let tags = [(outer, tci), (inner, inner_tci), (outer, 30)];
                        let (three, len) = tagged(tags, ethertype);
                        check(&three[..len], tag);
                    }
                }
            }
        }
    }
}

#[test]
fn a_stripped_tag_gives_the_datagram_its_identifier_and_leaves_its_offsets() {
    let tag = Tag {
        tpid: ethertype::VLAN,
        tci: 0xe00a,
    };
    let untagged = decode(&FRAME[..]).unwrap();
    let datagram = decode_stripped(&FRAME[..], Some(tag)).unwrap();
    assert_eq!(
        datagram,
        Datagram {
            vlan: Vlan::tag(10),
            ..untagged
        }
    );
    assert_eq!(decode_stripped(&FRAME[..], None), Ok(untagged));
}

#[test]
fn tags_name_a_vlan_in_this_way() {
    use ethertype::{QINQ, VLAN};
    let named = |tags: &[(u16, u16)]| {
        let (frame, len) = match *tags {
            [one] => tagged([one], ethertype::IPV4),
            [outer, inner] => tagged([outer, inner], ethertype::IPV4),
            [first, second, third] => tagged([first, second, third], ethertype::IPV4),
            _ => tagged([], ethertype::IPV4),
        };
        decode(&frame[..len]).map(|datagram| datagram.vlan)
    };
    const PRIORITY: u16 = 0xe000;
    for (tags, expected) in [
        (&[][..], Ok(Vlan::UNTAGGED)),
        (&[(VLAN, 0xb064)], Ok(Vlan::tag(100))),
        (&[(VLAN, PRIORITY)], Ok(Vlan::UNTAGGED)),
        (&[(QINQ, PRIORITY)], Ok(Vlan::UNTAGGED)),
        (&[(QINQ, 100)], Err(Skip::Tags)),
        (&[(QINQ, 100), (VLAN, 200)], Ok(Vlan::double(100, 200))),
        (&[(VLAN, 100), (VLAN, 0x90c8)], Ok(Vlan::double(100, 200))),
        (&[(VLAN, 100), (QINQ, 200)], Err(Skip::Tags)),
        (&[(QINQ, 100), (QINQ, 200)], Err(Skip::Tags)),
        (&[(VLAN, PRIORITY), (VLAN, 200)], Ok(Vlan::tag(200))),
        (&[(QINQ, PRIORITY), (VLAN, 200)], Ok(Vlan::tag(200))),
        (&[(VLAN, 100), (VLAN, PRIORITY)], Ok(Vlan::tag(100))),
        (&[(VLAN, 100), (QINQ, PRIORITY)], Ok(Vlan::tag(100))),
        (&[(QINQ, 100), (VLAN, PRIORITY)], Err(Skip::Tags)),
        (&[(VLAN, PRIORITY), (VLAN, PRIORITY)], Ok(Vlan::UNTAGGED)),
        (&[(VLAN, 1), (VLAN, 2), (VLAN, 3)], Err(Skip::Tags)),
        (&[(VLAN, 1), (VLAN, PRIORITY), (VLAN, 3)], Err(Skip::Tags)),
    ] {
        assert_eq!(named(tags), expected, "{tags:x?}");
    }
    assert_ne!(Vlan::tag(100), Vlan::double(100, 100));
    assert_eq!(Vlan::double(100, 200).ids(), (100, 200));
    assert_eq!(Vlan::tag(200).ids(), (0, 200));
}

/// A datagram of 3 bytes to [ff3e::8000:1]:5001.
const FRAME6: [u8; 65] = {
    let head = [
        0x33, 0x33, 0x80, 0x00, 0x00, 0x01, 0x02, 0, 0, 0, 0, 1, 0x86, 0xdd, // Ethernet
        0x60, 0x0a, 0xbc, 0xde, 0x00, 0x0b, 17, 5, // IPv6
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, // source
        0xff, 0x3e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 1, // group
        0x9c, 0x40, 0x13, 0x89, 0x00, 0x0b, 0x12, 0x34, // UDP
        b'a', b'b', b'c',
    ];
    let mut frame = [0; 65];
    let mut at = 0;
    while at < frame.len() {
        frame[at] = head[at];
        at += 1;
    }
    frame
};

#[test]
fn a_datagram_over_ipv6_decodes_to_its_fields() {
    let datagram = decode(&FRAME6[..]).unwrap();
    let group: Ipv6Addr = "ff3e::8000:1".parse().unwrap();
    let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
    assert_eq!(
        (datagram.group(), datagram.source()),
        (group.into(), source.into())
    );
    assert_eq!((datagram.port, datagram.ttl), (5001, 5));
    assert_eq!((datagram.vlan, datagram.network), (Vlan::UNTAGGED, 14));
    assert_eq!(
        (datagram.transport(), datagram.payload()),
        (54, IPV6_HEADERS_LEN)
    );
    assert_eq!(&FRAME6[datagram.payload()..datagram.end()], b"abc");
    assert!(judge(&FRAME6[..], None, [2, 0, 0, 0, 0, 9]).is_ok());
    for len in 0..FRAME6.len() {
        assert!(decode(&FRAME6[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn what_may_not_stand_in_an_ipv6_header_has_a_reason() {
    const IP: usize = ETHERNET_LEN;
    let changed = |change: &dyn Fn(&mut [u8; 65])| {
        let mut frame = FRAME6;
        change(&mut frame);
        judge(&frame[..], None, [2, 0, 0, 0, 0, 9]).err()
    };
    for (next, expected) in [
        (0, Skip::Ipv6Extension),
        (6, Skip::NotUdp),
        (43, Skip::Ipv6Extension),
        (44, Skip::Fragment),
        (50, Skip::NotUdp),
        (51, Skip::Ipv6Extension),
        (58, Skip::NotUdp),
        (59, Skip::NotUdp),
        (60, Skip::Ipv6Extension),
        (135, Skip::Ipv6Extension),
        (139, Skip::Ipv6Extension),
        (140, Skip::Ipv6Extension),
    ] {
        let skip = changed(&|frame| frame[IP + ipv6::field::NEXT_HEADER] = next);
        assert_eq!(skip, Some(expected), "next header {next}");
    }
    let version = |version| changed(&|frame| frame[IP] = version);
    assert_eq!(
        (version(0x50), version(0x40)),
        (Some(Skip::Malformed), Some(Skip::Malformed))
    );
    assert_eq!(version(0x6f), None, "a traffic class");
    let checksum =
        |value: u16| changed(&|frame| frame[60..62].copy_from_slice(&value.to_be_bytes()));
    assert_eq!((checksum(0), checksum(1)), (Some(Skip::NoChecksum), None));
    let lengths = |ip: u8, udp: u8| {
        changed(&|frame| {
            frame[IP + ipv6::field::PAYLOAD_LEN.start + 1] = ip;
            frame[IP + IPV6_LEN + udp::field::LEN.start + 1] = udp;
        })
    };
    assert_eq!(
        (lengths(8, 8), lengths(10, 10), lengths(11, 11)),
        (None, None, None)
    );
    for (ip, udp) in [
        (7, 7),
        (0, 0),
        (0, 11),
        (11, 10),
        (10, 11),
        (12, 12),
        (255, 255),
    ] {
        assert_eq!(lengths(ip, udp), Some(Skip::Malformed), "{ip}, {udp}");
    }
    let source = |address: &str| {
        let address: Ipv6Addr = address.parse().unwrap();
        changed(&|frame| frame[IP..][ipv6::field::SOURCE].copy_from_slice(&address.octets()))
    };
    for martian in [
        "::",
        "::1",
        "ff02::1",
        "::ffff:10.1.1.1",
        "::ffff:0.0.0.0",
        "ffff::",
    ] {
        assert_eq!(source(martian), Some(Skip::Martian), "{martian}");
    }
    for host in [
        "fe80::1",
        "1::",
        "0:0:1::1",
        "::2",
        "::1:0:0:1",
        "::fffe:0:0",
        "64:ff9b::1",
    ] {
        assert_eq!(source(host), None, "{host}");
    }
    let group = |address: &str| {
        let address: Ipv6Addr = address.parse().unwrap();
        changed(&|frame| {
            frame[IP..][ipv6::field::DESTINATION].copy_from_slice(&address.octets());
            frame[2..6].copy_from_slice(&address.octets()[12..]);
        })
    };
    assert_eq!(group("fe3e::1"), Some(Skip::NotMulticast));
    for scope in ["ff00::1", "ff01::1", "ff30::1", "ff31::8000:1"] {
        assert_eq!(group(scope), Some(Skip::Martian), "{scope}");
    }
    for scope in ["ff02::1", "ff3e::8000:2", "ff15::1", "ff1e::", "fff2::1"] {
        assert_eq!(group(scope), None, "{scope}");
    }
    for at in 0..6 {
        let skip = changed(&|frame| frame[at] ^= 2);
        assert_eq!(
            skip,
            Some(Skip::OtherMac),
            "byte {at} of the Ethernet address"
        );
    }
    assert_eq!(
        changed(&|frame| frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9])),
        None
    );
}

#[test]
fn a_gso_packet_is_one_datagram_of_the_whole_length() {
    const PAYLOAD: usize = 65_507;
    let mut frame = [0; IPV4_HEADERS_LEN + PAYLOAD];
    frame[..FRAME.len()].copy_from_slice(&FRAME);
    let ip = &mut frame[IP..UDP];
    ip[ipv4::field::TOTAL_LEN].copy_from_slice(&u16::MAX.to_be_bytes());
    complete(ip);
    frame[UDP..][udp::field::LEN].copy_from_slice(&((UDP_LEN + PAYLOAD) as u16).to_be_bytes());
    let datagram = decode(&frame[..]).unwrap();
    assert_eq!(usize::from(datagram.payload_len), PAYLOAD);
    assert_eq!(datagram.end(), frame.len());
    assert_eq!(
        decode(&frame[..frame.len() - 1]),
        Err(Skip::Malformed),
        "one byte short"
    );
}

#[test]
fn addresses_are_of_one_version_of_ip() {
    for (source, group) in [("10.1.0.2", "239.1.1.1"), ("2001:db8::7", "ff3e::8000:1")] {
        let (source, group) = (source.parse().unwrap(), group.parse().unwrap());
        let addresses = Addresses::between(source, group).unwrap();
        assert_eq!((addresses.source(), addresses.group()), (source, group));
        assert_eq!(
            Addresses::between(source, Ipv4Addr::BROADCAST.into()).is_some(),
            source.is_ipv4()
        );
        assert_eq!(
            Addresses::between(source, Ipv6Addr::LOCALHOST.into()).is_some(),
            source.is_ipv6()
        );
    }
}
