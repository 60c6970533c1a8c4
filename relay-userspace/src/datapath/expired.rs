//! The last datagrams of a worker whose TTL was used up, with who sent them: so that control can
//! name the rule and the peer of a ring of relays.
//!
//! A worker writes here only when a datagram expires. Flows share places, so of flows that expire at
//! the same time some may hide others.

use std::{
    net::Ipv4Addr,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use relay_common::wire::{
    ETHERNET_LEN, IPV4_HEADERS_LEN,
    ethernet::{ethertype, field as ethernet},
    ipv4::field as ipv4,
};

use super::{batch::Memory, stats::WorkerStats};

/// Places for flows. One flow uses always the same.
const PLACES: usize = 64;
/// Length of a tag that is still in the frame.
const TAG_LEN: usize = 4;

/// The last datagrams that expired, one per place.
#[derive(Debug)]
pub struct Expired([Place; PLACES]);

/// One place. The version is odd while the worker writes, and else counts the writings twice.
#[derive(Debug, Default)]
struct Place {
    version: AtomicU64,
    flow: AtomicU64,
    mac: AtomicU64,
    source: AtomicU64,
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
    /// Its IPv4 source.
    pub source: Ipv4Addr,
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
        place.source.store(u64::from(source), Relaxed);
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
        let (flow, mac, source) = (
            self.flow.load(Relaxed),
            self.mac.load(Relaxed),
            self.source.load(Relaxed),
        );
        fence(Acquire);
        if self.version.load(Relaxed) != version {
            return None;
        }
        let [_, _, mac @ ..] = mac.to_be_bytes();
        Some(LastExpired {
            flow: flow as u32,
            version,
            mac,
            source: Ipv4Addr::from(source as u32),
        })
    }
}

/// The Ethernet and the IPv4 source in the headers of a frame, as numbers in network order. `None`
/// if it is too short.
fn sources(headers: &[u8]) -> Option<(u64, u32)> {
    let [a, b] = *headers.get(ethernet::TYPE)?.first_chunk()?;
    let tag = match u16::from_be_bytes([a, b]) {
        ethertype::VLAN | ethertype::QINQ => TAG_LEN,
        _ => 0,
    };
    let [a, b, c, d, e, f] = *headers.get(ethernet::SOURCE)?.first_chunk()?;
    let source = headers.get(ETHERNET_LEN + tag..)?.get(ipv4::SOURCE)?;
    Some((
        u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
        u32::from_be_bytes(*source.first_chunk()?),
    ))
}

/// Notes that the datagram at `place`, of the flow with this slot, has expired.
#[cold]
#[inline(never)]
pub fn note<M: Memory>(flow: u32, place: &M::Place, memory: &M, stats: &WorkerStats) {
    let headers = M::FRAME_AT..M::FRAME_AT + IPV4_HEADERS_LEN;
    stats.expired.note(flow, memory.bytes(place, headers));
}

#[cfg(test)]
mod tests {
    use super::*;

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
            source: Ipv4Addr::new(10, 9, 0, host),
        };
        assert_eq!(last, [of(7, 1, 2), of(9, 3, 4)]);
    }

    #[test]
    fn what_is_read_was_written_together() {
        let expired = Expired::default();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for host in (0..=255).cycle().take(200_000) {
                    expired.note(u32::from(host) * PLACES as u32, &frame(&[], host));
                }
                over.store(true, Release);
            });
            while !over.load(Acquire) {
                for last in expired.last() {
                    let [.., host] = last.source.octets();
                    assert_eq!(last.mac, [2, 0, 0, 0, 9, host]);
                    assert_eq!(last.flow, u32::from(host) * PLACES as u32);
                }
            }
        });
    }
}
