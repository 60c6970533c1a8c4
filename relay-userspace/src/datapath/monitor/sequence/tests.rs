use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::datapath::monitor::counts::Cells;

const WIDTHS: [Width; 4] = [Width::Bits8, Width::Bits16, Width::Bits32, Width::Bits64];

/// A tracker with its counts, whose numbers begin a bit below where they wrap.
#[derive(Default)]
struct Stream {
    tracker: Tracker,
    counts: CountCells,
}

impl Stream {
    /// Sees numbers that are relative to the one behind which they wrap.
    fn see(&self, width: Width, numbers: impl IntoIterator<Item = i64>) -> Vec<Seen> {
        let numbers = numbers.into_iter();
        let see = |number: i64| {
            let number = number.cast_unsigned() & width.mask();
            self.tracker.see(width, number, 1, &self.counts)
        };
        numbers.map(see).collect()
    }

    /// Lost, missing, reordered, duplicated, strays, restarts.
    fn numbers(&self) -> [u64; 6] {
        let counts = self.counts.get();
        [
            counts.lost,
            self.tracker.missing(),
            counts.reordered,
            counts.duplicated,
            counts.stray,
            counts.restarts,
        ]
    }
}

#[test]
fn numbers_in_order_count_nothing_wherever_they_wrap() {
    for width in WIDTHS {
        let stream = Stream::default();
        let seen = stream.see(width, -600..600);
        assert_eq!(seen[0], Seen::First);
        assert!(seen[1..].iter().all(|&seen| seen == Seen::Highest));
        assert_eq!(stream.numbers(), [0; 6], "{width:?}");
        assert_eq!(stream.tracker.highest(), Some(599 & width.mask()));
    }
}

#[test]
fn a_hole_is_missing_until_it_is_filled_or_leaves_the_window() {
    for width in WIDTHS {
        let stream = Stream::default();
        stream.see(width, [-2, 1, 2]);
        assert_eq!(stream.numbers(), [0, 2, 0, 0, 0, 0], "{width:?}");
        assert_eq!(stream.see(width, [0]), [Seen::Late]);
        assert_eq!(stream.numbers(), [0, 1, 1, 0, 0, 0], "{width:?}");
        // -1 is the last in the window.
        stream.see(width, 3..=62);
        assert_eq!(stream.numbers(), [0, 1, 1, 0, 0, 0], "{width:?}");
        stream.see(width, [63]);
        assert_eq!(stream.numbers(), [1, 0, 1, 0, 0, 0], "{width:?}");
    }
}

#[test]
fn a_number_that_came_before_is_duplicated() {
    for width in WIDTHS {
        let stream = Stream::default();
        stream.see(width, -70..=10);
        assert_eq!(stream.see(width, [10, -1, 10 - 63]), [Seen::Again; 3]);
        stream.see(width, [12, 11, 11]);
        assert_eq!(stream.numbers(), [0, 0, 1, 4, 0, 0], "{width:?}");
    }
}

#[test]
fn a_jump_up_to_the_limit_is_a_loss_and_a_longer_one_is_not() {
    for width in WIDTHS {
        let limit = width.limit().cast_signed();
        let stream = Stream::default();
        stream.see(width, [-5, -4, -2, -2 + limit]);
        // Of what is between, 63 are still in the window.
        let between = width.limit() - 1;
        assert_eq!(
            stream.numbers(),
            [between + 1 - 63, 63, 0, 0, 0, 0],
            "{width:?}"
        );
        let stream = Stream::default();
        stream.see(width, [-2]);
        assert_eq!(
            stream.see(width, [-1 + limit, -1]),
            [Seen::Suspect, Seen::Highest]
        );
        assert_eq!(stream.numbers(), [0, 0, 0, 0, 1, 0], "{width:?}");
    }
}

#[test]
fn the_limits_are_those_that_the_pages_name() {
    assert_eq!(WIDTHS.map(Width::limit), [100, 3000, 1 << 20, 1 << 20]);
}

#[test]
fn two_numbers_that_follow_each_other_far_away_are_a_restart() {
    for width in WIDTHS {
        // Behind the window, before the first number, and far ahead.
        for far in [-66, -130, -3, width.limit().cast_signed() + 10] {
            let stream = Stream::default();
            let first = if far < -9 { -100 } else { -1 };
            stream.see(width, (first..=7).chain([9]));
            let missing = [0, 1, 0, 0, 0, 0];
            assert_eq!(stream.numbers(), missing);
            assert_eq!(stream.see(width, [far]), [Seen::Suspect], "{width:?} {far}");
            assert_eq!(stream.numbers(), missing);
            assert_eq!(stream.see(width, [far + 1]), [Seen::Restart]);
            stream.see(width, [far + 2, far + 2]);
            assert_eq!(stream.numbers(), [1, 0, 0, 1, 0, 1], "{width:?} {far}");
            // The window begins with the suspect.
            assert_eq!(
                stream.see(width, [far, far - 1]),
                [Seen::Again, Seen::Suspect]
            );
        }
    }
}

#[test]
fn a_restart_may_be_where_numbers_wrap() {
    for width in WIDTHS {
        for first in [-2, -1, 0] {
            let stream = Stream::default();
            stream.see(width, 100..=110);
            let seen = stream.see(width, first..=first + 2);
            assert_eq!(
                seen,
                [Seen::Suspect, Seen::Restart, Seen::Highest],
                "{width:?}"
            );
            assert_eq!(stream.numbers(), [0, 0, 0, 0, 0, 1], "{width:?}");
        }
    }
}

#[test]
fn lone_numbers_far_away_are_strays_and_change_nothing_else() {
    for width in WIDTHS {
        let stream = Stream::default();
        stream.see(width, -100..=0);
        // Old ones of another path, between those in order; the same one twice; and one at the end.
        stream.see(width, [-99, 1, -98, 2, -97, -97, 3, -80]);
        assert_eq!(stream.numbers(), [0, 0, 0, 0, 4, 0], "{width:?}");
        stream.see(width, [5]);
        assert_eq!(stream.numbers(), [0, 1, 0, 0, 5, 0], "{width:?}");
        stream.see(width, [-80]);
        stream.tracker.end(&stream.counts);
        assert_eq!(stream.numbers(), [1, 0, 0, 0, 6, 0], "{width:?}");
        assert_eq!(stream.tracker.highest(), None);
    }
}

/// A stream of datagrams with several numbers each, from 0 on.
fn ranges(stream: &Stream, ranges: &[(i64, u64)]) -> Vec<Seen> {
    let see = |&(first, count): &(i64, u64)| {
        let first = first.cast_unsigned();
        stream
            .tracker
            .see(Width::Bits64, first, count, &stream.counts)
    };
    ranges.iter().map(see).collect()
}

#[test]
fn a_datagram_may_have_several_numbers() {
    let stream = Stream::default();
    ranges(&stream, &[(-7, 3), (-4, 200), (196, 1), (200, 5)]);
    assert_eq!(stream.numbers(), [0, 3, 0, 0, 0, 0]);
    // All of it known, also where it begins far behind the window.
    assert_eq!(ranges(&stream, &[(-4, 200), (201, 2)]), [Seen::Again; 2]);
    assert_eq!(stream.numbers(), [0, 3, 0, 2, 0, 0]);
    // It fills two holes, and has one known number.
    assert_eq!(ranges(&stream, &[(196, 3)]), [Seen::Late]);
    assert_eq!(stream.numbers(), [0, 1, 2, 2, 0, 0]);
    // It fills one, has five known ones and ten new ones.
    assert_eq!(ranges(&stream, &[(199, 16)]), [Seen::Highest]);
    assert_eq!(stream.numbers(), [0, 0, 3, 2, 0, 0]);
    assert_eq!(stream.tracker.highest(), Some(214));
    assert_eq!(
        ranges(&stream, &[(10, 5), (215, 1)]),
        [Seen::Suspect, Seen::Highest]
    );
    assert_eq!(
        ranges(&stream, &[(10, 5), (15, 5)]),
        [Seen::Suspect, Seen::Restart]
    );
    assert_eq!(stream.numbers(), [0, 0, 3, 2, 1, 1]);
    // The suspect's numbers are in the window.
    assert_eq!(
        ranges(&stream, &[(10, 10), (20, 1)]),
        [Seen::Again, Seen::Highest]
    );
}

#[test]
fn of_a_datagram_that_begins_before_the_stream_only_what_is_in_it_counts() {
    let stream = Stream::default();
    let seen = ranges(&stream, &[(0, 1), (2, 1), (-5, 6), (-5, 7)]);
    assert_eq!(seen, [Seen::First, Seen::Highest, Seen::Again, Seen::Late]);
    assert_eq!(stream.numbers(), [0, 0, 1, 1, 0, 0]);
}

#[test]
fn no_number_and_no_count_panics() {
    let stream = Stream::default();
    let edges = [
        0,
        1,
        2,
        63,
        64,
        65,
        100,
        3000,
        1 << 20,
        u64::MAX / 2,
        u64::MAX - 1,
        u64::MAX,
    ];
    for width in WIDTHS {
        for first in edges {
            for count in edges {
                stream.tracker.see(width, first, count, &stream.counts);
                stream.tracker.see(width, first, 1, &stream.counts);
            }
        }
    }
}

/// What becomes of the next number of a stream.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    /// So many are dropped.
    Dropped(u64),
    /// It comes when so many have come that are above it.
    Delayed(u64),
    /// It comes twice, the second time as late.
    Doubled(u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        5 => Just(Fate::Arrives),
        1 => (1..=30_u64).prop_map(Fate::Dropped),
        2 => (1..=63_u64).prop_map(Fate::Delayed),
        1 => (0..=63_u64).prop_map(Fate::Doubled),
    ]
}

/// The numbers in the order in which they arrive, and how many were dropped.
fn arrivals(fates: &[Fate]) -> (Vec<u64>, u64) {
    // The first number is where the stream begins, and at the end all holes leave the window.
    let (mut next, mut dropped) = (1, 0);
    let mut arrivals = vec![(0, 0)];
    for fate in fates {
        match *fate {
            Fate::Arrives => arrivals.push((next, next)),
            Fate::Dropped(count) => {
                dropped += count;
                next += count;
                // One that is there, so that no jump is beyond the limit of eight bits.
                arrivals.push((next, next));
            }
            Fate::Delayed(by) => arrivals.push((next + by, next)),
            Fate::Doubled(by) => arrivals.extend([(next, next), (next + by, next)]),
        }
        next += 1;
    }
    arrivals.extend((next..next + 130).map(|number| (number, number)));
    // What is late comes behind what is due.
    arrivals.sort_by_key(|&(due, number)| (due, due != number));
    let numbers = arrivals.into_iter().map(|(_, number)| number);
    (numbers.collect(), dropped)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_dropped_delayed_and_doubled_is_counted_exactly(
        fates in vec(fate(), 0..600),
        width in select(&WIDTHS[..]),
        start in 0..700_i64,
    ) {
        let (numbers, dropped) = arrivals(&fates);
        let (mut reordered, mut duplicated, mut highest) = (0, 0, 0);
        let mut known = std::collections::HashSet::new();
        let stream = Stream::default();
        for number in numbers {
            match (known.insert(number), number < highest) {
                (false, _) => duplicated += 1,
                (true, true) => reordered += 1,
                (true, false) => {}
            }
            highest = highest.max(number);
            stream.see(width, [number.cast_signed() - start]);
            let [lost, missing, ..] = stream.numbers();
            prop_assert_eq!(lost + missing, highest + 1 - known.len() as u64);
        }
        prop_assert_eq!(stream.numbers(), [dropped, 0, reordered, duplicated, 0, 0]);
    }

    #[test]
    fn any_numbers_leave_the_books_balanced(
        numbers in vec((any::<u64>(), 1..=70_u64), 0..200),
        near in vec((0..200_u64, 1..=70_u64), 0..200),
        width in select(&WIDTHS[..]),
    ) {
        let stream = Stream::default();
        let mut lost = 0;
        for (first, count) in near.into_iter().chain(numbers) {
            let count = if width == Width::Bits64 { count } else { 1 };
            stream.tracker.see(width, first, count, &stream.counts);
            let [now, missing, ..] = stream.numbers();
            prop_assert!(now >= lost && missing < 64);
            lost = now;
        }
    }
}
