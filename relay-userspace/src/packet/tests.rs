//! Headers compared with an independent implementation, and the checksums of damaged payloads.

use etherparse::{Ipv4Slice, PacketBuilder, UdpHeaderSlice};
use relay_common::wire;

use std::{net::IpAddr, ops::Range};

use relay_common::wire::IPV4_HEADERS_LEN;

mod adapted;
mod ipv6;
mod mapped;

use super::{
    checksum::{fold, sum_words, word},
    *,
};
use crate::config::rules::{Header, Match, PortMatch, Ttl, Vlan};

/// Where fields lie in a frame without a tag and without IPv4 options.
const IP_ID: Range<usize> = 18..20;
const IP_CHECKSUM: Range<usize> = 24..26;
const UDP_CHECKSUM: Range<usize> = 40..42;

fn put(frame: &mut [u8], field: Range<usize>, value: u16) {
    frame[field].copy_from_slice(&value.to_be_bytes());
}

/// Writes a checksum, which is as it lies in memory.
fn put_sum(frame: &mut [u8], field: Range<usize>, sum: u16) {
    frame[field].copy_from_slice(&sum.to_ne_bytes());
}

/// What datagrams to groups of this version of IP match.
fn input(is_ipv4: bool) -> Match {
    let groups = if is_ipv4 { "224.0.0.0/4" } else { "ff00::/8" };
    Match {
        group: groups.parse().unwrap(),
        ports: PortMatch::Any,
        sources: Vec::new(),
        vlan: Vlan::Untagged,
    }
}

/// The template of an output that sends to `group`:`port` from `source`, of the same version of IP.
fn template_of(source: IpAddr, group: IpAddr, port: u16, ttl: Ttl) -> Template {
    let header = Header {
        ttl,
        ..Header::default()
    };
    Template::new(&Target {
        source_mac: [2, 0, 0, 0, 0, 9],
        destination_mac: crate::plan::of_group(group),
        source: Some(source),
        group: group.into(),
        port: PortMatch::One(port),
        header: &header,
        input: &input(group.is_ipv4()),
    })
    .unwrap()
}

fn template(ttl: Ttl) -> Template {
    template_of([10, 2, 0, 1].into(), [239, 130, 2, 2].into(), 5002, ttl)
}

/// A frame with a complete checksum, as a NIC delivers it.
fn frame(payload: &[u8], ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1])
        .ipv4([10, 1, 0, 2], [239, 1, 1, 1], ttl)
        .udp(40_000, 5001)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// Rewrites a frame in place, as the forwarding loop does.
fn rewrite(frame: &mut [u8], ttl: Ttl) -> Option<()> {
    rewrite_known(frame, ttl, Known::Nothing)
}

/// The same, with what the kernel says about the frame's checksum.
fn rewrite_known(frame: &mut [u8], ttl: Ttl, known: Known) -> Option<()> {
    rewrite_by(&template(ttl), frame, known)
}

/// The same, by another template.
fn rewrite_by(template: &Template, frame: &mut [u8], known: Known) -> Option<()> {
    let datagram = wire::decode(&*frame).unwrap();
    let received = Received::read(frame, &datagram, known).unwrap();
    assert_eq!(template.headers_len(), datagram.payload());
    let ttl = template.ttl(&received)?;
    let udp_sum = received.udp_sum(&frame[datagram.payload()..datagram.end()]);
    let headers_len = template.write(frame, &received, ttl, udp_sum);
    assert_patched_is_the_same(template, &received, udp_sum, &frame[..headers_len]);
    Some(())
}

/// Fails unless the other way to write headers, where there is one, writes the same.
fn assert_patched_is_the_same(
    template: &Template,
    received: &Received,
    udp_sum: Option<u32>,
    headers: &[u8],
) {
    let patched = template
        .ttl(received)
        .and_then(|ttl| template.patched(ttl))
        .filter(|patched| patched.is_ipv6() == received.is_ipv6());
    if let Some(patched) = patched {
        let mut place = [0xee; PATCH_ROOM];
        let patch = Patch::new(received, udp_sum);
        let len = match patched.is_ipv6() {
            true => {
                patched.write::<true>(&mut place, &patch);
                Patched::len::<true>()
            }
            false => {
                patched.write::<false>(&mut place, &patch);
                Patched::len::<false>()
            }
        };
        assert_eq!(place[..len], *headers);
    }
}

/// Whether an independent implementation finds the UDP checksum right.
fn checksum_is_right(frame: &[u8]) -> bool {
    let ip = Ipv4Slice::from_slice(&frame[14..]).unwrap();
    let udp = UdpHeaderSlice::from_slice(ip.payload().payload).unwrap();
    let payload = &ip.payload().payload[8..];
    let expected = udp
        .to_header()
        .calc_checksum_ipv4(&ip.header().to_header(), payload)
        .unwrap();
    expected == udp.checksum()
}

fn payloads() -> impl Iterator<Item = Vec<u8>> {
    [0, 1, 2, 7, 8, 9, 18, 46, 64, 999, 1472]
        .into_iter()
        .flat_map(|len| {
            [
                vec![0; len],
                vec![0xff; len],
                (0..len).map(|i| (i * 37 + 11) as u8).collect(),
            ]
        })
}

#[test]
fn a_complete_checksum_stays_right_for_every_payload() {
    for payload in payloads() {
        let mut frame = frame(&payload, 1);
        assert!(checksum_is_right(&frame));
        rewrite(&mut frame, Ttl::Auto).unwrap();
        assert!(checksum_is_right(&frame), "{} bytes", payload.len());
        let ip = Ipv4Slice::from_slice(&frame[14..]).unwrap();
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        assert_eq!(header.destination, [239, 130, 2, 2]);
        assert_eq!(header.source, [10, 2, 0, 1]);
        assert_eq!(header.time_to_live, 64);
        assert_eq!(&frame[..6], &[1, 0, 0x5e, 2, 2, 2]);
        assert_eq!(&frame[42..], payload);
    }
}

#[test]
fn a_partial_checksum_is_completed_for_every_payload() {
    for payload in payloads() {
        let mut frame = frame(&payload, 1);
        let pseudo = sum_words(&frame[26..34]) + word(17 + payload.len() as u16 + 8);
        put_sum(&mut frame, UDP_CHECKSUM, fold(pseudo));
        rewrite(&mut frame, Ttl::Auto).unwrap();
        assert!(checksum_is_right(&frame), "{} bytes", payload.len());
    }
}

#[test]
fn each_datagram_of_a_gso_packet_leaves_as_if_it_had_come_alone() {
    let payload: Vec<u8> = (0..700 * 3 + 13).map(|i| (i * 31) as u8).collect();
    let mut whole = frame(&payload, 9);
    put(&mut whole, IP_ID, 0xffff); // identifications wrap
    let ip_sum = sum_words(&whole[14..24]) + sum_words(&whole[26..34]);
    put_sum(&mut whole, IP_CHECKSUM, !fold(ip_sum));
    let datagram = wire::decode(&whole[..]).unwrap();
    let gso_packet = Received::read(&whole, &datagram, Known::Partial).unwrap();
    let template = template(Ttl::Decrement);
    let mut last: Option<Received> = None;
    for (number, payload) in (0u16..).zip(payload.chunks(700)) {
        let part = gso_packet.part(number, payload.len() as u16);
        let mut frame = vec![0; 42];
        template.write(&mut frame, &part, 8, part.udp_sum(payload));
        frame.extend(payload);
        assert!(checksum_is_right(&frame), "{number}");
        let ip = Ipv4Slice::from_slice(&frame[14..])
            .unwrap()
            .header()
            .to_header();
        assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
        assert_eq!(ip.identification, 0xffffu16.wrapping_add(number));
        assert_eq!(usize::from(ip.total_len), 28 + payload.len());
        assert!(part.checksum_ok(payload));
        assert!(last.is_none_or(|last| last.is_followed_by(&part)));
        last = Some(part);
    }
}

/// A frame whose payload is damaged, and whose complete checksum has the value of a partial one.
fn damaged_with_the_value_of_a_partial_checksum() -> Vec<u8> {
    let mut frame = frame(b"payload", 1);
    let pseudo = fold(sum_words(&frame[26..34]) + word(17 + 7 + 8));
    put_sum(&mut frame, UDP_CHECKSUM, pseudo);
    assert!(!checksum_is_right(&frame));
    frame
}

#[test]
fn what_is_known_of_a_checksum_wins_over_its_value() {
    let frame = damaged_with_the_value_of_a_partial_checksum();
    let datagram = wire::decode(&frame[..]).unwrap();
    let vouches = |known| {
        let received = Received::read(&frame, &datagram, known).unwrap();
        received.checksum_ok(b"payload")
    };
    assert!(vouches(Known::Nothing), "partial by its value");
    assert!(vouches(Known::Partial));
    assert!(!vouches(Known::Complete), "complete, and wrong");
    assert!(vouches(Known::Right), "who found it right is believed");
}

#[test]
fn a_damaged_payload_whose_checksum_looks_partial_stays_damaged_where_none_can_be() {
    for (known, repaired) in [
        (Known::Nothing, true),
        (Known::Partial, true),
        (Known::Complete, false),
        (Known::Right, false),
    ] {
        let mut frame = damaged_with_the_value_of_a_partial_checksum();
        rewrite_known(&mut frame, Ttl::Auto, known).unwrap();
        assert_eq!(checksum_is_right(&frame), repaired, "{known:?}");
    }
}

#[test]
fn a_checksum_that_was_found_right_is_derived_and_never_computed() {
    for payload in payloads() {
        let frame = frame(&payload, 1);
        let datagram = wire::decode(&frame[..]).unwrap();
        let read = |known| Received::read(&frame, &datagram, known).unwrap();
        let right = read(Known::Right);
        assert_eq!(right.udp_sum(&[]), read(Known::Complete).udp_sum(&payload));
        assert!(right.checksum_ok(&[]), "the payload is not read");
    }
}

#[test]
fn a_missing_checksum_stays_missing() {
    let mut frame = frame(b"payload", 1);
    frame[40..42].fill(0);
    rewrite(&mut frame, Ttl::Auto).unwrap();
    assert_eq!(frame[40..42], [0, 0]);
}

#[test]
fn a_payload_damaged_on_the_way_in_is_still_damaged_on_the_way_out() {
    for at in 0..7 {
        for bit in 0..8 {
            let mut frame = frame(b"payload", 1);
            frame[42 + at] ^= 1 << bit;
            rewrite(&mut frame, Ttl::Auto).unwrap();
            assert!(!checksum_is_right(&frame), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn identification_flags_service_and_source_port_are_kept() {
    let mut frame = frame(b"payload", 9);
    frame[15] = 0xb8;
    frame[18..20].copy_from_slice(&[0xbe, 0xef]);
    frame[20] = 0x40;
    frame[24..26].fill(0);
    let sum = !fold(sum_words(&frame[14..34]));
    put_sum(&mut frame, IP_CHECKSUM, sum);
    rewrite(&mut frame, Ttl::Decrement).unwrap();
    assert_eq!(frame[15], 0xb8);
    assert_eq!(frame[18..21], [0xbe, 0xef, 0x40]);
    assert_eq!(frame[22], 8);
    assert_eq!(frame[34..36], 40_000u16.to_be_bytes());
    assert_eq!(fold(sum_words(&frame[14..34])), 0xffff);
}

#[test]
fn a_decremented_ttl_of_one_or_zero_does_not_leave() {
    assert!(rewrite(&mut frame(b"payload", 2), Ttl::Decrement).is_some());
    assert!(rewrite(&mut frame(b"payload", 1), Ttl::Decrement).is_none());
    assert!(rewrite(&mut frame(b"payload", 0), Ttl::Decrement).is_none());
}

fn received(frame: &[u8]) -> Received {
    Received::read(frame, &wire::decode(frame).unwrap(), Known::Nothing).unwrap()
}

/// Fails unless the checksum of each frame that `frame` makes is right for its payload, and wrong
/// for each that differs in a byte.
fn vouches_for_its_payload_alone(frame: impl Fn(&[u8]) -> Vec<u8>) {
    for payload in payloads() {
        let received = received(&frame(&payload));
        assert!(received.checksum_ok(&payload), "{} bytes", payload.len());
        for at in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[at] ^= 1;
            assert!(!received.checksum_ok(&damaged), "byte {at}");
        }
    }
}

#[test]
fn a_complete_checksum_vouches_for_its_payload_and_for_no_other() {
    vouches_for_its_payload_alone(|payload| frame(payload, 1));
}

#[test]
fn a_datagram_follows_the_one_before_it_and_no_other() {
    let frame = |change: fn(&mut [u8])| {
        let mut frame = frame(b"payload", 9);
        frame[18..22].copy_from_slice(&[0xff, 0xff, 0, 0]);
        change(&mut frame);
        frame[24..26].fill(0);
        let sum = !fold(sum_words(&frame[14..34]));
        put_sum(&mut frame, IP_CHECKSUM, sum);
        received(&frame)
    };
    let first = frame(|_| ());
    let next = |change: fn(&mut [u8])| first.is_followed_by(&frame(change));
    assert!(next(|frame| frame[18..20].fill(0)));
    assert!(!next(|_| ()), "the same identification");
    assert!(!next(|frame| frame[18..20].copy_from_slice(&[0, 1])));
    assert!(!next(|frame| {
        frame[18..20].fill(0);
        frame[15] = 0xb8;
    }));
    assert!(!next(|frame| {
        frame[18..20].fill(0);
        frame[22] = 8;
    }));
    assert!(!next(|frame| {
        frame[18..20].fill(0);
        frame[20] = 0x40;
    }));
    assert!(!next(|frame| {
        frame[18..20].fill(0);
        frame[35] ^= 1;
    }));
    let atomic = frame(|frame| frame[20] = 0x40);
    assert!(atomic.is_followed_by(&atomic));
}

#[test]
fn a_gso_packet_has_the_length_of_all_and_the_sum_of_its_pseudo_header() {
    let received = received(&frame(b"payload", 1));
    let template = template(Ttl::Auto);
    let mut header = [0; IPV4_HEADERS_LEN];
    template.write_joined(&mut header, &received, 64, 3000);
    let (ip, rest) = etherparse::Ipv4Header::from_slice(&header[14..]).unwrap();
    assert_eq!(ip.total_len, 3028);
    assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
    let udp = UdpHeaderSlice::from_slice(rest).unwrap();
    assert_eq!(udp.length(), 3008);
    assert_eq!(udp.destination_port(), 5002);
    let pseudo = sum_words(&header[26..34]) + word(17 + 3008);
    assert_eq!(udp.checksum().to_be(), fold(pseudo));
}
