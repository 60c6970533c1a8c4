//! One worker's UMEM: the only unsafe access to its memory, the free list and the reference counts.
//!
//! A chunk is in exactly one of four places: the free list, a FILL ring (or an RX ring, not read
//! yet), the worker's hands as a [`Chunk`], or in flight with one reference per descriptor that
//! names it, which ends with its completion, or when its device is gone. [`Chunk`] is neither
//! `Clone` nor `Copy`, so safe code can give a chunk to one place only.
//!
//! A build with the feature `poison-chunks` overwrites every chunk that becomes free, so that tests
//! see at the receivers whether a chunk was freed before the last device had read it.

use std::{num::NonZeroU32, ops::Range};

use xsk_rs::{
    Umem,
    config::{FrameSize, QueueSize, UmemConfig},
    umem::frame::{DataMut, FrameDesc},
};

use super::ring_sizes::{COMPLETION_SIZE, FILL_SIZE};
use crate::datapath::{batch::Memory, error::SetupError};

/// A chunk in the worker's hands, with the frame in it.
#[derive(Debug)]
pub struct Chunk(FrameDesc);

impl Chunk {
    /// The descriptor to put on a ring.
    pub(super) fn desc(&self) -> FrameDesc {
        self.0
    }
}

/// What a port had when its socket was closed, so that its chunks become free.
#[derive(Debug)]
pub struct Closed {
    /// The port's tag.
    tag: u16,
    /// Its descriptors that will not come back.
    in_flight: Box<[FrameDesc]>,
    /// Room for a mark per chunk.
    is_free: Box<[bool]>,
}

impl Closed {
    /// A port of a UMEM with `chunks` chunks.
    pub(super) fn new(tag: u16, in_flight: Box<[FrameDesc]>, chunks: u32) -> Self {
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
    umem: Umem,
    /// Each chunk's own descriptor, by its number.
    descs: Box<[FrameDesc]>,
    /// log2 of a chunk's size: an address shifted right by it is the chunk's number.
    shift: u32,
    /// Numbers of the free chunks. Its capacity is the number of all chunks, so it never grows.
    free: Vec<u32>,
    /// Descriptors in flight, by the chunk's number.
    references: Box<[u16]>,
    /// The tag of the port that each chunk was last lent to, by the chunk's number.
    lent_to: Box<[u16]>,
    fill: u64,
    in_flight: u64,
    /// Deliberately wrong: a chunk is free again with its first completed descriptor.
    #[cfg(feature = "poison-chunks")]
    early: bool,
}

impl Chunks {
    /// Maps and registers `count` chunks of `size` bytes, 2048 or 4096.
    ///
    /// # Errors
    ///
    /// When the kernel does not give the memory.
    pub fn new(size: u32, count: u32) -> Result<Self, SetupError> {
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
        let chunks = NonZeroU32::new(count).ok_or_else(|| failed("no chunks asked for".into()))?;
        let (umem, descs) = Umem::new(config, chunks, false).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            failed(cause.unwrap_or_else(|| error.to_string()))
        })?;
        Ok(Self {
            umem,
            descs: descs.into(),
            shift: size.trailing_zeros(),
            free: (0..count).rev().collect(),
            references: vec![0; count as usize].into(),
            lent_to: vec![0; count as usize].into(),
            fill: 0,
            in_flight: 0,
            #[cfg(feature = "poison-chunks")]
            early: std::env::var_os("RELAY_FREE_EARLY").is_some(),
        })
    }

    /// The UMEM, to bind sockets to.
    pub(super) fn umem(&self) -> &Umem {
        &self.umem
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

    /// Moves a chunk from the free list into the worker's hands.
    #[inline]
    pub fn take(&mut self) -> Option<Chunk> {
        let number = self.free.pop()?;
        self.descs.get(number as usize).map(|&desc| Chunk(desc))
    }

    /// Moves a chunk from the worker's hands into the free list.
    #[inline]
    pub fn give_back(&mut self, chunk: Chunk) {
        self.release(self.number(&chunk.0));
    }

    /// Moves a chunk from the worker's hands into the FILL ring of the port with this tag. The ring
    /// must take the descriptor now.
    #[inline]
    pub(super) fn filled(&mut self, chunk: Chunk, to: u16) {
        let number = self.number(&chunk.0);
        if let Some(lent_to) = self.lent_to.get_mut(number as usize) {
            *lent_to = to;
        }
        self.fill += 1;
    }

    /// Moves a chunk that a FILL ring did not take after all back into the free list.
    #[inline]
    pub(super) fn unfilled(&mut self, desc: &FrameDesc) {
        self.fill -= 1;
        self.free.push(self.number(desc));
    }

    /// Moves a chunk from an RX ring into the worker's hands.
    ///
    /// # Safety
    ///
    /// `desc` must have come out of an RX ring of this UMEM just now, once.
    #[inline]
    pub(super) unsafe fn received(&mut self, desc: FrameDesc) -> Chunk {
        self.fill -= 1;
        Chunk(desc)
    }

    /// Moves a chunk from the worker's hands into `descriptors` entries of TX rings, at least one.
    #[inline]
    pub(super) fn transmitted(&mut self, chunk: Chunk, descriptors: u16) {
        let number = self.number(&chunk.0);
        if let Some(references) = self.references.get_mut(number as usize) {
            *references += descriptors;
            self.in_flight += 1;
        }
    }

    /// Takes back one completed descriptor: the chunk is free again with its last one.
    #[inline]
    pub(super) fn completed(&mut self, desc: &FrameDesc) {
        let number = self.number(desc);
        if let Some(references) = self.references.get_mut(number as usize)
            && *references > 0
        {
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
        let Some(&desc) = self.descs.get(number as usize) else {
            return;
        };
        let mut chunk = Chunk(desc);
        let mut data = self.frame_mut(&mut chunk);
        data.cursor().set_pos(usize::MAX);
        data.contents_mut().fill(0xDB);
    }

    /// The frame in `chunk`.
    #[inline]
    pub fn frame<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        // SAFETY: `chunk` is of this UMEM and in the worker's hands, so neither the kernel nor a
        // mutable borrow of it can write to its memory meanwhile.
        unsafe { self.umem.data(&chunk.0) }.contents()
    }

    /// Makes the CPU fetch the headers of the frame in `chunk`, which another CPU wrote. Only saves
    /// time, and does nothing where Rust has no such instruction yet.
    #[inline]
    pub fn prefetch(&self, chunk: &Chunk) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let frame = self.frame(chunk).as_ptr();
            // SAFETY: a prefetch reads nothing, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(frame.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = chunk;
    }

    /// The frame in `chunk`, to write to.
    #[inline]
    pub fn frame_mut<'a>(&'a mut self, chunk: &'a mut Chunk) -> DataMut<'a> {
        // SAFETY: `chunk` is of this UMEM and borrowed mutably while it is in the worker's hands.
        unsafe { self.umem.data_mut(&mut chunk.0) }
    }

    /// Copies the first `len` bytes of the frame in `from` into the chunk `to`.
    #[inline]
    pub fn copy(&mut self, from: &Chunk, to: &mut Chunk, len: usize) {
        // SAFETY: both are of this UMEM and in the worker's hands; two `Chunk`s never name the same
        // memory.
        let (source, mut target) =
            unsafe { (self.umem.data(&from.0), self.umem.data_mut(&mut to.0)) };
        target.cursor().set_pos(len);
        let target = target.contents_mut();
        let len = len.min(source.contents().len()).min(target.len());
        target[..len].copy_from_slice(&source.contents()[..len]);
    }

    /// Copies the bytes in `range` of the frame in `from` to position `at` of the frame in `to`,
    /// which ends behind them. Where a chunk is too short for that, nothing is copied.
    #[inline(never)]
    pub fn copy_range(&mut self, from: &Chunk, range: Range<usize>, to: &mut Chunk, at: usize) {
        // SAFETY: both are of this UMEM and in the worker's hands; two `Chunk`s never name the same
        // memory.
        let (source, mut target) =
            unsafe { (self.umem.data(&from.0), self.umem.data_mut(&mut to.0)) };
        target.cursor().set_pos(at + range.len());
        if let (Some(source), Some(target)) = (
            source.contents().get(range),
            target.contents_mut().get_mut(at..),
        ) && source.len() == target.len()
        {
            target.copy_from_slice(source);
        }
    }

    /// Moves the bytes in `range` of the frame in `chunk` to position `at`, and ends the frame
    /// behind them. Where the chunk is too short for that, nothing is moved.
    #[inline(never)]
    pub fn move_within(&mut self, chunk: &mut Chunk, range: Range<usize>, at: usize) {
        let end = at + range.len();
        if range.start == at {
            return;
        }
        let mut frame = self.frame_mut(chunk);
        frame.cursor().set_pos(end.max(range.end));
        let bytes = frame.contents_mut();
        if range.end <= bytes.len() && end <= bytes.len() {
            bytes.copy_within(range, at);
        }
        frame.cursor().set_pos(end);
    }

    /// Cuts the frame in `chunk` to `len` bytes, so that Ethernet padding does not leave.
    #[inline]
    pub fn truncate(&mut self, chunk: &mut Chunk, len: usize) {
        if len < chunk.0.lengths().data() {
            // SAFETY: as in `frame_mut`.
            unsafe { self.umem.data_mut(&mut chunk.0) }
                .cursor()
                .set_pos(len);
        }
    }

    #[inline]
    fn number(&self, desc: &FrameDesc) -> u32 {
        (desc.addr() >> self.shift) as u32
    }
}

impl Memory for Chunks {
    type Place = Chunk;

    #[inline]
    fn bytes<'a>(&'a self, chunk: &'a Chunk, range: Range<usize>) -> &'a [u8] {
        self.frame(chunk).get(range).unwrap_or(&[])
    }
}
