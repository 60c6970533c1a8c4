//! Copies of IPv6 datagrams.

use etherparse::{Ipv6Slice, PacketBuilder, UdpHeaderSlice};
use relay_common::wire::{
    ETHERNET_LEN, IPV6_HEADERS_LEN, Skip, ethernet::field as ethernet, ipv6::field as ip,
};

use super::*;

const SOURCE: &str = "2001:db8::7";
const GROUP: &str = "ff3e::8000:1";
const OUR_SOURCE: &str = "2001:db8:2::1";
const OUR_GROUP: &str = "ff3e::8000:2";
/// Traffic class 0xb8 and flow label 0xabcde, behind version 6.
const FIRST: [u8; 4] = [0x6b, 0x8a, 0xbc, 0xde];
const UDP: usize = IPV6_HEADERS_LEN - 8;
const CHECKSUM: Range<usize> = UDP + 6..UDP + 8;
/// Both addresses in the frame.
const ADDRESSES: Range<usize> = ETHERNET_LEN + 8..ETHERNET_LEN + 40;

fn template(ttl: Ttl) -> Template {
    let (source, group) = (OUR_SOURCE.parse().unwrap(), OUR_GROUP.parse().unwrap());
    template_of(source, group, 5002, ttl)
}

/// A frame with a complete checksum, as a NIC delivers it.
fn frame(payload: &[u8], hop_limit: u8) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x33, 0x33, 0x80, 0, 0, 1])
        .ipv6(octets(SOURCE), octets(GROUP), hop_limit)
        .udp(40_000, 5001)
        .write(&mut frame, payload)
        .unwrap();
    frame[ETHERNET_LEN..][ip::VERSION_CLASS_AND_LABEL].copy_from_slice(&FIRST);
    frame
}

fn rewrite(frame: &mut [u8], ttl: Ttl) -> Option<()> {
    rewrite_known(frame, ttl, Known::Nothing)
}

/// Rewrites a frame in place, as the forwarding loop does.
fn rewrite_known(frame: &mut [u8], ttl: Ttl, known: Known) -> Option<()> {
    rewrite_by(&template(ttl), frame, known)
}

/// The checksum that the frame must have, by an independent implementation, and the one it has.
fn checksums(frame: &[u8]) -> (u16, u16) {
    let ip = Ipv6Slice::from_slice(&frame[ETHERNET_LEN..]).unwrap();
    let udp = UdpHeaderSlice::from_slice(ip.payload().payload).unwrap();
    let payload = &ip.payload().payload[8..];
    let header = ip.header().to_header();
    let right = udp.to_header().calc_checksum_ipv6(&header, payload);
    (right.unwrap(), udp.checksum())
}

fn checksum_is_right(frame: &[u8]) -> bool {
    let (right, is) = checksums(frame);
    right == is
}

/// The folded sum of the pseudo-header, which a local socket leaves in the checksum's place.
fn pseudo(frame: &[u8], payload: usize) -> u16 {
    let sum = sum_words(&frame[ADDRESSES]) + word(17 + payload as u16 + 8);
    u16::from_be(fold(sum))
}

#[test]
fn a_copy_has_the_outputs_addresses_and_a_right_checksum_for_every_payload() {
    for payload in payloads() {
        let mut frame = frame(&payload, 1);
        assert!(checksum_is_right(&frame));
        rewrite(&mut frame, Ttl::Auto).unwrap();
        assert!(checksum_is_right(&frame), "{} bytes", payload.len());
        let ip = Ipv6Slice::from_slice(&frame[ETHERNET_LEN..]).unwrap();
        let header = ip.header();
        assert_eq!(header.source_addr().to_string(), OUR_SOURCE);
        assert_eq!(header.destination_addr().to_string(), OUR_GROUP);
        assert_eq!(header.hop_limit(), 64);
        assert_eq!(usize::from(header.payload_length()), 8 + payload.len());
        assert_eq!(frame[ethernet::DESTINATION], [0x33, 0x33, 0x80, 0, 0, 2]);
        assert_eq!(frame[ethernet::SOURCE], [2, 0, 0, 0, 0, 9]);
        assert_eq!(&frame[IPV6_HEADERS_LEN..], payload);
        let udp = UdpHeaderSlice::from_slice(&frame[UDP..]).unwrap();
        assert_eq!((udp.source_port(), udp.destination_port()), (40_000, 5002));
    }
}

#[test]
fn flow_label_and_traffic_class_are_kept() {
    let mut frame = frame(b"payload", 9);
    rewrite(&mut frame, Ttl::Decrement).unwrap();
    assert_eq!(
        frame[ETHERNET_LEN..][ip::VERSION_CLASS_AND_LABEL],
        FIRST,
        "version, traffic class and flow label"
    );
    assert_eq!(frame[ETHERNET_LEN + ip::HOP_LIMIT], 8);
    assert!(checksum_is_right(&frame));
}

#[test]
fn a_partial_checksum_is_completed_for_every_payload() {
    for payload in payloads() {
        for known in [Known::Nothing, Known::Partial] {
            let mut frame = frame(&payload, 1);
            let pseudo = pseudo(&frame, payload.len());
            put(&mut frame, CHECKSUM, pseudo);
            rewrite_known(&mut frame, Ttl::Auto, known).unwrap();
            assert!(checksum_is_right(&frame), "{} bytes", payload.len());
        }
    }
}

/// Payloads of two bytes with every value: one of them gives the sum 0.
#[test]
fn a_checksum_of_zero_leaves_as_ones() {
    for known in [Known::Complete, Known::Partial] {
        let mut zeros = 0;
        for word in 0..=u16::MAX {
            let mut frame = frame(&word.to_be_bytes(), 1);
            if known == Known::Partial {
                let pseudo = pseudo(&frame, 2);
                put(&mut frame, CHECKSUM, pseudo);
            }
            rewrite_known(&mut frame, Ttl::Auto, known).unwrap();
            let (right, is) = checksums(&frame);
            assert_ne!(is, 0, "{word}");
            assert_eq!(is, right, "{word}");
            zeros += u32::from(is == 0xffff);
        }
        assert!(zeros > 0);
    }
}

#[test]
fn a_datagram_without_a_checksum_is_not_decoded() {
    let mut frame = frame(b"payload", 1);
    put(&mut frame, CHECKSUM, 0);
    assert_eq!(wire::decode(&frame[..]), Err(Skip::NoChecksum));
}

#[test]
fn a_payload_damaged_on_the_way_in_is_still_damaged_on_the_way_out() {
    for at in 0..7 {
        for bit in 0..8 {
            let mut frame = frame(b"payload", 1);
            frame[IPV6_HEADERS_LEN + at] ^= 1 << bit;
            rewrite(&mut frame, Ttl::Auto).unwrap();
            assert!(!checksum_is_right(&frame), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_complete_checksum_vouches_for_its_payload_and_for_no_other() {
    vouches_for_its_payload_alone(|payload| frame(payload, 1));
}

#[test]
fn a_hop_limit_that_is_used_up_does_not_leave() {
    assert!(rewrite(&mut frame(b"payload", 2), Ttl::Decrement).is_some());
    assert!(rewrite(&mut frame(b"payload", 1), Ttl::Decrement).is_none());
    assert!(rewrite(&mut frame(b"payload", 33), Ttl::Auto).is_none());
}

#[test]
fn each_datagram_of_a_gso_packet_leaves_as_if_it_had_come_alone() {
    let payload: Vec<u8> = (0..700 * 3 + 13).map(|i| (i * 31) as u8).collect();
    let whole = frame(&payload, 9);
    let datagram = wire::decode(&whole[..]).unwrap();
    let gso_packet = Received::read(&whole, &datagram, Known::Partial).unwrap();
    let template = template(Ttl::Decrement);
    let mut last: Option<Received> = None;
    for (number, payload) in (0u16..).zip(payload.chunks(700)) {
        let part = gso_packet.part(number, payload.len() as u16);
        let mut frame = vec![0; IPV6_HEADERS_LEN];
        template.write(&mut frame, &part, 8, part.udp_sum(payload));
        frame.extend(payload);
        assert!(checksum_is_right(&frame), "{number}");
        assert_eq!(
            frame[ETHERNET_LEN..][ip::VERSION_CLASS_AND_LABEL],
            FIRST,
            "{number}"
        );
        assert!(part.checksum_ok(payload));
        assert!(last.is_none_or(|last| last.is_followed_by(&part)));
        last = Some(part);
    }
}

#[test]
fn a_datagram_follows_one_with_the_same_headers_and_no_other() {
    let first = received(&frame(b"payload", 9));
    assert!(first.is_followed_by(&first));
    for (at, what) in [
        (ETHERNET_LEN, "traffic class"),
        (ETHERNET_LEN + 1, "traffic class and flow label"),
        (ETHERNET_LEN + 2, "flow label"),
        (ETHERNET_LEN + 3, "flow label"),
        (ETHERNET_LEN + ip::HOP_LIMIT, "hop limit"),
        (UDP, "source port"),
    ] {
        let mut frame = frame(b"payload", 9);
        frame[at] ^= 1;
        assert!(!first.is_followed_by(&received(&frame)), "{what}");
    }
}

#[test]
fn a_gso_packet_has_the_length_of_all_and_the_sum_of_its_pseudo_header() {
    let received = received(&frame(b"payload", 1));
    let template = template(Ttl::Auto);
    let mut header = [0; HEADERS_ROOM];
    template.write_joined(&mut header, &received, 64, 3000);
    let (ip, rest) = etherparse::Ipv6Header::from_slice(&header[ETHERNET_LEN..]).unwrap();
    assert_eq!(ip.payload_length, 3008);
    let udp = UdpHeaderSlice::from_slice(rest).unwrap();
    assert_eq!(udp.length(), 3008);
    assert_eq!(udp.destination_port(), 5002);
    assert_eq!(udp.checksum(), pseudo(&header, 3000));
    assert_eq!(header[template.headers_len()..], [0; HEADERS_ROOM - 62]);
}

#[test]
fn the_longest_payload_is_what_the_mtu_leaves_it() {
    assert_eq!(template(Ttl::Auto).max_payload(1500), 1452);
    let ipv4 = super::template(Ttl::Auto);
    assert_eq!(ipv4.max_payload(1500), 1472);
    assert_eq!(ipv4.max_payload(20), 0);
    assert_eq!(ipv4.max_payload(u32::MAX), u16::MAX);
}
