//! One worker's receive buffers: the ring that lends them to the kernel, and a count of holds per
//! buffer.
//!
//! A buffer is either provided, that is in the ring or with the kernel, or held: by each datagram
//! of a batch that lies in it, and by each message in flight that was gathered from it. When the
//! last hold ends, it is provided again. [`Held`] is neither `Clone` nor `Copy`, so safe code can
//! neither read a buffer that the kernel may write to, nor give one back twice.

use std::{
    cell::Cell,
    io,
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering::Release},
};

use io_uring::{IoUring, types::BufRingEntry};
use relay_common::wire::Tag;

use super::receive::{self, FRAME_AT};
use crate::datapath::{batch::Memory, mapping::Mapping};

/// The number of the ring's only buffer group.
pub const GROUP: u16 = 0;
/// Bytes from one buffer to the next: a GSO packet of 64 KiB and what io_uring writes in front of
/// it fit. Pages that no frame ever reached cost nothing. Not 64 KiB, because then the first bytes
/// of all buffers would compete for the same few cache lines.
pub const SIZE: usize = 65 << 10;

/// A hold on a buffer, which keeps it from the kernel.
#[derive(Debug)]
pub struct Held(u16);

/// The buffers and where each of them is.
#[derive(Debug)]
pub struct Buffers {
    memory: Mapping,
    ring: Mapping,
    /// Entries ever put on the ring, as the kernel counts them.
    tail: Cell<u16>,
    /// Holds, by the buffer's number.
    holds: Box<[Cell<u16>]>,
    held: Cell<u64>,
}

impl Buffers {
    /// Maps `count` buffers, a power of two and at most 32768, and provides all of them to `ring`.
    ///
    /// # Errors
    ///
    /// When there is no memory, or the kernel refuses the ring.
    ///
    /// # Safety
    ///
    /// The buffers must live until `ring` is closed and nothing that receives into them is
    /// outstanding.
    pub unsafe fn provide(ring: &IoUring, count: u16) -> io::Result<Self> {
        let buffers = Self::without_ring(count)?;
        let address = buffers.ring.start().as_ptr() as u64;
        // SAFETY: the memory is as long as `count` entries, and lives as long as the caller
        // promises.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)
        }?;
        Ok(buffers)
    }

    /// Maps the same buffers without a ring, to measure code that uses them without the kernel.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn without_ring(count: u16) -> io::Result<Self> {
        let buffers = Self {
            memory: Mapping::new(SIZE * usize::from(count))?,
            ring: Mapping::new(size_of::<BufRingEntry>() * usize::from(count))?,
            tail: Cell::new(0),
            holds: (0..count).map(|_| Cell::new(0)).collect(),
            held: Cell::new(0),
        };
        for number in 0..count {
            buffers.put(number);
        }
        Ok(buffers)
    }

    /// Writes `bytes`, at most [`SIZE`], to the start of a buffer, as the kernel does before the
    /// completion.
    pub fn write(&mut self, held: &Held, bytes: &[u8]) {
        let len = bytes.len().min(SIZE);
        // SAFETY: the buffer has `SIZE` bytes, and nothing refers to them while `self` is borrowed
        // mutably.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start(held.0).as_ptr(), len) };
    }

    /// The bytes in `range` of a buffer that no message has been gathered from yet, to write to;
    /// empty if the range leaves the buffer.
    pub fn bytes_mut<'a>(&'a mut self, held: &'a Held, range: Range<usize>) -> &'a mut [u8] {
        if range.start > range.end || range.end > SIZE {
            return &mut [];
        }
        // SAFETY: the range is in the buffer, which is held, so that the kernel does not write to
        // it, and nothing else refers to it while `self` is borrowed mutably.
        unsafe {
            let start = self.start(held.0).add(range.start);
            std::slice::from_raw_parts_mut(start.as_ptr(), range.len())
        }
    }

    /// All buffers.
    pub fn total(&self) -> u64 {
        self.holds.len() as u64
    }

    /// Buffers that are held.
    pub fn held(&self) -> u64 {
        self.held.get()
    }

    /// Buffers that are provided to the kernel.
    pub fn provided(&self) -> u64 {
        self.total() - self.held()
    }

    /// The first hold on a buffer that a completion brought; `None` if `number` is not that of a
    /// provided buffer, which the kernel never reports.
    #[inline]
    pub fn received(&self, number: u16) -> Option<Held> {
        let holds = self.holds.get(usize::from(number))?;
        if holds.get() != 0 {
            return None;
        }
        holds.set(1);
        self.held.set(self.held.get() + 1);
        Some(Held(number))
    }

    /// One more hold on the same buffer.
    #[inline]
    pub fn share(&self, held: &Held) -> Held {
        if let Some(holds) = self.holds.get(usize::from(held.0)) {
            holds.set(holds.get() + 1);
        }
        Held(held.0)
    }

    /// Ends a hold. With the last one the kernel gets the buffer back.
    #[inline]
    pub fn release(&self, held: Held) {
        let Some(holds) = self.holds.get(usize::from(held.0)) else {
            return;
        };
        holds.set(holds.get() - 1);
        if holds.get() == 0 {
            self.held.set(self.held.get() - 1);
            self.put(held.0);
        }
    }

    /// Whether both are holds on the same buffer.
    #[inline]
    pub fn same(one: &Held, other: &Held) -> bool {
        one.0 == other.0
    }

    /// Puts a buffer on the ring.
    #[inline]
    fn put(&self, number: u16) {
        let tail = self.tail.get();
        let at = usize::from(tail) & (self.holds.len() - 1);
        let entries = self.ring.start().cast::<BufRingEntry>();
        let address = self.start(number).as_ptr() as u64;
        // SAFETY: `at` is below the number of entries, and the kernel reads no entry beyond the
        // tail. The fields set leave out the last one of the first entry, which is where the tail
        // is.
        unsafe {
            let entry = &mut *entries.add(at).as_ptr();
            entry.set_addr(address);
            entry.set_len(SIZE as u32);
            entry.set_bid(number);
        }
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: the ring's own memory, which only this value writes. Release: the kernel sees the
        // entry before the tail.
        unsafe {
            let tail = BufRingEntry::tail(entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail.get(), Release);
        }
    }

    /// Whether `len` bytes at `address` are in one of the buffers.
    #[cfg(test)]
    pub fn has(&self, address: usize, len: usize) -> bool {
        let at = address.wrapping_sub(self.memory.start().addr().get());
        at / SIZE < self.holds.len() && at % SIZE + len <= SIZE
    }

    #[inline]
    fn start(&self, number: u16) -> NonNull<u8> {
        // SAFETY: every number is below the count of buffers, which `memory` has room for.
        unsafe { self.memory.start().add(usize::from(number) * SIZE) }
    }

    /// Keeps the memory for good, in case the kernel may still write to it.
    pub fn leak(&mut self) {
        self.memory.leak();
        self.ring.leak();
    }
}

impl Memory for Buffers {
    type Place = Held;
    const FRAME_AT: usize = FRAME_AT;

    fn beside(&self, held: &Held) -> Option<Tag> {
        receive::tag_beside(self.bytes(held, 0..FRAME_AT))
    }

    #[inline]
    fn bytes<'a>(&'a self, held: &'a Held, range: Range<usize>) -> &'a [u8] {
        if range.start > range.end || range.end > SIZE {
            return &[];
        }
        // SAFETY: the range is in the buffer, and while it is held neither the kernel nor other
        // code writes to it.
        unsafe {
            let start = self.start(held.0).add(range.start);
            std::slice::from_raw_parts(start.as_ptr(), range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_back_with_its_last_hold_and_not_before() {
        let buffers = Buffers::without_ring(4).unwrap();
        assert_eq!((buffers.provided(), buffers.held()), (4, 0));
        let first = buffers.received(2).unwrap();
        assert!(buffers.received(2).is_none(), "it is held");
        assert!(buffers.received(4).is_none(), "there is no such buffer");
        let second = buffers.share(&first);
        assert!(Buffers::same(&first, &second));
        buffers.release(first);
        assert_eq!((buffers.provided(), buffers.held()), (3, 1));
        buffers.release(second);
        assert_eq!((buffers.provided(), buffers.held()), (4, 0));
        assert_eq!(buffers.tail.get(), 5);
    }

    #[test]
    fn no_range_leaves_its_buffer() {
        let mut buffers = Buffers::without_ring(2).unwrap();
        let held = buffers.received(1).unwrap();
        assert_eq!(buffers.bytes(&held, 0..SIZE).len(), SIZE);
        assert_eq!(buffers.bytes(&held, 0..SIZE + 1), &[0; 0]);
        assert_eq!(buffers.bytes(&held, SIZE + 1..SIZE + 2), &[0; 0]);
        assert_eq!(buffers.bytes_mut(&held, 1..SIZE).len(), SIZE - 1);
        assert_eq!(buffers.bytes_mut(&held, 0..SIZE + 1), &[0; 0]);
    }
}
