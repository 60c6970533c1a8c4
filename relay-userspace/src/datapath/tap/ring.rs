//! The ring of a tap in one worker: records from the worker, which never waits, to the thread that
//! sends them to the tap's client.
//!
//! One writer, one reader, no lock. What finds no room is counted, and nothing else happens. The
//! memory is words of 64 bits that both sides read and write as atomic numbers, so nothing here is
//! unsafe; a record is seen whole, because the number of words that are ready is published last.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use super::record::{ALIGN, HEADER, Header, MOST, Way};

/// The smallest ring, in bytes: a few of the largest frames.
pub const SMALLEST: usize = 4 * (HEADER + MOST);
/// The largest one.
pub const LARGEST: usize = 64 << 20;

/// What both ends share.
#[derive(Debug)]
struct Ring {
    words: Box<[AtomicU64]>,
    /// Words ever written, up to the last whole record.
    written: Apart,
    /// Words ever read.
    read: Apart,
    /// Frames that found no room, by their way: in, out.
    lost: [AtomicU64; 2],
}

/// A number on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart(AtomicU64);

/// The worker's end.
#[derive(Debug)]
pub struct Writer {
    ring: Arc<Ring>,
    /// As in the ring, which only this end writes.
    written: u64,
    /// How many of the lost frames a record has told of.
    told: [u64; 2],
}

/// The other end.
#[derive(Debug)]
pub struct Reader {
    ring: Arc<Ring>,
    read: u64,
}

/// Both ends of a ring of about `bytes`.
#[must_use]
pub fn ring(bytes: usize) -> (Writer, Reader) {
    let words = bytes.clamp(SMALLEST, LARGEST) / ALIGN;
    let ring = Arc::new(Ring {
        words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        written: Apart::default(),
        read: Apart::default(),
        lost: Default::default(),
    });
    let writer = Writer {
        ring: Arc::clone(&ring),
        written: 0,
        told: [0; 2],
    };
    (writer, Reader { ring, read: 0 })
}

impl Ring {
    fn put(&self, at: u64, word: u64) {
        let place = at % self.words.len().max(1) as u64;
        if let Some(place) = self.words.get(place as usize) {
            place.store(word, Relaxed);
        }
    }

    fn get(&self, at: u64) -> u64 {
        let place = at % self.words.len().max(1) as u64;
        self.words
            .get(place as usize)
            .map_or(0, |word| word.load(Relaxed))
    }
}

/// Which of two counters a way has.
const fn side(way: Way) -> usize {
    match way {
        Way::In | Way::Passed => 0,
        Way::Out => 1,
    }
}

impl Writer {
    /// Writes a record of `frame`, or counts it as lost. What was lost goes into the header.
    pub fn write(&mut self, time: u64, way: Way, why: u8, at: u16, frame: &[u8]) {
        let words = (HEADER + frame.len().next_multiple_of(ALIGN)) / ALIGN;
        let taken = self.written.wrapping_sub(self.ring.read.0.load(Acquire));
        let room = (self.ring.words.len() as u64).saturating_sub(taken);
        if words as u64 > room || frame.len() > MOST {
            self.lose(way, 1);
            return;
        }
        let [lost_in, lost_out] = [0, 1].map(|side| self.untold(side));
        let header = Header {
            len: frame.len() as u32,
            time,
            way: Some(way),
            why,
            at,
            lost_in,
            lost_out,
        };
        let mut next = self.written;
        for word in header.words() {
            self.ring.put(next, word);
            next = next.wrapping_add(1);
        }
        let (whole, rest) = frame.as_chunks::<ALIGN>();
        for word in whole {
            self.ring.put(next, u64::from_le_bytes(*word));
            next = next.wrapping_add(1);
        }
        if !rest.is_empty() {
            let mut last = [0; ALIGN];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            self.ring.put(next, u64::from_le_bytes(last));
            next = next.wrapping_add(1);
        }
        self.written = next;
        self.ring.written.0.store(next, Release);
    }

    /// Counts frames as lost.
    pub fn lose(&self, way: Way, frames: u64) {
        if let Some(lost) = self.ring.lost.get(side(way)) {
            lost.store(lost.load(Relaxed).wrapping_add(frames), Relaxed);
        }
    }

    /// How many were lost that no record has told of yet; now one does.
    fn untold(&mut self, side: usize) -> u32 {
        let lost = self
            .ring
            .lost
            .get(side)
            .map_or(0, |lost| lost.load(Relaxed));
        let Some(told) = self.told.get_mut(side) else {
            return 0;
        };
        let untold = u32::try_from(lost.wrapping_sub(*told)).unwrap_or(u32::MAX);
        *told = told.wrapping_add(untold.into());
        untold
    }
}

impl Reader {
    /// Appends records to `to`, as many whole ones as there are, but about `most` bytes. Returns
    /// whether there were any.
    pub fn read(&mut self, to: &mut Vec<u8>, most: usize) -> bool {
        let written = self.ring.written.0.load(Acquire);
        let end = to.len().saturating_add(most);
        let before = self.read;
        while self.read != written && to.len() < end {
            let len = self.ring.get(self.read).min(MOST as u64) as usize;
            let words = (HEADER + len.next_multiple_of(ALIGN)) / ALIGN;
            for _ in 0..words {
                to.extend_from_slice(&self.ring.get(self.read).to_le_bytes());
                self.read = self.read.wrapping_add(1);
            }
        }
        self.ring.read.0.store(self.read, Release);
        self.read != before
    }

    /// Frames that found no room: those that came in, and those that left or should have.
    #[must_use]
    pub fn lost(&self) -> [u64; 2] {
        self.ring.lost.each_ref().map(|lost| lost.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn records(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some((header, rest)) = bytes.split_first_chunk() {
            let header = Header::read(header).unwrap();
            all.push((header, rest[..header.len as usize].to_vec()));
            bytes = &rest[header.record_len() - HEADER..];
        }
        assert!(bytes.is_empty());
        all
    }

    fn frame(number: u64) -> Vec<u8> {
        vec![number as u8; (number * 7919 % 1600) as usize]
    }

    #[test]
    fn what_is_lost_is_counted_by_its_way_and_told_by_the_next_record() {
        let (mut writer, mut reader) = ring(0);
        let long = vec![7; MOST];
        for _ in 0..4 {
            writer.write(1, Way::In, 0, 0, &long);
        }
        writer.write(1, Way::In, 0, 0, b"one more");
        writer.write(1, Way::Out, 0, 0, b"one more");
        writer.write(1, Way::Out, 0, 0, b"one more");
        writer.write(1, Way::In, 0, 0, &[0; MOST + 1]);
        assert_eq!(reader.lost(), [2, 2]);
        let mut bytes = Vec::new();
        assert!(reader.read(&mut bytes, usize::MAX));
        assert!(!reader.read(&mut bytes, usize::MAX), "no more");
        let all = records(&bytes);
        assert_eq!(all.len(), 4);
        assert!(
            all.iter().all(
                |(header, frame)| *frame == long && (header.lost_in, header.lost_out) == (0, 0)
            )
        );
        for lost in [2, 0] {
            writer.write(9, Way::Out, 3, 4, b"frame");
            bytes.clear();
            reader.read(&mut bytes, 1);
            let [(header, frame)] = &records(&bytes)[..] else {
                panic!("one record");
            };
            assert_eq!((header.lost_in, header.lost_out), (lost, lost));
            assert_eq!((header.time, header.why, header.at), (9, 3, 4));
            assert_eq!(frame, b"frame");
        }
    }

    #[test]
    fn records_come_whole_and_in_order_while_both_ends_work() {
        const COUNT: u64 = if cfg!(miri) { 300 } else { 100_000 };
        let (mut writer, mut reader) = ring(0);
        let over = AtomicBool::new(false);
        let (seen, lost) = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..COUNT {
                    writer.write(number, Way::In, 0, 0, &frame(number));
                }
                over.store(true, Release);
            });
            let mut seen = Vec::new();
            loop {
                let last = over.load(Acquire);
                let mut bytes = Vec::new();
                while reader.read(&mut bytes, 10_000) {}
                seen.extend(records(&bytes).into_iter().map(|(header, bytes)| {
                    assert_eq!(bytes, frame(header.time));
                    (header.time, header.lost_in)
                }));
                if last {
                    break;
                }
            }
            (seen, reader.lost()[0])
        });
        assert_eq!(seen.len() as u64 + lost, COUNT);
        let mut next = 0;
        for (number, lost) in seen {
            next += u64::from(lost);
            assert_eq!(number, next, "what is missing in between was told");
            next += 1;
        }
    }
}
