//! Sources, readers of another thread, and counters; what belongs to one kind is tested beside it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use proptest::{collection::vec, prelude::*};
use relay_common::wire::{ipv4, ipv6};

use super::*;
use crate::config::rules::Order;

const SECOND: u64 = 1_000_000_000;

const BYTE: Monitor = Monitor::Counter(Counter {
    offset: 0,
    bytes: 1,
    order: Order::Big,
});
const KINDS: [Monitor; 4] = [Monitor::Rtp, Monitor::MpegTs, Monitor::MoldUdp64, BYTE];

/// A source by a number.
pub fn source(number: u8) -> Source {
    let address = ipv4::Address::from_ne_bytes([10, 9, 0, number]);
    (ipv6::mapped(address), 5000 + u16::from(number))
}

/// What was counted of the only source.
fn only(monitor: &FlowMonitor) -> SourceHealth {
    let mut health = monitor.read().unwrap();
    assert_eq!(health.sources.len(), 1);
    health.sources.pop().unwrap()
}

#[test]
fn a_monitor_that_has_seen_nothing_says_so() {
    for kind in KINDS {
        let health = FlowMonitor::new(kind).read().unwrap();
        assert_eq!((health.kind, health.beyond), (kind, 0));
        assert_eq!(health.sources, []);
        assert_eq!(health.sum(), Counts::default());
        assert_eq!(health.ended.sources, 0);
    }
}

#[test]
fn sources_are_told_apart_by_address_and_port_and_shown_in_their_order() {
    let monitor = FlowMonitor::new(BYTE);
    let six: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let (four, _) = source(1);
    for (time, source) in [
        (5, (four, 7)),
        (6, (ipv6::to_memory(six), 7)),
        (7, (four, 8)),
    ] {
        monitor.see(source, &[1], time);
        monitor.see(source, &[3], time + 10);
    }
    let health = monitor.read().unwrap();
    let seen: Vec<_> = health
        .sources
        .iter()
        .map(|source| (source.address, source.port, source.since_ns, source.last_ns))
        .collect();
    let four = IpAddr::from(Ipv4Addr::new(10, 9, 0, 1));
    assert_eq!(
        seen,
        [(four, 7, 5, 15), (six.into(), 7, 6, 16), (four, 8, 7, 17)]
    );
    for source in &health.sources {
        assert_eq!((source.counts.datagrams, source.missing), (2, 1));
    }
}

#[test]
fn a_ninth_source_counts_as_beyond_until_another_one_is_silent_for_a_minute() {
    let monitor = FlowMonitor::new(BYTE);
    for number in 0..8 {
        monitor.see(source(number), &[1], u64::from(number) * SECOND);
    }
    // The third sends again, with a hole and a number far away; the first does last of all.
    monitor.see(source(2), &[3], 8 * SECOND);
    monitor.see(source(2), &[200], 8 * SECOND);
    monitor.see(source(0), &[2], 9 * SECOND);
    monitor.see(source(8), &[1], 61 * SECOND - 1);
    let health = monitor.read().unwrap();
    assert_eq!(
        (health.sources.len(), health.beyond, health.ended.sources),
        (8, 1, 0)
    );
    assert_eq!(health.sum().datagrams, 11);

    // The second was silent for the longest time.
    monitor.see(source(8), &[1], 61 * SECOND);
    let health = monitor.read().unwrap();
    let ports: Vec<_> = health.sources.iter().map(|source| source.port).collect();
    assert_eq!(ports, [5000, 5002, 5003, 5004, 5005, 5006, 5007, 5008]);
    assert_eq!((health.beyond, health.ended.sources), (1, 1));
    let datagrams = |counts: Counts| (counts.datagrams, counts.lost, counts.stray);
    assert_eq!(datagrams(health.ended.counts), (1, 0, 0));
    assert_eq!(datagrams(health.sum()), (12, 0, 0));

    // What was missing of the third is lost with it, and its last number was a stray.
    for number in [3, 4, 5, 6, 7, 0, 8] {
        monitor.see(source(number), &[3], 70 * SECOND);
    }
    monitor.see(source(9), &[1], 70 * SECOND);
    let health = monitor.read().unwrap();
    assert_eq!(health.ended.sources, 2);
    assert_eq!(datagrams(health.ended.counts), (4, 1, 1));
    assert_eq!(datagrams(health.sum()), (20, 1, 1));
    // Its successor begins with nothing.
    let last = health.sources.last().unwrap();
    assert_eq!(
        (last.port, datagrams(last.counts), last.missing),
        (5009, (1, 0, 0), 0)
    );
    assert_eq!((last.since_ns, last.last_ns), (70 * SECOND, 70 * SECOND));
}

#[test]
fn a_source_that_is_silent_keeps_its_place_while_no_other_wants_it() {
    let monitor = FlowMonitor::new(BYTE);
    monitor.see(source(1), &[1], 0);
    monitor.see(source(1), &[2], 4000 * SECOND);
    let source = only(&monitor);
    assert_eq!((source.counts.datagrams, source.since_ns), (2, 0));
}

#[test]
fn counters_are_read_at_their_place_in_their_order_and_width() {
    for (bytes, order) in [1, 2, 4, 8]
        .into_iter()
        .flat_map(|bytes| [Order::Big, Order::Little].map(|order| (bytes, order)))
    {
        let monitor = FlowMonitor::new(Monitor::Counter(Counter {
            offset: 3,
            bytes,
            order,
        }));
        // It wraps, and one number is left out.
        for number in (0..300_u64)
            .map(|number| number.wrapping_sub(150))
            .filter(|&n| n != 5)
        {
            let mut payload = vec![0xaa; 3];
            let all = number.to_be_bytes();
            let field = &all[8 - usize::from(bytes)..];
            match order {
                Order::Big => payload.extend(field),
                Order::Little => payload.extend(field.iter().rev()),
            }
            payload.push(0xbb);
            monitor.see(source(1), &payload, 0);
        }
        monitor.see(source(1), &vec![0; 2 + usize::from(bytes)], 0);
        monitor.see(source(1), &[], 0);
        let expected = Counts {
            datagrams: 301,
            lost: 1,
            not_understood: 2,
            ..Counts::default()
        };
        let found = only(&monitor);
        assert_eq!(
            (found.counts, found.details),
            (expected, Details::None),
            "{bytes} {order:?}"
        );
    }
}

#[test]
fn a_counter_of_another_length_is_never_understood() {
    for bytes in [0, 3, 5, 7, 9, 255] {
        let monitor = FlowMonitor::new(Monitor::Counter(Counter {
            offset: 0,
            bytes,
            order: Order::Little,
        }));
        monitor.see(source(1), &[0; 300], 0);
        assert_eq!(only(&monitor).counts.not_understood, 1);
    }
}

/// An RTP packet.
fn rtp(ssrc: u32, number: u16) -> [u8; 12] {
    let mut packet = [0x80, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    packet[2..4].copy_from_slice(&number.to_be_bytes());
    packet[8..].copy_from_slice(&ssrc.to_be_bytes());
    packet
}

#[test]
fn what_another_thread_reads_of_a_source_was_written_together() {
    const TIMES: u64 = if cfg!(miri) { 300 } else { 300_000 };
    let monitor = FlowMonitor::new(Monitor::Rtp);
    let over = AtomicBool::new(false);
    let read = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut numbers = [0_u16; 12];
            for time in 0..TIMES {
                // Twelve sources, of which some give way now and then: each time is ten seconds.
                let age = time / 16;
                let number = (time % 4 + age % 3 * 4) as u8;
                let next = &mut numbers[usize::from(number)];
                // Every other number is left out.
                *next = next.wrapping_add(2);
                let packet = rtp(u32::from(number), *next);
                monitor.see(source(number), &packet, time * 5 * SECOND);
                // Some of it is read in between, however late the other thread begins.
                while time == TIMES / 2 && !read.load(Relaxed) {
                    std::thread::yield_now();
                }
            }
            over.store(true, Relaxed);
        });
        let (mut sum, mut reads) = (Counts::default(), 0_u64);
        while !over.load(Relaxed) {
            let Some(health) = monitor.read() else {
                continue;
            };
            reads += 1;
            read.store(true, Relaxed);
            for source in &health.sources {
                let number = (source.port - 5000) as u8;
                assert_eq!(source.address, IpAddr::from([10, 9, 0, number]));
                let counts = source.counts;
                if counts.datagrams == 0 {
                    // It has just got its place.
                    assert_eq!(source.details, Details::None);
                    continue;
                }
                let Details::Rtp(rtp) = source.details else {
                    panic!("{source:?}");
                };
                assert_eq!(rtp.ssrc, u32::from(number));
                let holes = counts.lost + source.missing;
                assert_eq!(holes, counts.datagrams - 1, "{source:?}");
                let seconds = source.last_ns - source.since_ns;
                assert!(seconds >= (counts.datagrams - 1) * 5 * SECOND);
            }
            let now = health.sum();
            assert!(now.datagrams >= sum.datagrams && now.lost >= sum.lost);
            sum = now;
        }
        assert!(reads > 0);
    });
    let health = monitor.read().unwrap();
    assert_eq!(health.sum().datagrams + health.beyond, TIMES);
    assert!(cfg!(miri) || health.ended.sources > 0);
}

/// Makes random bytes look like a datagram of a kind, so that more is read of them.
fn plausible(kind: Monitor, mut payload: Vec<u8>) -> Vec<u8> {
    match kind {
        Monitor::Rtp => {
            if let Some(first) = payload.first_mut() {
                *first = 0x80 | *first & 0x3f;
            }
        }
        Monitor::MpegTs => {
            payload.truncate(payload.len() / 188 * 188);
            for packet in payload.chunks_exact_mut(188) {
                // Mostly a PAT, in which a section starts near the packet's start.
                packet[..2].copy_from_slice(&[0x47, 0x40]);
                packet[2] %= 2;
                packet[4] %= 180;
                packet[5] %= 4;
            }
        }
        Monitor::MoldUdp64 => {
            if let Some(header) = payload.get_mut(..20) {
                header[..17].fill(7);
                header[18] = 0;
            }
        }
        Monitor::Counter(_) => {}
    }
    payload
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_counted_and_nothing_panics(
        datagrams in vec((0..12_u8, vec(any::<u8>(), 0..600), any::<u64>()), 0..40),
    ) {
        for kind in KINDS {
            let monitor = FlowMonitor::new(kind);
            for (number, payload, now) in &datagrams {
                monitor.see(source(*number), payload, *now);
                monitor.see(source(*number), &plausible(kind, payload.clone()), *now);
            }
            let health = monitor.read().unwrap();
            let all = health.sum().datagrams + health.beyond;
            prop_assert_eq!(all, 2 * datagrams.len() as u64);
        }
    }
}
