//! The decoder on any bytes.
//!
//! Input: four bytes that choose a tag beside the frame and the interface's Ethernet address, and
//! the frame.

use std::net::IpAddr;

use etherparse::{LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TransportSlice, ip_number};
use relay_common::wire::{
    self, Datagram, ETHERNET_LEN, Mac, Skip, Tag, VLAN_LEN, Vlan, ethernet, ethertype, mac,
};

use crate::frames::words_add_up;

/// Runs the target.
pub fn run(data: &[u8]) {
    let Some((&[choice, high, low, own], frame)) = data.split_first_chunk() else {
        return;
    };
    let tag = Tag {
        tpid: [ethertype::VLAN, ethertype::QINQ][usize::from(choice & 1)],
        tci: u16::from_be_bytes([high, low]),
    };
    let own = [2, 0, 0, 0, 0, own];
    let found = wire::decode(frame);
    assert_eq!(seen(frame, &found), expected(frame), "{found:?}");
    assert_eq!(wire::decode_as(wire::kind(frame), frame), found);
    stays_inside(frame, &found);
    counts_a_tag_beside_as_one_inside(frame, tag);
    for beside in [None, Some(tag)] {
        judges_what_it_decodes(frame, beside, own);
    }
}

/// What a decoder finds, in terms that both have.
#[derive(Debug, PartialEq, Eq)]
struct Seen<'a> {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    ttl: u8,
    vlan: Vlan,
    payload: &'a [u8],
}

/// What the relay's decoder has found.
fn seen<'a>(frame: &'a [u8], found: &Result<Datagram, Skip>) -> Option<Seen<'a>> {
    let datagram = found.as_ref().ok()?;
    Some(Seen {
        source: datagram.source(),
        destination: datagram.group(),
        port: datagram.port,
        ttl: datagram.ttl,
        vlan: datagram.vlan,
        payload: &frame[datagram.payload()..datagram.end()],
    })
}

/// What etherparse makes of the frame, where the relay shall take it.
fn expected(frame: &[u8]) -> Option<Seen<'_>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let TransportSlice::Udp(udp) = packet.transport.as_ref()? else {
        return None;
    };
    let (source, destination, ttl): (IpAddr, IpAddr, u8) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let is_plain = header.slice().len() == 20
                && !header.is_fragmenting_payload()
                && header.protocol() == ip_number::UDP
                && header.total_len() == udp.length().checked_add(20)?
                && words_add_up(header.slice());
            let (source, destination) = (header.source_addr(), header.destination_addr());
            is_plain.then_some((source.into(), destination.into(), header.ttl()))?
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let is_plain = header.next_header() == ip_number::UDP
                && header.payload_length() == udp.length()
                && udp.checksum() != 0;
            let (source, destination) = (header.source_addr(), header.destination_addr());
            is_plain.then_some((source.into(), destination.into(), header.hop_limit()))?
        }
        NetSlice::Arp(_) => return None,
    };
    (udp.length() >= 8).then_some(())?;
    Some(Seen {
        source,
        destination,
        port: udp.destination_port(),
        ttl,
        vlan: vlan(&packet)?,
        payload: udp.payload(),
    })
}

/// The VLAN that the tags name, if they name one that a rule can have.
fn vlan(packet: &SlicedPacket<'_>) -> Option<Vlan> {
    let LinkSlice::Ethernet2(ethernet) = packet.link.as_ref()? else {
        return None;
    };
    let mut announced = ethernet.ether_type().0;
    let mut named = Vec::new();
    if packet.link_exts.len() > 2 {
        return None;
    }
    for tag in &packet.link_exts {
        let LinkExtSlice::Vlan(tag) = tag else {
            return None;
        };
        let is_service = match announced {
            0x8100 => false,
            0x88a8 => true,
            _ => return None,
        };
        if tag.vlan_identifier().value() != 0 {
            named.push((is_service, tag.vlan_identifier().value()));
        }
        announced = tag.ether_type().0;
    }
    match named[..] {
        [] => Some(Vlan::UNTAGGED),
        [(false, id)] => Some(Vlan::tag(id)),
        [(_, outer), (false, inner)] => Some(Vlan::double(outer, inner)),
        _ => None,
    }
}

/// What follows the datagram does not matter, and every byte up to its end does.
fn stays_inside(frame: &[u8], found: &Result<Datagram, Skip>) {
    let Ok(datagram) = found else {
        return;
    };
    let end = datagram.end();
    assert!(usize::from(datagram.network) >= ETHERNET_LEN && end <= frame.len());
    assert_eq!(wire::decode(&frame[..end]), *found);
    assert!(wire::decode(&frame[..end - 1]).is_err());
}

fn counts_a_tag_beside_as_one_inside(frame: &[u8], tag: Tag) {
    if frame.len() < ETHERNET_LEN {
        return;
    }
    let (addresses, rest) = frame.split_at(ethernet::field::TYPE.start);
    let [tpid, tci] = [tag.tpid.to_be_bytes(), tag.tci.to_be_bytes()];
    let whole = [addresses, &tpid, &tci, rest].concat();
    let expected = wire::decode(&whole[..]).map(|datagram| Datagram {
        network: datagram.network - VLAN_LEN as u16,
        ..datagram
    });
    assert_eq!(wire::decode_stripped(frame, Some(tag)), expected);
}

fn judges_what_it_decodes(frame: &[u8], beside: Option<Tag>, own: [u8; 6]) {
    struct Both;

    impl wire::Verdict for Both {
        type Output = (Datagram, Mac);

        fn of(&self, datagram: Datagram, from: Mac) -> Self::Output {
            (datagram, from)
        }
    }

    let decoded = wire::decode_stripped(frame, beside);
    let judged = wire::judge(frame, beside, own);
    let to_groups = wire::judge_for(frame, beside, own, &Both);
    match (decoded, judged) {
        (Ok(decoded), Ok((datagram, from))) => {
            assert_eq!(datagram, decoded);
            let sent_from: [u8; 6] = frame[ethernet::field::SOURCE].try_into().unwrap();
            assert_eq!(from, mac(sent_from));
            let is_to_group = datagram.group().is_multicast();
            assert_eq!(is_to_group, datagram.addresses.is_to_group());
            if is_to_group {
                assert_eq!(to_groups, Ok((datagram, from)));
            } else {
                assert_eq!(to_groups, Err(Skip::NotMulticast));
            }
            let source = datagram.source();
            assert!(!source.is_multicast() && !source.is_loopback() && !source.is_unspecified());
        }
        (Ok(_), Err(reason)) => assert!(
            matches!(reason, Skip::Martian | Skip::OtherMac | Skip::NotMulticast),
            "{reason:?}"
        ),
        (Err(reason), judged) => assert_eq!(judged, Err(reason)),
    }
    assert!(to_groups.is_err() || to_groups == judged);
}
