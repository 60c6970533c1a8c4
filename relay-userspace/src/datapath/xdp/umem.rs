//! One worker's UMEM: where each chunk is, the free list and the reference counts.
//!
//! A chunk is in exactly one of four places: the free list, a FILL ring (or an RX ring, not read
//! yet), the worker's hands as a [`Chunk`], or in flight with one reference per descriptor that
//! names it, which ends with its completion, or when its device is gone. [`Chunk`] is neither
//! `Clone` nor `Copy`, so safe code can give a chunk to one place only.
//!
//! A frame is in one chunk, where `frames` says. Or its headers are in a [`HeaderSlot`] and its
//! payload is the one of a chunk that other frames share, which has a reference of each, and one of
//! the worker as long as it is in its hands.
//!
//! A build with the feature `poison-chunks` overwrites every chunk that becomes free, so that tests
//! see at the receivers whether a chunk was freed before the last device had read it.

mod frames;
mod header_slots;
mod memory;

use std::num::NonZeroU32;

use xsk_rs::{
    Umem,
    config::{FrameSize, QueueSize, UmemConfig},
    umem::frame::FrameDesc,
};

pub use self::header_slots::HeaderSlot;
use self::{
    header_slots::{HeaderSlots, SLOT_SIZE},
    memory::UmemMemory,
};
use super::{
    ring_sizes::{COMPLETION_SIZE, FILL_SIZE},
    sharing,
    tx_rings::Descriptor,
};
use crate::{datapath::error::SetupError, packet::PATCH_ROOM};

/// The option of a received descriptor that is one of several parts of a frame.
pub(super) const PART: u32 = libc::XDP_PKT_CONTD;

/// A chunk in the worker's hands, with the frame in it.
#[derive(Debug)]
pub struct Chunk {
    /// Where the frame starts, from the start of the UMEM.
    addr: usize,
    /// The frame's length. It starts and ends inside the chunk.
    len: usize,
}

impl Chunk {
    /// The descriptor of the frame, to put on a TX ring.
    #[inline]
    pub(super) fn desc(&self) -> Descriptor {
        Descriptor {
            addr: self.addr as u64,
            len: self.len as u32,
            options: 0,
        }
    }
}

/// What a port had when its socket was closed, so that its chunks become free.
#[derive(Debug)]
pub struct Closed {
    /// The port's tag.
    tag: u16,
    /// Its descriptors that will not come back.
    in_flight: Box<[Descriptor]>,
    /// Room for a mark per chunk.
    is_free: Box<[bool]>,
}

impl Closed {
    /// A port of a UMEM with `chunks` chunks.
    pub(super) fn new(tag: u16, in_flight: Box<[Descriptor]>, chunks: u32) -> Self {
        Self {
            tag,
            in_flight,
            is_free: vec![false; chunks as usize].into(),
        }
    }

    /// The port's tag.
    pub(super) fn tag(&self) -> u16 {
        self.tag
    }
}

/// The chunks of one UMEM and where each of them is.
#[derive(Debug)]
pub struct Chunks {
    memory: UmemMemory,
    /// What xsk-rs knows each chunk by, to put it on a FILL ring; by its number.
    descs: Box<[FrameDesc]>,
    /// log2 of a chunk's size: an address shifted right by it is the chunk's number.
    shift: u32,
    /// Numbers of the free chunks. Its capacity is the number of all chunks, so it never grows.
    free: Vec<u32>,
    /// Descriptors in flight, by the chunk's number; and of a chunk in the worker's hands that
    /// descriptors name already, one more.
    references: Box<[u16]>,
    headers: HeaderSlots,
    /// The shortest payload that frames share.
    shared_from: u32,
    /// The tag of the port that each chunk was last lent to, by the chunk's number.
    lent_to: Box<[u16]>,
    fill: u64,
    in_flight: u64,
    /// Deliberately wrong: a chunk is free again with its first completed descriptor.
    #[cfg(feature = "poison-chunks")]
    early: bool,
}

impl Chunks {
    /// Maps and registers `count` chunks of `size` bytes, 2048 or 4096, and so many header slots.
    ///
    /// # Errors
    ///
    /// When the kernel does not give the memory.
    pub fn new(size: u32, count: u32, header_slots: u32) -> Result<Self, SetupError> {
        let failed = |reason: String| SetupError::Umem {
            size,
            count,
            reason,
        };
        let ring = |size: u32| QueueSize::new(size).map_err(|error| failed(error.to_string()));
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(size).map_err(|error| failed(error.to_string()))?)
            .fill_queue_size(ring(FILL_SIZE)?)
            .comp_queue_size(ring(COMPLETION_SIZE)?)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let for_headers = header_slots.div_ceil((size / SLOT_SIZE).max(1));
        let all = Some(count).filter(|&count| count > 0);
        let all = all.and_then(|count| NonZeroU32::new(count + for_headers));
        let all = all.ok_or_else(|| failed("no chunks asked for".into()))?;
        let (memory, mut descs) = UmemMemory::map(config, all, size).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            failed(cause.unwrap_or_else(|| error.to_string()))
        })?;
        descs.truncate(count as usize);
        Ok(Self {
            memory,
            descs: descs.into(),
            shift: size.trailing_zeros(),
            free: (0..count).rev().collect(),
            references: vec![0; count as usize].into(),
            shared_from: match header_slots {
                0 => u32::MAX,
                _ => sharing::shared_from().into(),
            },
            headers: HeaderSlots::new(u64::from(count) * u64::from(size), header_slots),
            lent_to: vec![0; count as usize].into(),
            fill: 0,
            in_flight: 0,
            #[cfg(feature = "poison-chunks")]
            early: std::env::var_os("RELAY_FREE_EARLY").is_some(),
        })
    }

    /// The UMEM, to bind sockets to.
    pub(super) fn umem(&self) -> &Umem {
        self.memory.umem()
    }

    /// All chunks.
    pub fn total(&self) -> u64 {
        self.descs.len() as u64
    }

    /// Chunks in the free list.
    pub fn free(&self) -> u64 {
        self.free.len() as u64
    }

    /// Chunks that FILL and RX rings hold.
    pub fn fill(&self) -> u64 {
        self.fill
    }

    /// Chunks with at least one descriptor in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Moves a chunk from the free list into the worker's hands, with an empty frame at its start.
    #[inline]
    pub fn take(&mut self) -> Option<Chunk> {
        let number = self.free.pop()?;
        let addr = (number as usize) << self.shift;
        Some(Chunk { addr, len: 0 })
    }

    /// Moves a chunk from the worker's hands into the free list.
    #[inline]
    pub fn give_back(&mut self, chunk: Chunk) {
        self.release(self.number(chunk.addr));
    }

    /// Moves a chunk from the free list into the FILL ring of the port with this tag. Returns what
    /// that ring must take now.
    #[inline]
    pub(super) fn fill_one(&mut self, to: u16) -> Option<FrameDesc> {
        let number = self.free.pop()?;
        if let Some(lent_to) = self.lent_to.get_mut(number as usize) {
            *lent_to = to;
        }
        self.fill += 1;
        self.descs.get(number as usize).copied()
    }

    /// Moves a chunk that a FILL ring did not take after all back into the free list.
    #[inline]
    pub(super) fn unfilled(&mut self, desc: &FrameDesc) {
        self.fill -= 1;
        self.free.push(self.number(desc.addr()));
    }

    /// Moves a chunk from an RX ring into the worker's hands. Of a [`PART`] of a frame nothing is
    /// left.
    ///
    /// # Safety
    ///
    /// `desc` must have come out of an RX ring of this UMEM just now, once.
    #[inline]
    pub(super) unsafe fn received(&mut self, desc: &FrameDesc) -> Chunk {
        self.fill -= 1;
        let addr = desc.addr();
        let len = match desc.options() {
            0 => desc.lengths().data(),
            _ => 0,
        };
        Chunk {
            addr,
            len: len.min(self.room_at(addr)),
        }
    }

    /// Whether frames may be made of a header slot and a payload that others share.
    pub fn has_header_slots(&self) -> bool {
        self.headers.exist()
    }

    /// Whether frames share a payload of this length.
    #[inline]
    pub(super) fn shares(&self, payload: u16) -> bool {
        u32::from(payload) >= self.shared_from
    }

    /// Header slots that are not free.
    pub fn header_slots_in_use(&self) -> u64 {
        self.headers.in_use()
    }

    /// Moves a header slot from the free list into the worker's hands.
    #[inline]
    pub fn take_header(&mut self) -> Option<HeaderSlot> {
        self.headers.take()
    }

    /// A header slot, to write to.
    #[inline]
    pub fn header_mut<'a>(&'a mut self, slot: &'a mut HeaderSlot) -> &'a mut [u8] {
        let addr = self.headers.addr(slot);
        // SAFETY: the slots are in this UMEM behind all chunks; this one is in the worker's hands
        // and borrowed mutably.
        unsafe { self.memory.bytes_mut(addr as usize, SLOT_SIZE as usize) }
    }

    /// Moves so many header slots from the free list into a TX ring each, and gives the first bytes
    /// of each to write to, and where it starts. `None` if there are not so many.
    #[inline(always)]
    pub(super) fn header_run(
        &mut self,
        count: usize,
    ) -> Option<impl Iterator<Item = (&mut [u8; PATCH_ROOM], u64)>> {
        let memory = &self.memory;
        let addrs = self.headers.take_all(count)?;
        Some(addrs.map(move |addr| {
            // SAFETY: the slots are in this UMEM behind all chunks, and longer than this; each of
            // these was free, so nobody else has it, and none of them is there twice.
            (unsafe { memory.array_mut(addr as usize) }, addr)
        }))
    }

    /// The descriptor of the first bytes of a header slot, as the first part of a frame.
    #[inline]
    pub(super) fn header_desc(&self, slot: &HeaderSlot, len: usize) -> Descriptor {
        Descriptor {
            addr: self.headers.addr(slot),
            len: len as u32,
            options: libc::XDP_PKT_CONTD,
        }
    }

    /// Moves a header slot from the worker's hands into so many entries of TX rings, or with none
    /// into the free list.
    #[inline]
    pub(super) fn finish_header(&mut self, slot: HeaderSlot, descriptors: u16) {
        self.headers.finish(slot, descriptors);
    }

    /// Notes that so many more descriptors name bytes of `chunk`, which stays in the worker's
    /// hands: only what they name must not be written to any more.
    #[inline]
    pub(super) fn share(&mut self, chunk: &Chunk, descriptors: u16) {
        let number = self.number(chunk.addr);
        if let Some(references) = self.references.get_mut(number as usize) {
            if *references == 0 {
                *references = 1;
                self.in_flight += 1;
            }
            *references += descriptors;
        }
    }

    /// Moves a chunk from the worker's hands into so many entries of TX rings. If no descriptor
    /// names it, these or [shared](Self::share) ones, it is free.
    #[inline]
    pub(super) fn finish(&mut self, chunk: Chunk, descriptors: u16) {
        let number = self.number(chunk.addr);
        let Some(references) = self.references.get_mut(number as usize) else {
            return;
        };
        match (*references, descriptors) {
            (0, 0) => self.release(number),
            (0, _) => {
                *references = descriptors;
                self.in_flight += 1;
            }
            (shared, _) => {
                *references = shared - 1 + descriptors;
                if *references == 0 {
                    self.in_flight -= 1;
                    self.release(number);
                }
            }
        }
    }

    /// Takes back one completed descriptor: the chunk or header slot is free again with its last
    /// one.
    #[inline]
    pub(super) fn completed(&mut self, desc: &Descriptor) {
        let number = self.number(desc.addr as usize);
        let Some(references) = self.references.get_mut(number as usize) else {
            self.header_completed(desc);
            return;
        };
        if *references > 0 {
            *references -= 1;
            #[cfg(feature = "poison-chunks")]
            if self.early {
                *references = 0;
            }
            if *references == 0 {
                self.in_flight -= 1;
                self.release(number);
            }
        }
    }

    /// [`Self::completed`] of the descriptor of a header slot.
    #[inline]
    fn header_completed(&mut self, desc: &Descriptor) {
        let freed = self.headers.completed(desc);
        #[cfg(feature = "poison-chunks")]
        if let Some(mut slot) = freed {
            self.header_mut(&mut slot).fill(0xDB);
        }
        #[cfg(not(feature = "poison-chunks"))]
        let _ = freed;
    }

    /// Frees all chunks that a port had whose socket is closed: neither the kernel nor the device
    /// reads or writes them any more. The worker must have no chunk in its hands.
    ///
    /// A chunk that is not free and not in flight is lent, to the port that it was last lent to.
    pub(super) fn reclaim(&mut self, closed: &mut Closed) {
        for desc in &closed.in_flight {
            self.completed(desc);
        }
        closed.is_free.fill(false);
        for &number in &self.free {
            if let Some(is_free) = closed.is_free.get_mut(number as usize) {
                *is_free = true;
            }
        }
        let chunks = self.lent_to.iter().zip(&self.references);
        let lent = chunks.zip(&mut closed.is_free).zip(0_u32..);
        for (((&lent_to, &references), is_free), number) in lent {
            if lent_to == closed.tag && references == 0 && !*is_free {
                self.fill = self.fill.saturating_sub(1);
                self.free.push(number);
            }
        }
    }

    /// Frees a chunk, by its number, that nothing reads or writes any more.
    #[inline]
    fn release(&mut self, number: u32) {
        #[cfg(feature = "poison-chunks")]
        self.poison(number);
        self.free.push(number);
    }

    /// Overwrites a chunk.
    #[cfg(feature = "poison-chunks")]
    fn poison(&mut self, number: u32) {
        let start = (number as usize) << self.shift;
        // SAFETY: the chunk is of this UMEM, and free: nobody else reads or writes it.
        unsafe { self.memory.bytes_mut(start, 1 << self.shift) }.fill(0xDB);
    }

    #[inline]
    fn number(&self, addr: usize) -> u32 {
        (addr >> self.shift) as u32
    }
}

#[cfg(test)]
mod tests;
