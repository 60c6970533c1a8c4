//! Whether everything that was offered is accounted for: each copy arrived, or the relay or the
//! kernel has counted that it did not leave.
//!
//! A frame that is lost before it is copied counts for all of its copies.

use crate::drops::Drops;

/// The relay's reasons that count frames and not copies, see "Counters" in docs/architecture.md. If
/// a new reason is missing here, its frames show as unaccounted.
const OF_FRAMES: [&str; 6] = [
    "no_rule",
    "malformed",
    "rx_ring_full",
    "rx_fill_ring_empty",
    "rx_dropped",
    "rx_socket_full",
];

/// Both ends of the wires, from the start of a contender to its end, warm-up and overload among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Frames that were offered.
    pub offered: u64,
    /// Of those, frames that the wire in front of the contender had no room for, as the kernel
    /// counted them.
    pub refused: u64,
    /// Copies of each frame.
    pub outputs: u64,
    /// Copies that arrived.
    pub arrived: u64,
}

impl Balance {
    /// Copies that neither arrived nor were counted as lost; below 0 if there are more than were
    /// offered. `dropped` is from the relay's own report.
    pub fn unaccounted(&self, dropped: &Drops) -> i64 {
        let sum = |frames| -> u64 {
            let of = |reason: &str| OF_FRAMES.contains(&reason) == frames;
            let some = dropped.iter().filter(|(reason, _)| of(reason));
            some.map(|(_, count)| count).sum()
        };
        let lost_whole = self.refused + sum(true);
        let known = lost_whole * self.outputs + sum(false) + self.arrived;
        (self.offered * self.outputs) as i64 - known as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALANCE: Balance = Balance {
        offered: 100,
        refused: 10,
        outputs: 4,
        arrived: 300,
    };

    #[test]
    fn a_lost_frame_stands_for_all_of_its_copies() {
        let drops = |frames, copies| {
            Drops::from([
                ("rx_ring_full".to_owned(), frames),
                ("ring_full".to_owned(), copies),
            ])
        };
        assert_eq!(BALANCE.unaccounted(&drops(10, 20)), 0);
        assert_eq!(BALANCE.unaccounted(&drops(10, 19)), 1);
        assert_eq!(BALANCE.unaccounted(&drops(11, 20)), -4);
    }

    #[test]
    fn too_many_copies_are_no_better_than_too_few() {
        let more = Balance {
            arrived: 361,
            ..BALANCE
        };
        assert_eq!(more.unaccounted(&Drops::new()), -1);
    }
}
