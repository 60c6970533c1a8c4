//! Room for the headers of frames whose payload is in a chunk that several frames share.
//!
//! The slots lie behind the chunks, in memory of the same UMEM. A slot is in exactly one of three
//! places: the free list, the worker's hands as a [`HeaderSlot`], or in flight with one reference
//! per descriptor that names it.

use crate::{datapath::xdp::tx_rings::Descriptor, packet::HEADERS_ROOM};

/// Bytes of a slot: headers in whole cache lines of their own.
pub const SLOT_SIZE: u32 = 128;
const _: () = assert!(HEADERS_ROOM <= SLOT_SIZE as usize);

/// A slot in the worker's hands.
#[derive(Debug)]
pub struct HeaderSlot(u32);

/// All slots of a UMEM.
#[derive(Debug)]
pub(super) struct HeaderSlots {
    /// Where the first one starts, from the start of the UMEM.
    start: u64,
    /// Numbers of the free ones, so many from the start on.
    free: Box<[u32]>,
    free_count: usize,
    /// Descriptors in flight, by the slot's number; of one that is not in flight, 1, which most
    /// will have.
    references: Box<[u16]>,
}

impl HeaderSlots {
    /// So many slots from `start` on.
    pub(super) fn new(start: u64, count: u32) -> Self {
        Self {
            start,
            free: (0..count).rev().collect(),
            free_count: count as usize,
            references: vec![1; count as usize].into(),
        }
    }

    /// Whether there are any.
    pub(super) fn exist(&self) -> bool {
        !self.references.is_empty()
    }

    /// Slots that are not free.
    pub(super) fn in_use(&self) -> u64 {
        (self.references.len() - self.free_count) as u64
    }

    /// Moves a slot from the free list into the worker's hands.
    #[inline]
    pub(super) fn take(&mut self) -> Option<HeaderSlot> {
        let last = self.free_count.checked_sub(1)?;
        let number = *self.free.get(last)?;
        self.free_count = last;
        Some(HeaderSlot(number))
    }

    /// Moves so many slots from the free list into one descriptor each. Returns where they start;
    /// `None` if there are not so many.
    #[inline(always)]
    pub(super) fn take_all(&mut self, count: usize) -> Option<impl Iterator<Item = u64>> {
        let first = self.free_count.checked_sub(count)?;
        let taken = self.free.get(first..self.free_count)?;
        self.free_count = first;
        let start = self.start;
        Some(
            taken
                .iter()
                .map(move |number| start + u64::from(number * SLOT_SIZE)),
        )
    }

    #[inline]
    fn free(&mut self, number: u32) {
        if let Some(place) = self.free.get_mut(self.free_count) {
            *place = number;
            self.free_count += 1;
        }
    }

    /// Where a slot starts, from the start of the UMEM.
    #[inline]
    pub(super) fn addr(&self, slot: &HeaderSlot) -> u64 {
        self.start + u64::from(slot.0 * SLOT_SIZE)
    }

    /// Moves a slot from the worker's hands into so many descriptors, or with none into the free
    /// list.
    #[inline]
    pub(super) fn finish(&mut self, slot: HeaderSlot, descriptors: u16) {
        match self.references.get_mut(slot.0 as usize) {
            Some(references) if descriptors > 0 => *references = descriptors,
            _ => self.free(slot.0),
        }
    }

    /// Takes back one completed descriptor. Returns the slot if it is free now.
    #[inline]
    pub(super) fn completed(&mut self, desc: &Descriptor) -> Option<HeaderSlot> {
        let number = (desc.addr.checked_sub(self.start)? / u64::from(SLOT_SIZE)) as u32;
        let references = self.references.get_mut(number as usize)?;
        if *references > 1 {
            *references -= 1;
            return None;
        }
        self.free(number);
        Some(HeaderSlot(number))
    }
}
