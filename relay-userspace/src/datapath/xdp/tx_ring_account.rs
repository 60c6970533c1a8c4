//! The account of one TX ring: how far its descriptors have come. Pure numbers, no ring and no
//! system call.
//!
//! ```text
//!   queue()      submitted()      settle()       completed()
//!      |              |               |               |
//!      v              v               v               v
//!   staged ----> on the ring ----> taken ------> come back        (each in the order of the ring)
//! ```
//!
//! The kernel takes descriptors in order, so four counters suffice, and they never overtake each
//! other: `completed <= taken <= submitted <= queued <= completed + TX_SIZE`. Descriptors that have
//! not come back are limited, so neither the TX ring nor the completion ring can overflow. But the
//! TX ring may *look* full while it is not: the kernel publishes how far it came later than it
//! completes (`xskq_cons_get_entries`, net/xdp/xsk_queue.h). So whether a descriptor may be queued
//! and whether it can be put on the ring are two questions.

use std::ops::Range;

use super::ring_sizes::TX_SIZE;

/// Counters of descriptors since the socket was bound. They wrap.
#[derive(Debug, Default)]
pub struct Ledger {
    queued: u32,
    submitted: u32,
    taken: u32,
    completed: u32,
}

/// Consecutive descriptors that the kernel took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    first: u32,
    count: u32,
}

impl Taken {
    /// Their number.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Their slots, in order.
    #[inline]
    pub fn slots(self) -> impl DoubleEndedIterator<Item = usize> {
        (0..self.count).map(move |step| slot(self.first.wrapping_add(step)))
    }
}

/// The slot of a descriptor in the arrays that go along with the ring.
#[inline]
pub fn slot(descriptor: u32) -> usize {
    (descriptor % TX_SIZE) as usize
}

impl Ledger {
    /// Descriptors that have not come back.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.queued.wrapping_sub(self.completed)
    }

    /// Descriptors that the kernel has not taken, staged ones included.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.queued.wrapping_sub(self.taken)
    }

    /// Descriptors that are not on the ring yet.
    #[inline]
    pub fn staged(&self) -> u32 {
        self.queued.wrapping_sub(self.submitted)
    }

    /// Descriptors that the kernel took and has not given back.
    pub fn with_the_kernel(&self) -> u32 {
        self.outstanding().saturating_sub(self.waiting())
    }

    /// Descriptors ever queued.
    #[inline]
    pub fn queued(&self) -> u32 {
        self.queued
    }

    /// Whether the kernel has taken all descriptors that had been queued when [`Ledger::queued`]
    /// was `then`, or they were given up. `then` must be of the last 2³¹ descriptors.
    pub fn has_taken(&self, then: u32) -> bool {
        self.taken.wrapping_sub(then).cast_signed() >= 0
    }

    /// Whether so many more descriptors may be queued.
    #[inline]
    pub fn has_room(&self, descriptors: u32) -> bool {
        self.outstanding() + descriptors <= TX_SIZE
    }

    /// Stages one more descriptor, in the slot returned. Only after [`Ledger::has_room`].
    #[inline]
    pub fn queue(&mut self) -> usize {
        let at = slot(self.queued);
        self.queued = self.queued.wrapping_add(1);
        at
    }

    /// Stages so many more descriptors, whose slots are those of [`Self::queued`] and the numbers
    /// behind it. Only after [`Ledger::has_room`].
    #[inline]
    pub fn queue_many(&mut self, count: u32) {
        self.queued = self.queued.wrapping_add(count);
    }

    /// The slots of the next `count` staged descriptors, in order: those that lie side by side, and
    /// those that go on at the start of the arrays.
    #[inline]
    pub fn next_staged(&self, count: u32) -> [Range<usize>; 2] {
        let first = slot(self.submitted);
        let end = first + self.staged().min(count) as usize;
        let size = TX_SIZE as usize;
        [first..end.min(size), 0..end.saturating_sub(size)]
    }

    /// The slot of the `count`th staged descriptor, counted from 1.
    #[inline]
    pub fn staged_slot(&self, count: u32) -> usize {
        slot(self.submitted.wrapping_add(count).wrapping_sub(1))
    }

    /// The slot of the next descriptor that the kernel takes, if it takes one.
    pub fn next_taken(&self) -> usize {
        slot(self.taken)
    }

    /// The slot of the descriptor that the kernel took last.
    pub fn last_taken(&self) -> usize {
        slot(self.taken.wrapping_sub(1))
    }

    /// The ring took `count` of the staged descriptors.
    #[inline]
    pub fn submitted(&mut self, count: u32) {
        self.submitted = self.submitted.wrapping_add(count.min(self.staged()));
    }

    /// Counts the descriptors that the kernel has taken since the last call, and returns them.
    /// `free` is the number of free entries of the ring that the kernel has published. At least
    /// `least` have been taken: those of a frame that the device refused.
    ///
    /// The published number can lag. A descriptor that came back was taken, published or not, and
    /// so was a refused one. Where the kernel publishes late (before Linux 6.17), the refused frame
    /// may be a later one than it seems; how many there were is right all the same.
    #[inline]
    pub fn settle(&mut self, free: u32, least: u32) -> Taken {
        let pending = self.submitted.wrapping_sub(self.taken);
        let published = pending.saturating_sub(TX_SIZE.saturating_sub(free));
        let not_back = self.submitted.wrapping_sub(self.completed);
        let known = published.max(pending.saturating_sub(not_back));
        let count = known.max(least).min(pending);
        let first = self.taken;
        self.taken = first.wrapping_add(count);
        Taken { first, count }
    }

    /// `count` descriptors came back.
    #[inline]
    pub fn completed(&mut self, count: u32) {
        let not_back = self.submitted.wrapping_sub(self.completed);
        self.completed = self.completed.wrapping_add(count.min(not_back));
    }

    /// Gives up the descriptors that wait, but not their chunks: they have not come back.
    pub fn leave(&mut self) -> Taken {
        let waiting = Taken {
            first: self.taken,
            count: self.waiting(),
        };
        self.submitted = self.queued;
        self.taken = self.queued;
        waiting
    }

    /// The descriptors that have not come back, if they come back in order.
    pub fn not_back(&self) -> Taken {
        Taken {
            first: self.completed,
            count: self.outstanding(),
        }
    }

    /// Gives up the descriptors that wait: the kernel never takes them. Their chunks are the
    /// caller's again.
    pub fn abandon(&mut self) -> Taken {
        let abandoned = Taken {
            first: self.taken,
            count: self.waiting(),
        };
        self.submitted = self.queued;
        self.taken = self.queued;
        self.completed = self.completed.wrapping_add(abandoned.count);
        abandoned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with `count` descriptors, all of them on the ring.
    fn submitted(count: u32) -> Ledger {
        let mut ledger = Ledger::default();
        for _ in 0..count {
            ledger.queue();
        }
        ledger.submitted(count);
        ledger
    }

    #[test]
    fn what_has_not_come_back_is_limited_and_not_what_is_on_the_ring() {
        let mut ledger = submitted(TX_SIZE);
        assert!(!ledger.has_room(1));
        ledger.completed(1);
        assert!(ledger.has_room(1));
        assert!(!ledger.has_room(2));
        ledger.queue();
        assert_eq!((ledger.staged(), ledger.waiting()), (1, TX_SIZE + 1));
        assert!(!ledger.has_room(1));
    }

    #[test]
    fn staged_descriptors_are_put_on_the_ring_in_order_and_around_its_end() {
        let mut ledger = submitted(TX_SIZE - 2);
        ledger.settle(TX_SIZE, 0);
        ledger.completed(TX_SIZE - 2);
        for _ in 0..5 {
            ledger.queue();
        }
        let end = TX_SIZE as usize;
        assert_eq!(ledger.next_staged(0), [end - 2..end - 2, 0..0]);
        assert_eq!(ledger.next_staged(1), [end - 2..end - 1, 0..0]);
        assert_eq!(ledger.next_staged(4), [end - 2..end, 0..2]);
        assert_eq!(
            [1, 2, 3].map(|count| ledger.staged_slot(count)),
            [end - 2, end - 1, 0]
        );
        ledger.submitted(4);
        assert_eq!(ledger.next_staged(TX_SIZE), [2..3, 0..0]);
        assert_eq!(ledger.next_taken(), end - 2);
        assert_eq!(ledger.last_taken(), end - 3);
    }

    #[test]
    fn what_is_published_and_what_came_back_was_taken() {
        let mut ledger = submitted(10);
        assert_eq!(ledger.settle(TX_SIZE - 7, 0).count(), 3);
        ledger.completed(5);
        let taken = ledger.settle(TX_SIZE - 7, 0);
        assert_eq!(taken.slots().collect::<Vec<_>>(), [3, 4]);
        let why = "what is published is behind";
        assert_eq!(ledger.settle(TX_SIZE - 7, 0).count(), 0, "{why}");
        assert_eq!(ledger.settle(TX_SIZE, 0).count(), 5);
        assert_eq!((ledger.waiting(), ledger.outstanding()), (0, 5));
        assert_eq!(ledger.with_the_kernel(), 5);
    }

    #[test]
    fn a_refused_frame_was_taken_though_nothing_is_published() {
        let mut ledger = submitted(2);
        let nothing_published = TX_SIZE - 2;
        assert_eq!(ledger.settle(nothing_published, 1).count(), 1);
        assert_eq!(ledger.settle(nothing_published, 1).count(), 1);
        assert_eq!(ledger.settle(nothing_published, 1).count(), 0);
        let mut ledger = submitted(4);
        let nothing_published = TX_SIZE - 4;
        assert_eq!(
            ledger.settle(nothing_published, 2).count(),
            2,
            "of two parts"
        );
    }

    #[test]
    fn what_waits_can_be_given_up_and_what_the_kernel_has_comes_back() {
        let mut ledger = submitted(4);
        ledger.queue();
        ledger.settle(TX_SIZE - 3, 0);
        let abandoned = ledger.abandon();
        assert_eq!(abandoned.slots().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((ledger.waiting(), ledger.outstanding()), (0, 1));
        ledger.completed(1);
        assert_eq!(ledger.outstanding(), 0);
        ledger.completed(1);
        assert_eq!(ledger.outstanding(), 0, "more than there were");
    }

    #[test]
    fn counters_may_wrap() {
        let start = u32::MAX - 1;
        let mut ledger = Ledger {
            queued: start,
            submitted: start,
            taken: start,
            completed: start,
        };
        for _ in 0..4 {
            ledger.queue();
        }
        assert_eq!(ledger.next_staged(TX_SIZE).map(|slots| slots.len()), [2, 2]);
        ledger.submitted(4);
        assert_eq!(ledger.settle(TX_SIZE - 1, 0).count(), 3);
        ledger.completed(2);
        assert_eq!((ledger.waiting(), ledger.outstanding()), (1, 2));
        assert!(ledger.has_taken(start.wrapping_add(3)));
        assert!(!ledger.has_taken(ledger.queued()));
        ledger.abandon();
        assert!(ledger.has_taken(ledger.queued()));
    }
}
