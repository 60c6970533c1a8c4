use super::*;
use crate::config::rules::Monitor;
use crate::datapath::monitor::{Counts, FlowMonitor, SourceHealth, tests::source};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// One packet and when it arrives.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    now: u64,
}

const FIRST: Arrival = Arrival {
    payload_type: 0,
    sequence: u16::MAX - 1,
    timestamp: u32::MAX - 500,
    ssrc: 7,
    now: 3 * SECOND + 1,
};

impl Arrival {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x80, 0x80 | self.payload_type];
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        bytes
    }

    /// The packet that is `count` packets behind this one, of `units` and `ns` each.
    fn later(self, count: u32, units: u32, ns: u64) -> Self {
        Self {
            sequence: self.sequence.wrapping_add(count as u16),
            timestamp: self.timestamp.wrapping_add(count.wrapping_mul(units)),
            now: self.now + u64::from(count) * ns,
            ..self
        }
    }
}

fn after(arrivals: impl IntoIterator<Item = Arrival>) -> (SourceHealth, Rtp) {
    let monitor = FlowMonitor::new(Monitor::Rtp);
    for arrival in arrivals {
        monitor.see(source(1), &arrival.bytes(), arrival.now);
    }
    let health = monitor.read().unwrap().sources.remove(0);
    match health.details {
        Details::Rtp(rtp) => (health, rtp),
        _ => panic!("{health:?}"),
    }
}

#[test]
fn losses_are_those_of_sequence_numbers_of_16_bits() {
    let of = |count| FIRST.later(count, 160, 20 * MS);
    let (health, rtp) = after([0, 1, 3, 2, 3, 5].map(of));
    let counts = Counts {
        datagrams: 6,
        reordered: 1,
        duplicated: 1,
        ..Counts::default()
    };
    assert_eq!((health.counts, health.missing), (counts, 1));
    assert_eq!((rtp.ssrc, rtp.payload_type, rtp.clock), (7, 0, Some(8000)));
}

#[test]
fn another_ssrc_begins_anew_and_is_no_restart() {
    let of = |count| FIRST.later(count, 160, 20 * MS);
    let other = |count: u32| Arrival {
        ssrc: 8,
        ..FIRST.later(30_000 + count, 160, 20 * MS)
    };
    let (health, rtp) = after([of(0), of(2), other(0), other(1)]);
    let counts = Counts {
        datagrams: 4,
        lost: 1,
        ..Counts::default()
    };
    assert_eq!((health.counts, health.missing), (counts, 0));
    assert_eq!((rtp.ssrc, rtp.counts.ssrc_changes), (8, 1));
    assert_eq!(rtp.jitter_ns, Some(0));
}

#[test]
fn jitter_is_that_of_rfc_3550() {
    // Arrivals that are late by so many units of 8 kHz, 125 us each.
    let late = [0_u64, 80, 10, 10, 40, 0, 0, 160, 8, 8, 8, 3];
    let arrivals = late.iter().zip(0..).map(|(late, count)| {
        let arrival = FIRST.later(count, 160, 20 * MS);
        Arrival {
            now: arrival.now + late * 125_000,
            ..arrival
        }
    });
    let (_, rtp) = after(arrivals);
    // The code of A.8, as it stands there.
    let mut jitter = 0;
    for pair in late.windows(2) {
        jitter = jitter + pair[0].abs_diff(pair[1]) - ((jitter + 8) >> 4);
    }
    assert!(jitter > 16);
    assert_eq!(rtp.jitter_ns, Some((jitter >> 4) * 125_000));
}

#[test]
fn duplicates_and_strays_have_no_part_in_the_jitter() {
    let of = |count| FIRST.later(count, 160, 20 * MS);
    let late = |arrival: Arrival| Arrival {
        now: arrival.now + SECOND,
        ..arrival
    };
    let stray = Arrival {
        timestamp: 5,
        ..of(20_000)
    };
    let (health, rtp) = after([of(0), of(1), late(of(1)), stray, of(2), of(3)]);
    assert_eq!((health.counts.duplicated, health.counts.stray), (1, 1));
    assert_eq!(rtp.jitter_ns, Some(0));
    // Nor has a restart, with timestamps that begin elsewhere.
    let restart = |count: u32| Arrival {
        timestamp: 5 + count * 160,
        ..of(20_000 + count)
    };
    let (health, rtp) = after([of(0), of(1), restart(0), restart(1), restart(2)]);
    assert_eq!((health.counts.restarts, health.counts.lost), (1, 0));
    assert_eq!(rtp.jitter_ns, Some(0));
}

#[test]
fn the_clock_of_a_dynamic_payload_type_is_known_after_ten_seconds() {
    for clock in [8000, 44_100, 48_000, 88_200, 90_000, 192_000] {
        let first = Arrival {
            payload_type: 96,
            ..FIRST
        };
        let of = |count| first.later(count, clock / 100, 10 * MS);
        let (_, rtp) = after((0..1000).map(of));
        assert_eq!((rtp.clock, rtp.jitter_ns), (None, None));
        let (_, rtp) = after((0..1001).map(of));
        assert_eq!((rtp.clock, rtp.jitter_ns), (Some(clock), Some(0)));
        let late = |count| Arrival {
            now: of(count).now + 80 * MS,
            ..of(count)
        };
        let (_, rtp) = after((0..1001).map(of).chain([late(1001)]));
        // A sixteenth, in whole units.
        let units = u64::from(clock) * 80 / 1000 / 16;
        assert_eq!(rtp.jitter_ns, Some(units * SECOND / u64::from(clock)));
    }
}

#[test]
fn packets_that_come_late_do_not_change_the_estimate_of_the_clock() {
    let first = Arrival {
        payload_type: 96,
        ..FIRST
    };
    // Each pair is swapped.
    let of = |count: u32| Arrival {
        now: first.now + u64::from(count) * 10 * MS,
        ..first.later(2 + (count ^ 1), 900, 0)
    };
    let (health, rtp) = after([first].into_iter().chain((0..1002).map(of)));
    assert_eq!((health.counts.reordered, rtp.clock), (501, Some(90_000)));
}

#[test]
fn a_rate_that_is_no_usual_clock_stays_unknown_until_it_is_one() {
    let first = Arrival {
        payload_type: 96,
        ..FIRST
    };
    let strange = |count| first.later(count, 600, 10 * MS);
    let (_, rtp) = after((0..3000).map(strange));
    assert_eq!(rtp.clock, None);
    let usual = |count| strange(3000).later(count, 480, 10 * MS);
    let (_, rtp) = after((0..3000).map(strange).chain((0..2100).map(usual)));
    assert_eq!(rtp.clock, Some(48_000));
    // Nor does a stream have one whose timestamps go backwards or stand.
    for units in [0, u32::MAX - 479] {
        let (_, rtp) = after((0..3000).map(|count| first.later(count, units, 10 * MS)));
        assert_eq!(rtp.clock, None);
    }
}

#[test]
fn a_clock_is_within_one_per_cent() {
    let of = |units| {
        let first = Arrival {
            payload_type: 96,
            ..FIRST
        };
        after((0..1001).map(|count| first.later(count, units, 10 * MS)))
            .1
            .clock
    };
    assert_eq!(
        [475, 476, 484, 485].map(of),
        [None, Some(48_000), Some(48_000), None]
    );
}

#[test]
fn another_payload_type_has_another_clock() {
    let of = |payload_type, count| Arrival {
        payload_type,
        ..FIRST.later(count, 160, 20 * MS)
    };
    for (payload_type, clock) in [(33, Some(90_000)), (11, Some(44_100)), (100, None)] {
        let (health, rtp) = after([of(0, 0), of(payload_type, 1)]);
        assert_eq!((rtp.payload_type, rtp.clock), (payload_type, clock));
        assert_eq!((health.missing, rtp.counts.ssrc_changes), (0, 0));
    }
}

#[test]
fn a_header_has_csrcs_and_an_extension_which_must_be_there() {
    let mut bytes = FIRST.bytes();
    bytes[0] |= 0x10 | 2;
    bytes.extend([0; 8]);
    bytes.extend([0xbe, 0xde, 0, 3]);
    bytes.extend([0; 12]);
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.len, bytes.len());
    assert_eq!(
        (header.sequence, header.timestamp),
        (FIRST.sequence, FIRST.timestamp)
    );
    for len in 0..bytes.len() {
        assert_eq!(Header::parse(&bytes[..len]), None, "{len}");
    }
    bytes.push(1);
    assert_eq!(Header::parse(&bytes).unwrap().len, bytes.len() - 1);
}

#[test]
fn other_versions_and_rtcp_are_not_understood() {
    let whole = FIRST.bytes();
    let mut payloads: Vec<_> = [0, 0x40, 0xc0]
        .map(|first| [&[first], &whole[1..]].concat())
        .into();
    // Sender reports to APP packets.
    payloads.extend((200..=204).map(|second| [&[0x80, second], &whole[2..]].concat()));
    for payload in payloads {
        let monitor = FlowMonitor::new(Monitor::Rtp);
        monitor.see(source(1), &payload, 0);
        let health = monitor.read().unwrap().sources.remove(0);
        assert_eq!(
            (health.counts.datagrams, health.counts.not_understood),
            (1, 1)
        );
        assert_eq!(health.details, Details::None);
    }
}
