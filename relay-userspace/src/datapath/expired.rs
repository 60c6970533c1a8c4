//! The last datagrams of a worker whose TTL or hop limit was used up, with who sent them: so that
//! control can name the rule and the peer of a ring of relays.
//!
//! A worker writes here only when a datagram expires. Flows share places, so of flows that expire
//! at the same time some may hide others.

use std::{
    net::IpAddr,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use relay_common::wire::ipv6;

use super::{
    batch::Memory,
    senders::{self, sources},
    stats::{Dropped, WorkerStats},
};
use crate::packet::Template;

/// Places for flows. One flow uses always the same.
const PLACES: usize = 64;
/// The last datagrams that expired, one per place.
#[derive(Debug)]
pub struct Expired([Place; PLACES]);

/// One place. The version is odd while the worker writes, and else counts the writings twice.
#[derive(Debug, Default)]
struct Place {
    version: AtomicU64,
    flow: AtomicU64,
    mac: AtomicU64,
    /// The halves of an IPv6 address in network order; an IPv4 address in IPv6 form.
    source: [AtomicU64; 2],
}

/// A datagram that expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastExpired {
    /// The slot of its flow.
    pub flow: u32,
    /// Another number than that of any datagram before it in the same place.
    pub version: u64,
    /// Its Ethernet source.
    pub mac: [u8; 6],
    /// Its source address.
    pub source: IpAddr,
}

impl Default for Expired {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Place::default()))
    }
}

impl Expired {
    /// Notes that a datagram of the flow with this slot, with these headers, has expired. Only the
    /// owning worker may call this.
    fn note(&self, flow: u32, headers: &[u8]) {
        let place = self.0.get(flow as usize % PLACES);
        let (Some(place), Some((mac, source))) = (place, sources(headers)) else {
            return;
        };
        let version = place.version.load(Relaxed);
        place.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        place.flow.store(u64::from(flow), Relaxed);
        place.mac.store(mac, Relaxed);
        for (half, source) in place.source.iter().zip(source) {
            half.store(source, Relaxed);
        }
        place.version.store(version.wrapping_add(2), Release);
    }

    /// The last datagrams that expired, at most one per flow. One that is being written just now is
    /// left out.
    pub fn last(&self) -> impl Iterator<Item = LastExpired> + '_ {
        self.0.iter().filter_map(Place::read)
    }
}

impl Place {
    fn read(&self) -> Option<LastExpired> {
        let version = self.version.load(Acquire);
        if version == 0 || version % 2 == 1 {
            return None;
        }
        let (flow, mac) = (self.flow.load(Relaxed), self.mac.load(Relaxed));
        let source = self.source.each_ref().map(|half| half.load(Relaxed));
        fence(Acquire);
        if self.version.load(Relaxed) != version {
            return None;
        }
        let [_, _, mac @ ..] = mac.to_be_bytes();
        Some(LastExpired {
            flow: flow as u32,
            version,
            mac,
            source: ipv6::from_memory(source).to_canonical(),
        })
    }
}

/// Why a copy does not leave for which [`Template::ttl`] has none.
#[must_use]
pub fn reason(template: &Template) -> Dropped {
    match template.is_resolved() {
        true => Dropped::TtlExpired,
        false => Dropped::NoNeighbour,
    }
}

/// Notes that the datagram at `place`, of the flow with this slot, has expired.
#[cold]
#[inline(never)]
pub fn note<M: Memory>(flow: u32, place: &M::Place, memory: &M, stats: &WorkerStats) {
    let headers = senders::headers(place, memory);
    stats.expired.note(flow, headers);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use relay_common::wire::{ETHERNET_LEN, IPV4_HEADERS_LEN, ipv6::field as ipv6_field};

    use super::*;
    use crate::datapath::senders::HEADERS_LEN;

    fn frame(tag: &[u8], host: u8) -> Vec<u8> {
        let mut frame = vec![0x01, 0x00, 0x5e, 1, 1, 1, 2, 0, 0, 0, 9, host];
        frame.extend(tag);
        frame.extend([0x08, 0x00, 0x45]);
        frame.extend([0; 11]);
        frame.extend([10, 9, 0, host, 239, 1, 1, 1]);
        frame.resize(80, 0xee);
        frame
    }

    #[test]
    fn the_last_datagram_of_a_flow_is_read_with_its_sources() {
        let expired = Expired::default();
        assert_eq!(expired.last().count(), 0);
        expired.note(7, &frame(&[], 1));
        expired.note(9, &frame(&[0x81, 0x00, 0x00, 0x05], 2));
        expired.note(9, &frame(&[0x81, 0x00, 0x00, 0x05], 3));
        expired.note(11, &[0; 20]);
        let last: Vec<_> = expired.last().collect();
        let of = |flow, host, version| LastExpired {
            flow,
            version,
            mac: [2, 0, 0, 0, 9, host],
            source: Ipv4Addr::new(10, 9, 0, host).into(),
        };
        assert_eq!(last, [of(7, 1, 2), of(9, 3, 4)]);
    }

    #[test]
    fn the_source_is_behind_all_tags_and_of_either_ip_version() {
        const TWO: [u8; 8] = [0x88, 0xa8, 0, 100, 0x81, 0x00, 0, 200];
        let of = |frame: &[u8]| {
            let expired = Expired::default();
            expired.note(7, frame);
            expired.last().next().map(|last| last.source)
        };
        let four = Some(Ipv4Addr::new(10, 9, 0, 1).into());
        assert_eq!(of(&frame(&TWO, 1)), four);
        assert_eq!(of(&frame(&TWO, 1)[..IPV4_HEADERS_LEN]), four);
        assert_eq!(of(&frame(&TWO, 1)[..20]), None);
        let six: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
        for tags in [&[][..], &TWO[..4], &TWO] {
            let mut frame = frame(tags, 1);
            let network = ETHERNET_LEN + tags.len();
            frame[network - 2..network].copy_from_slice(&[0x86, 0xdd]);
            frame[network..][ipv6_field::SOURCE].copy_from_slice(&six.octets());
            assert_eq!(of(&frame[..HEADERS_LEN]), Some(six.into()), "{tags:?}");
        }
        let three = frame(&[&TWO[..], &TWO[..4]].concat(), 1);
        assert_eq!(of(&three), None);
    }

    #[test]
    fn what_is_read_was_written_together() {
        const TIMES: u32 = if cfg!(miri) { 200 } else { 200_000 };
        let expired = Expired::default();
        let over = std::sync::atomic::AtomicBool::new(false);
        let read = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (host, time) in (0..=255).cycle().zip(0..TIMES) {
                    expired.note(u32::from(host) * PLACES as u32, &frame(&[], host));
                    // Some of it is read in between, however late the other thread begins.
                    while time == TIMES / 2 && !read.load(Acquire) {
                        std::thread::yield_now();
                    }
                }
                over.store(true, Release);
            });
            while !over.load(Acquire) {
                for last in expired.last() {
                    read.store(true, Release);
                    let IpAddr::V4(source) = last.source else {
                        panic!("{last:?}");
                    };
                    let [.., host] = source.octets();
                    assert_eq!(last.mac, [2, 0, 0, 0, 9, host]);
                    assert_eq!(last.flow, u32::from(host) * PLACES as u32);
                }
            }
        });
    }
}
