//! Who sent a frame: read from its headers, for the few that somebody asks about. The others do not
//! carry it along.

use relay_common::wire::{
    ETHERNET_LEN, IPV4_HEADERS_LEN, VLAN_LEN,
    ethernet::{ethertype, field as ethernet},
    ipv4::{self, field as ipv4_field},
    ipv6::{self, field as ipv6_field},
};

use super::batch::Memory;

/// The most tags that may be in a frame.
const TAGS: usize = 2;
/// How much of a frame has its sources.
pub const HEADERS_LEN: usize = ETHERNET_LEN + TAGS * VLAN_LEN + ipv6_field::SOURCE.end;
const _: () = assert!(ETHERNET_LEN + TAGS * VLAN_LEN + ipv4_field::SOURCE.end <= IPV4_HEADERS_LEN);

/// The headers of the frame at `place`, as far as they have its sources. Only until its headers are
/// written anew.
#[inline]
pub fn headers<'m, M: Memory>(place: &'m M::Place, memory: &'m M) -> &'m [u8] {
    let headers = |len| memory.bytes(place, M::FRAME_AT..M::FRAME_AT + len);
    // A short IPv4 frame has not so much.
    match headers(HEADERS_LEN) {
        [] => headers(IPV4_HEADERS_LEN),
        headers => headers,
    }
}

/// The Ethernet source in the headers of a frame, as a number in network order, and the IP source,
/// an IPv4 address in IPv6 form. `None` if they are too short.
pub fn sources(headers: &[u8]) -> Option<(u64, ipv6::Address)> {
    let [a, b, c, d, e, f] = *headers.get(ethernet::SOURCE)?.first_chunk()?;
    let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    let mut network = ETHERNET_LEN;
    for _ in 0..=TAGS {
        let field = headers.get(network.checked_sub(size_of::<u16>())?..network)?;
        let ip = headers.get(network..)?;
        match u16::from_be_bytes(*field.first_chunk()?) {
            ethertype::VLAN | ethertype::QINQ => network += VLAN_LEN,
            ethertype::IPV6 => {
                let [first, second] = *ip.get(ipv6_field::SOURCE)?.as_chunks::<8>().0 else {
                    return None;
                };
                return Some((mac, [first, second].map(u64::from_ne_bytes)));
            }
            _ => {
                let source = *ip.get(ipv4_field::SOURCE)?.first_chunk()?;
                return Some((mac, ipv6::mapped(ipv4::Address::from_ne_bytes(source))));
            }
        }
    }
    None
}
