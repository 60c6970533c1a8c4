//! Streams built by hand.

mod tables;

use super::{tables::crc, *};
use crate::config::rules::Monitor;
use crate::datapath::monitor::{FlowMonitor, SourceHealth, tests::source};

const MS: u64 = 1_000_000;

/// A packet with payload and without adaptation field.
fn packet(pid: u16, continuity: u8) -> [u8; PACKET_LEN] {
    let mut packet = [0xff; PACKET_LEN];
    let [high, low] = pid.to_be_bytes();
    packet[..4].copy_from_slice(&[SYNC, high, low, 0x10 | continuity & 0x0f]);
    packet
}

/// A packet with an adaptation field of these flags, with or without payload.
fn adapted(pid: u16, continuity: u8, flags: u8, has_payload: bool) -> [u8; PACKET_LEN] {
    let mut packet = packet(pid, continuity);
    let (control, len) = if has_payload { (0x30, 7) } else { (0x20, 183) };
    packet[3] = control | continuity & 0x0f;
    packet[4] = len;
    packet[5] = flags;
    packet
}

const DISCONTINUITY: u8 = 0x80;
const PCR: u8 = 0x10;

/// A packet in which a section starts, behind other bytes.
fn with_section(pid: u16, continuity: u8, pointer: u8, section: &[u8]) -> [u8; PACKET_LEN] {
    let mut packet = packet(pid, continuity);
    packet[1] |= 0x40;
    packet[4] = pointer;
    let start = 5 + usize::from(pointer);
    packet[start..start + section.len()].copy_from_slice(section);
    packet
}

/// A PAT with these programs.
fn pat(programs: &[(u16, u16)]) -> Vec<u8> {
    let len = 5 + 4 * programs.len() + 4;
    let mut section = vec![0, 0xb0, len as u8, 0, 1, 0xc1, 0, 0];
    for (number, pid) in programs {
        section.extend(number.to_be_bytes());
        section.extend((0xe000 | pid).to_be_bytes());
    }
    section.extend(crc(&section).to_be_bytes());
    section
}

/// What begins like a PMT.
const PMT: [u8; 3] = [2, 0xb0, 13];

struct Stream(FlowMonitor);

impl Stream {
    fn new() -> Self {
        Self(FlowMonitor::new(Monitor::MpegTs))
    }

    fn see(&self, now_ms: u64, packets: &[[u8; PACKET_LEN]]) {
        self.0.see(source(1), packets.as_flattened(), now_ms * MS);
    }

    fn health(&self) -> SourceHealth {
        self.0.read().unwrap().sources.remove(0)
    }

    fn details(&self) -> MpegTs {
        match self.health().details {
            Details::MpegTs(details) => details,
            details => panic!("{details:?}"),
        }
    }
}

fn pid(details: &MpegTs, pid: u16) -> Pid {
    *details.pids.iter().find(|found| found.pid == pid).unwrap()
}

#[test]
fn a_stream_without_faults_counts_nothing() {
    let stream = Stream::new();
    let (mut video, mut tables) = (0, 0);
    for time in (0..5000).step_by(10) {
        if time % 100 == 0 {
            let pat = with_section(0, tables, 0, &pat(&[(1, 0x100)]));
            stream.see(time, &[pat, with_section(0x100, tables, 3, &PMT)]);
            tables += 1;
        }
        let packets: Vec<_> = (0..7)
            .map(|number| match number {
                0 if time % 40 == 0 => adapted(0x101, video + number, PCR, true),
                _ => packet(0x101, video + number),
            })
            .collect();
        video = (video + 7) % 16;
        stream.see(time, &packets);
    }
    let health = stream.health();
    assert_eq!(
        (health.counts.datagrams, health.counts.not_understood),
        (550, 0)
    );
    assert_eq!((health.counts.lost, health.missing), (0, 0));
    let details = stream.details();
    let counts = MpegTsCounts {
        packets: 3600,
        ..MpegTsCounts::default()
    };
    assert_eq!(details.counts, counts);
    assert!(details.in_sync);
    assert_eq!(details.pmt_pids, [0x100]);
    let pids: Vec<_> = details
        .pids
        .iter()
        .map(|pid| (pid.pid, pid.packets))
        .collect();
    assert_eq!(pids, [(0, 50), (0x100, 50), (0x101, 3500)]);
    let pcr = pid(&details, 0x101);
    assert_eq!(pcr.pcr_interval_ns, Some(40 * MS));
    assert_eq!(pcr.longest_pcr_interval_ns, Some(40 * MS));
    assert_eq!(pid(&details, 0).pcr_interval_ns, None);
}

#[test]
fn what_is_not_made_of_whole_packets_is_not_understood() {
    let whole = [packet(5, 0), packet(5, 1)].concat();
    for len in 0..=whole.len() {
        let stream = Stream::new();
        stream.0.see(source(1), &whole[..len], 0);
        let is_whole = len == PACKET_LEN || len == 2 * PACKET_LEN;
        let health = stream.health();
        assert_eq!(health.counts.not_understood, u64::from(!is_whole), "{len}");
        assert_eq!(health.details == Details::None, !is_whole);
    }
}

#[test]
fn an_rtp_header_in_front_is_skipped() {
    for header in [
        &[0x80, 33, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7][..],
        &[
            0x91, 33, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7, 1, 1, 1, 1, 2, 2, 0, 1, 3, 3, 3, 3,
        ],
    ] {
        let stream = Stream::new();
        let datagram = [header, &packet(5, 0), &packet(5, 1)].concat();
        stream.0.see(source(1), &datagram, 0);
        let details = stream.details();
        assert_eq!(
            (details.counts.packets, details.counts.sync_byte_errors),
            (2, 0)
        );
        for len in 0..datagram.len() {
            stream.0.see(source(1), &datagram[..len], 0);
        }
        // Of the truncated ones, only that of the header with one packet is.
        let counts = stream.health().counts;
        assert_eq!(counts.not_understood, counts.datagrams - 2);
    }
}

#[test]
fn what_only_looks_like_an_rtp_header_is_none() {
    // A damaged sync byte, and no packet behind what would be the header.
    let mut damaged = packet(5, 0);
    damaged[0] = 0x80;
    let stream = Stream::new();
    stream.see(0, &[damaged, packet(5, 1)]);
    assert_eq!(stream.health().counts.not_understood, 0);
    assert_eq!(stream.details().counts.sync_byte_errors, 1);
    let datagram = [&[0x80, 33][..], &[0; 10], &damaged].concat();
    stream.0.see(source(1), &datagram, 0);
    assert_eq!(stream.health().counts.not_understood, 1);
}

#[test]
fn wrong_sync_bytes_are_errors_and_two_in_a_row_a_loss_of_sync() {
    let mut continuity = 0;
    let mut packets = |good: &str| -> Vec<_> {
        let packets = good.bytes().map(|byte| {
            let mut packet = packet(5, continuity);
            continuity += 1;
            if byte == b'x' {
                packet[0] = 0x48;
            }
            packet
        });
        packets.collect()
    };
    let stream = Stream::new();
    let mut after = |pattern| {
        stream.see(0, &packets(pattern));
        let details = stream.details();
        let counts = details.counts;
        (counts.sync_byte_errors, counts.sync_losses, details.in_sync)
    };
    assert_eq!(after("ooxoxo"), (2, 0, true));
    assert_eq!(after("oox"), (3, 0, true));
    // Datagrams follow each other.
    assert_eq!(after("x"), (4, 1, false));
    assert_eq!(after("xxoooo"), (6, 1, false));
    // Four right ones are not enough, and after a wrong one they begin anew.
    assert_eq!(after("xoooo"), (7, 1, false));
    assert_eq!(after("oooxxo"), (9, 2, false));
    assert_eq!(after("oooo"), (9, 2, true));
    assert_eq!(stream.details().counts.packets, 31);
    assert_eq!(stream.health().counts.not_understood, 0);
}

#[test]
fn continuity_counters_are_followed_per_pid_and_wrap() {
    let stream = Stream::new();
    for number in 0..40 {
        stream.see(0, &[packet(5, number), packet(6, number + 3)]);
    }
    // 40 & 15 is 8: it and the next are left out.
    stream.see(
        0,
        &[packet(5, 10), packet(6, 43), packet(5, 11), packet(7, 9)],
    );
    let details = stream.details();
    assert_eq!(details.counts.continuity_errors, 1);
    let errors: Vec<_> = details
        .pids
        .iter()
        .map(|pid| (pid.pid, pid.packets, pid.continuity_errors))
        .collect();
    assert_eq!(errors, [(5, 42, 1), (6, 41, 0), (7, 1, 0)]);
}

#[test]
fn one_duplicate_is_allowed_and_a_second_one_is_not() {
    let errors = |counters: &[u8]| {
        let stream = Stream::new();
        let packets: Vec<_> = counters.iter().map(|&counter| packet(5, counter)).collect();
        stream.see(0, &packets);
        stream.details().counts.continuity_errors
    };
    assert_eq!(errors(&[1, 2, 2, 3, 3, 4]), 0);
    assert_eq!(errors(&[1, 2, 2, 2, 3]), 1);
    assert_eq!(errors(&[1, 2, 1, 2]), 1);
    assert_eq!(errors(&[15, 15, 0, 0, 1]), 0);
}

#[test]
fn a_packet_without_payload_keeps_the_counter_and_a_discontinuity_may_set_it() {
    let stream = Stream::new();
    let without = |continuity| adapted(5, continuity, 0, false);
    stream.see(
        0,
        &[
            packet(5, 1),
            without(1),
            without(1),
            without(1),
            packet(5, 2),
        ],
    );
    stream.see(0, &[adapted(5, 9, DISCONTINUITY, true), packet(5, 10)]);
    stream.see(0, &[adapted(5, 4, DISCONTINUITY, false), packet(5, 5)]);
    assert_eq!(stream.details().counts.continuity_errors, 0);
    // The flag is not believed in an adaptation field that is longer than its packet.
    let mut long = adapted(5, 9, DISCONTINUITY, true);
    long[4] = 184;
    stream.see(0, &[long]);
    assert_eq!(stream.details().counts.continuity_errors, 1);
    // With an empty one there is none.
    let mut empty = adapted(5, 12, DISCONTINUITY | PCR, true);
    empty[4] = 0;
    stream.see(0, &[empty]);
    assert_eq!(stream.details().counts.continuity_errors, 2);
}

#[test]
fn stuffing_is_left_out_and_damaged_and_scrambled_packets_are_counted() {
    let stream = Stream::new();
    stream.see(0, &[packet(0x1fff, 3), packet(0x1fff, 9), packet(5, 0)]);
    let mut damaged = packet(9, 0);
    damaged[1] |= 0x80;
    let mut scrambled = packet(5, 1);
    scrambled[3] |= 0x80;
    stream.see(0, &[damaged, scrambled]);
    let details = stream.details();
    let counts = MpegTsCounts {
        packets: 5,
        transport_errors: 1,
        scrambled: 1,
        ..MpegTsCounts::default()
    };
    assert_eq!(details.counts, counts);
    let pids: Vec<_> = details.pids.iter().map(|pid| pid.pid).collect();
    assert_eq!(pids, [5]);
}

#[test]
fn there_is_room_for_64_pids_whatever_their_numbers() {
    // Neighbours, and such as want the same place.
    for step in [1, 64, 127] {
        let stream = Stream::new();
        for round in 0..2 {
            for number in 0..66 {
                stream.see(0, &[packet(3 + number * step, round)]);
            }
        }
        let details = stream.details();
        let pids: Vec<_> = details.pids.iter().map(|pid| pid.pid).collect();
        assert_eq!(
            pids,
            (0..64).map(|number| 3 + number * step).collect::<Vec<_>>()
        );
        assert!(details.pids.iter().all(|pid| pid.packets == 2));
        assert_eq!(
            (details.counts.pids_beyond, details.counts.continuity_errors),
            (4, 0)
        );
    }
}

#[test]
fn pcrs_that_come_late_are_errors_of_their_pid() {
    let stream = Stream::new();
    let mut continuity = 0;
    let mut pcr = |now, pid| {
        stream.see(now, &[adapted(pid, continuity, PCR, false)]);
        continuity += 1;
        stream.details().counts.pcr_errors
    };
    assert_eq!(pcr(0, 5), 0);
    assert_eq!(pcr(100, 5), 0);
    assert_eq!(pcr(150, 6), 0);
    assert_eq!(pcr(201, 5), 1);
    assert_eq!(pcr(240, 5), 1);
    // A field that is too short has none.
    let mut short = adapted(5, 0, PCR, true);
    short[4] = 6;
    stream.see(250, &[short]);
    let details = stream.details();
    let five = pid(&details, 5);
    assert_eq!(five.pcr_interval_ns, Some(39 * MS));
    assert_eq!(five.longest_pcr_interval_ns, Some(101 * MS));
    let six = pid(&details, 6);
    assert_eq!(
        (six.pcr_interval_ns, six.longest_pcr_interval_ns),
        (None, None)
    );
}

#[test]
fn a_source_that_takes_the_place_of_another_begins_with_nothing() {
    let stream = Stream::new();
    let (monitor, minute) = (&stream.0, 60_000 * MS);
    let datagram = [
        with_section(0, 0, 0, &pat(&[(1, 0x100)])),
        packet(5, 0),
        packet(5, 7),
        [0; PACKET_LEN],
        [0; PACKET_LEN],
    ];
    for number in 0..8 {
        monitor.see(source(number), datagram.as_flattened(), 0);
    }
    monitor.see(source(8), &packet(6, 0), minute);
    let health = monitor.read().unwrap();
    let Details::MpegTs(details) = &health.sources[7].details else {
        panic!("{health:?}");
    };
    let counts = MpegTsCounts {
        packets: 1,
        ..MpegTsCounts::default()
    };
    assert_eq!((details.counts, details.in_sync), (counts, true));
    assert_eq!((details.pids.len(), details.pmt_pids.len()), (1, 0));
    let ended = MpegTsCounts {
        packets: 5,
        continuity_errors: 1,
        sync_byte_errors: 2,
        sync_losses: 1,
        ..MpegTsCounts::default()
    };
    let details = crate::datapath::monitor::EndedDetails::MpegTs(ended);
    assert_eq!((health.ended.sources, health.ended.details), (1, details));
}
