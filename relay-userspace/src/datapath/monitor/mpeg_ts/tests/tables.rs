//! PATs and PMTs.

use super::*;

#[test]
fn a_pat_that_comes_late_is_one_error() {
    let stream = Stream::new();
    let mut continuity = 0;
    let mut errors = |now, section: &[u8]| {
        stream.see(now, &[with_section(0, continuity, 0, section)]);
        continuity += 1;
        stream.details().counts.pat_errors
    };
    assert_eq!(errors(0, &pat(&[])), 0);
    assert_eq!(errors(500, &pat(&[])), 0);
    assert_eq!(errors(1001, &pat(&[])), 1);
    assert_eq!(errors(9000, &pat(&[])), 2);
    // Another table is none, nor is a packet in which no section starts.
    assert_eq!(errors(9400, &PMT), 2);
    stream.see(9400, &[packet(0, 5)]);
    stream.see(9501, &[with_section(0, 6, 0, &pat(&[]))]);
    assert_eq!(stream.details().counts.pat_errors, 3);

    // The first one is waited for since the stream began.
    for (time, errors) in [(1200, 0), (1201, 1)] {
        let stream = Stream::new();
        stream.see(700, &[packet(5, 0)]);
        stream.see(time, &[with_section(0, 0, 0, &pat(&[]))]);
        assert_eq!(stream.details().counts.pat_errors, errors);
    }
}

#[test]
fn pmts_are_those_that_the_pat_names() {
    let stream = Stream::new();
    // The network's table is no PMT, and two programs may share one.
    let programs = [(0, 0x10), (1, 0x100), (2, 0x200), (3, 0x100)];
    stream.see(0, &[with_section(0, 0, 0, &pat(&programs))]);
    assert_eq!(stream.details().pmt_pids, [0x100, 0x200]);
    let errors = |now, pid, table| {
        let section = [table, 0xb0, 13];
        stream.see(now, &[with_section(pid, 0, 1, &section)]);
        stream.details().counts.pmt_errors
    };
    assert_eq!(errors(500, 0x100, 2), 0);
    assert_eq!(errors(501, 0x200, 2), 1);
    assert_eq!(errors(900, 0x100, 3), 1);
    assert_eq!(errors(1001, 0x100, 2), 2);
    assert_eq!(errors(2000, 0x10, 2), 2);
    // What the next PAT still names keeps its time; what is new begins.
    stream.see(
        1100,
        &[with_section(0, 1, 0, &pat(&[(2, 0x200), (4, 0x400)]))],
    );
    assert_eq!(stream.details().pmt_pids, [0x200, 0x400]);
    assert_eq!(errors(1600, 0x400, 2), 2);
    assert_eq!(errors(1600, 0x200, 2), 3);
    assert_eq!(errors(9000, 0x100, 2), 3);
}

#[test]
fn tables_are_only_where_a_section_starts_in_a_payload() {
    let whole = with_section(0, 0, 0, &pat(&[(1, 0x100)]));
    let mut goes_on = whole;
    goes_on[1] &= !0x40;
    // An adaptation field of nothing, and behind it what would be a payload.
    let mut without = [0; PACKET_LEN];
    without[..5].copy_from_slice(&[SYNC, 0x40, 0, 0x20, 0]);
    without[5..].copy_from_slice(&whole[4..PACKET_LEN - 1]);
    let mut with = without;
    with[3] = 0x30;
    for (packet, pmts) in [(whole, 1), (with, 1), (goes_on, 0), (without, 0)] {
        let stream = Stream::new();
        stream.see(0, &[packet]);
        assert_eq!(stream.details().pmt_pids.len(), pmts);
    }
}

#[test]
fn a_pat_with_fewer_programs_ends_those_that_it_lacks() {
    let stream = Stream::new();
    stream.see(0, &[with_section(0, 0, 0, &pat(&[(1, 0x100), (2, 0x200)]))]);
    stream.see(100, &[with_section(0, 1, 0, &pat(&[(2, 0x200)]))]);
    assert_eq!(stream.details().pmt_pids, [0x200]);
    stream.see(200, &[with_section(0, 2, 0, &pat(&[]))]);
    assert!(stream.details().pmt_pids.is_empty());
}

#[test]
fn at_most_16_pmts_are_followed() {
    let stream = Stream::new();
    let programs: Vec<_> = (1..=20).map(|number| (number, 0x100 + number)).collect();
    stream.see(0, &[with_section(0, 0, 0, &pat(&programs))]);
    let expected: Vec<_> = (0x101..=0x110).collect();
    assert_eq!(stream.details().pmt_pids, expected);
}

#[test]
fn a_pat_that_is_damaged_in_parts_or_for_later_names_nothing() {
    const CRC: usize = 4;
    let good = pat(&[(1, 0x100)]);
    let changed = |at: usize, value: u8| {
        let mut section = good[..good.len() - CRC].to_vec();
        section[at] = value;
        section.extend(crc(&section).to_be_bytes());
        section
    };
    let mut bad_crc = good.clone();
    bad_crc[11] ^= 1;
    for (section, pmts) in [
        (good.clone(), 1),
        (bad_crc, 0),
        (changed(5, 0xc0), 0),
        (changed(7, 1), 0),
        (changed(2, 200), 0),
        (changed(2, 0), 0),
        (good[..good.len() - 1].to_vec(), 0),
    ] {
        let stream = Stream::new();
        stream.see(0, &[with_section(0, 0, 0, &section)]);
        assert_eq!(stream.details().pmt_pids.len(), pmts, "{section:x?}");
        // It came all the same.
        stream.see(600, &[with_section(0, 1, 0, &section)]);
        assert_eq!(stream.details().counts.pat_errors, 1);
    }
    // One that goes on in the next packet, and a pointer behind the packet's end.
    let stream = Stream::new();
    let mut outside = with_section(0, 0, 0, &good);
    outside[4] = 183;
    let mut cut = with_section(0, 1, 0, &[]);
    cut[4] = 175;
    cut[180..].copy_from_slice(&good[..8]);
    stream.see(0, &[outside, cut]);
    assert!(stream.details().pmt_pids.is_empty());
}

#[test]
fn the_crc_is_that_of_the_standard() {
    // The check value of CRC-32/MPEG-2.
    assert_eq!(crc(b"123456789"), 0x0376_e6e7);
}
