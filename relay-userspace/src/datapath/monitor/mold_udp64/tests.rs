use super::*;
use crate::config::rules::Monitor;
use crate::datapath::monitor::{Counts, FlowMonitor, SourceHealth, tests::source};

const SESSION: &[u8; 10] = b"    202612";

/// A datagram whose messages are empty.
fn datagram(session: &[u8; 10], first: u64, count: u16) -> Vec<u8> {
    let mut datagram = session.to_vec();
    datagram.extend(first.to_be_bytes());
    datagram.extend(count.to_be_bytes());
    if count != END_OF_SESSION {
        datagram.resize(20 + MESSAGE_LEN * usize::from(count), 0);
    }
    datagram
}

fn after(datagrams: &[Vec<u8>]) -> SourceHealth {
    let monitor = FlowMonitor::new(Monitor::MoldUdp64);
    for datagram in datagrams {
        monitor.see(source(1), datagram, 0);
    }
    monitor.read().unwrap().sources.remove(0)
}

fn details(health: &SourceHealth) -> MoldUdp64 {
    match health.details {
        Details::MoldUdp64(details) => details,
        _ => panic!("{health:?}"),
    }
}

#[test]
fn messages_are_counted_and_not_datagrams() {
    let of = |first, count| datagram(SESSION, first, count);
    let health = after(&[
        of(1, 3),
        of(4, 1),
        of(10, 5),
        of(5, 2),
        of(1, 3),
        of(15, 70),
    ]);
    let counts = Counts {
        datagrams: 6,
        lost: 3,
        reordered: 2,
        duplicated: 1,
        ..Counts::default()
    };
    assert_eq!((health.counts, health.missing), (counts, 0));
    let details = details(&health);
    assert_eq!((details.counts.messages, details.next), (84, Some(85)));
    assert_eq!(&details.session, SESSION);
}

#[test]
fn numbers_wrap_at_64_bits() {
    let of = |first, count| datagram(SESSION, first, count);
    let health = after(&[of(u64::MAX - 2, 2), of(u64::MAX, 3), of(2, 1), of(4, 1)]);
    assert_eq!((health.counts.lost, health.missing), (0, 1));
    assert_eq!(health.counts.restarts, 0);
    assert_eq!(details(&health).next, Some(5));
}

#[test]
fn heartbeats_and_ends_of_session_change_no_number() {
    let of = |first, count| datagram(SESSION, first, count);
    let health = after(&[
        of(9, 0),
        of(1, 1),
        of(9, 0),
        of(2, 1),
        of(3, END_OF_SESSION),
        of(3, 1),
    ]);
    assert_eq!(
        (health.missing, health.counts.stray, health.counts.restarts),
        (0, 0, 0)
    );
    let details = details(&health);
    let counts = MoldUdp64Counts {
        messages: 3,
        heartbeats: 2,
        ends_of_session: 1,
    };
    assert_eq!((details.counts, details.next), (counts, Some(4)));
    // Nor do they come between a datagram far away and the one that follows it.
    let health = after(&[of(500, 1), of(1, 1), of(2, 0), of(2, 1)]);
    assert_eq!((health.counts.restarts, health.counts.stray), (1, 0));
}

#[test]
fn another_session_is_one_restart_whatever_its_numbers() {
    for first in [1, 5, 1 << 40] {
        let health = after(&[
            datagram(SESSION, 1, 1),
            datagram(SESSION, 3, 1),
            datagram(b"    202613", first, 1),
            datagram(b"    202613", first + 1, 1),
        ]);
        let counts = Counts {
            datagrams: 4,
            lost: 1,
            restarts: 1,
            ..Counts::default()
        };
        assert_eq!((health.counts, health.missing), (counts, 0));
        let details = details(&health);
        assert_eq!(
            (&details.session, details.next),
            (b"    202613", Some(first + 2))
        );
    }
    // The last two bytes are part of it, and a heartbeat has one as well.
    let health = after(&[datagram(SESSION, 1, 1), datagram(b"    202699", 1, 0)]);
    assert_eq!((health.counts.restarts, details(&health).next), (1, None));
}

#[test]
fn a_datagram_shorter_than_its_messages_is_not_understood() {
    let whole = datagram(SESSION, 1, 4);
    for len in 0..whole.len() {
        let health = after(&[whole[..len].to_vec()]);
        assert_eq!(health.counts.not_understood, 1, "{len}");
        assert_eq!(health.details, Details::None);
    }
    assert_eq!(after(&[whole]).counts.not_understood, 0);
}
