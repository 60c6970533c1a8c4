//! Messages that a device had no room for, copied, until it has room.
//!
//! Past the queueing discipline nothing waits for a device: the device refuses a packet that finds
//! its TX ring full, and the kernel frees it (`dev_direct_xmit`, include/linux/netdevice.h). A
//! [`Backlog`] is the queue that is missing there, one per TX socket: first in, first out. While it
//! holds a message, every newer one goes behind it, so the order stays. [`Backlog::put`] bounds it
//! in bytes and messages, the TX socket bounds it in time ([`PATIENCE`]); it allocates its memory
//! once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Bytes that wait at most: 64 of the largest GSO packets, about 3 ms of a NIC with 10 Gbit/s.
const BYTES: usize = 4 << 20;
/// Messages that wait at most: as many single frames as four TX rings of 1024 entries hold.
const MESSAGES: usize = 4096;
/// How long a message waits at most. A device that takes nothing for so long no longer takes part,
/// and a live feed has no use for frames that leave later.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// Messages that wait, oldest first.
#[derive(Debug)]
pub struct Backlog {
    /// Each message in one piece. The kernel zeroes it when it is first touched, so a TX socket
    /// whose device keeps up has none of it resident.
    bytes: Box<[u8]>,
    /// Its capacity is [`MESSAGES`], so it never grows.
    waiting: VecDeque<Waiting>,
    /// Where the next message goes, unless it does not fit before the end.
    next: usize,
}

/// One message that waits.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    start: usize,
    len: usize,
    /// The output that it counts for, a position in the worker's counters.
    pub output: u32,
    /// How many frames it holds.
    pub frames: u16,
    /// Since when it waits.
    pub since: Instant,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            bytes: vec![0; BYTES].into(),
            waiting: VecDeque::with_capacity(MESSAGES),
            next: 0,
        }
    }
}

impl Backlog {
    /// Whether no message waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Copies a message of `frames` frames of `output`, gathered from `parts`, behind all others.
    /// Returns false if there is no room.
    #[cold]
    pub fn put<'a>(
        &mut self,
        output: u32,
        frames: u16,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> bool {
        let len = parts.clone().map(<[u8]>::len).sum();
        if self.waiting.len() >= MESSAGES {
            return false;
        }
        let Some(start) = self.room(len) else {
            return false;
        };
        let mut at = start;
        for part in parts {
            let Some(place) = self.bytes.get_mut(at..at + part.len()) else {
                return false;
            };
            place.copy_from_slice(part);
            at += part.len();
        }
        self.next = at;
        self.waiting.push_back(Waiting {
            start,
            len,
            output,
            frames,
            since: Instant::now(),
        });
        true
    }

    /// Where `len` bytes in one piece have room: behind the newest message, or at the start if the
    /// end is too near.
    fn room(&self, len: usize) -> Option<usize> {
        let Some(oldest) = self.waiting.front().map(|oldest| oldest.start) else {
            return (len <= self.bytes.len()).then_some(0);
        };
        if self.next > oldest {
            if len <= self.bytes.len() - self.next {
                return Some(self.next);
            }
            // One byte stays free, or a full ring would look like an empty one.
            return (len < oldest).then_some(0);
        }
        (len < oldest - self.next).then_some(self.next)
    }

    /// The oldest message and its bytes.
    pub fn oldest(&self) -> Option<(Waiting, &[u8])> {
        let oldest = *self.waiting.front()?;
        let bytes = self.bytes.get(oldest.start..oldest.start + oldest.len)?;
        Some((oldest, bytes))
    }

    /// Whether a message waits since `then` or longer.
    pub fn has_older(&self, then: Instant) -> bool {
        self.waiting
            .front()
            .is_some_and(|oldest| oldest.since <= then)
    }

    /// Removes the oldest message.
    pub fn forget_oldest(&mut self) {
        self.waiting.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(backlog: &mut Backlog, number: u32, len: usize) -> bool {
        let bytes = vec![number as u8; len];
        let (one, other) = bytes.split_at(len / 3);
        backlog.put(number, number as u16, [one, other].into_iter())
    }

    /// Takes the oldest message, which must be `number` with `len` bytes.
    #[track_caller]
    fn take(backlog: &mut Backlog, number: u32, len: usize) {
        let (oldest, bytes) = backlog.oldest().unwrap();
        assert_eq!((oldest.output, oldest.frames), (number, number as u16));
        assert_eq!(bytes, vec![number as u8; len]);
        backlog.forget_oldest();
    }

    #[test]
    fn messages_come_out_whole_in_the_order_in_which_they_went_in() {
        let mut backlog = Backlog::default();
        let len = |number: u32| 52 + number as usize * 7919 % 65_000;
        let (mut first, mut next) = (0, 0);
        // Many times around, at every fill level.
        for round in 0..3000 {
            while next - first < 1 + round % 90 && put(&mut backlog, next, len(next)) {
                next += 1;
            }
            for _ in 0..(1 + round % 7).min(next - first) {
                take(&mut backlog, first, len(first));
                first += 1;
            }
        }
        assert!(next > 1000);
        while first < next {
            take(&mut backlog, first, len(first));
            first += 1;
        }
        assert!(backlog.is_empty() && backlog.oldest().is_none());
    }

    #[test]
    fn what_is_beyond_its_bytes_or_its_messages_is_refused_and_changes_nothing() {
        let mut backlog = Backlog::default();
        let largest = 65_535 + 10;
        let taken = (0..).take_while(|&n| put(&mut backlog, n, largest)).count();
        assert_eq!(taken, BYTES / largest);
        assert!(!put(&mut backlog, 0, largest));
        take(&mut backlog, 0, largest);
        assert!(!put(&mut backlog, 0, largest), "one byte stays free");
        assert!(put(&mut backlog, 99, largest - 1));
        for number in (1..taken as u32).chain([99]) {
            let len = largest - usize::from(number == 99);
            take(&mut backlog, number, len);
        }
        let memory = backlog.waiting.capacity();
        let taken = (0..).take_while(|&n| put(&mut backlog, n, 100)).count();
        assert_eq!((taken, backlog.waiting.capacity()), (MESSAGES, memory));
    }
}
