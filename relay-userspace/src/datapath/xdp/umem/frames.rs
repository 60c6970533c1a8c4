//! The frames in the chunks of a UMEM: where they start and end, and how their bytes are read,
//! written and moved.
//!
//! A frame may start anywhere in its chunk: its payload stays where it was received, and its
//! headers are written in front of it.

use std::ops::Range;

use super::{Chunk, Chunks};
use crate::datapath::{batch::Memory, xdp::tx_rings::Descriptor};

/// Bytes in front of a received frame (`XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h).
const XDP_HEADROOM: usize = 256;

impl Chunks {
    /// The frame in `chunk`.
    #[inline]
    pub fn frame<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        // SAFETY: `chunk` is of this UMEM and in the worker's hands, so neither the kernel nor a
        // mutable borrow of it can write to its memory meanwhile.
        unsafe { self.memory.bytes(chunk.addr, chunk.len) }
    }

    /// The bytes that a descriptor of a TX ring names, as long as it has not been
    /// [completed](Self::completed). Empty where they are not in the UMEM.
    pub(in super::super) fn named_by(&self, desc: &Descriptor) -> &[u8] {
        let (addr, len) = (desc.addr as usize, desc.len as usize);
        if !self.memory.has(addr, len) {
            return &[];
        }
        // SAFETY: inside; what descriptors of TX rings name is not written to before their
        // completions, which take a mutable borrow of this value.
        unsafe { self.memory.bytes(addr, len) }
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
    pub fn frame_mut<'a>(&'a mut self, chunk: &'a mut Chunk) -> &'a mut [u8] {
        // SAFETY: `chunk` is of this UMEM and borrowed mutably while it is in the worker's hands.
        unsafe { self.memory.bytes_mut(chunk.addr, chunk.len) }
    }

    /// Puts `frame` into `chunk`, where the kernel would put a received one. Where the chunk is too
    /// short, nothing of it.
    pub fn put(&mut self, chunk: &mut Chunk, frame: &[u8]) {
        let start = (self.number(chunk.addr) as usize) << self.shift;
        chunk.addr = start + XDP_HEADROOM;
        let room = self.room_at(chunk.addr);
        let frame = Some(frame).filter(|frame| frame.len() <= room);
        let frame = frame.unwrap_or_default();
        chunk.len = frame.len();
        self.frame_mut(chunk).copy_from_slice(frame);
    }

    /// Makes the frame in `chunk` one of the payload that it has in `payload`, with room for
    /// `headers` bytes of headers right in front of it. Returns whether there is so much room: the
    /// kernel leaves 256 bytes in front of a received frame (`XDP_PACKET_HEADROOM`).
    #[inline]
    pub fn reframe(&mut self, chunk: &mut Chunk, payload: Range<usize>, headers: usize) -> bool {
        let place = self.placed(chunk, &payload, headers);
        if let Some(addr) = place {
            chunk.addr = addr;
            chunk.len = headers + payload.len();
        }
        place.is_some()
    }

    /// Copies the payload that the frame in `from` has in `payload` into the chunk `to`, to the
    /// same place, with room for headers as by [`Self::reframe`].
    #[inline]
    pub fn copy_payload(
        &mut self,
        from: &Chunk,
        payload: Range<usize>,
        to: &mut Chunk,
        headers: usize,
    ) -> bool {
        let Some(addr) = self.placed(from, &payload, headers) else {
            return false;
        };
        let in_chunk = addr & ((1 << self.shift) - 1);
        to.addr = ((self.number(to.addr) as usize) << self.shift) + in_chunk;
        to.len = headers + payload.len();
        let source = from.addr + payload.start;
        // SAFETY: both are in chunks of this UMEM that are in the worker's hands; two `Chunk`s
        // never name the same chunk.
        unsafe {
            self.memory.copy(source, to.addr + headers, payload.len());
        }
        true
    }

    /// The descriptor of the payload that the frame in `chunk` has in `payload`, as the last part
    /// of a frame; `None` if it is not in there.
    #[inline]
    pub(in super::super) fn payload_desc(
        &self,
        chunk: &Chunk,
        payload: Range<usize>,
    ) -> Option<Descriptor> {
        let is_there = payload.end <= chunk.len && payload.start < payload.end;
        is_there.then(|| Descriptor {
            addr: (chunk.addr + payload.start) as u64,
            len: payload.len() as u32,
            options: 0,
        })
    }

    /// Where a frame starts that has this payload of the frame in `chunk`, where it is, behind
    /// `headers` bytes; `None` if they are not in the chunk, or the payload is not in the frame.
    #[inline]
    fn placed(&self, chunk: &Chunk, payload: &Range<usize>, headers: usize) -> Option<usize> {
        let mask = (1 << self.shift) - 1;
        let at = chunk.addr + payload.start;
        let fits = payload.end <= chunk.len && (at & mask) >= headers;
        fits.then(|| at - headers)
    }

    /// Cuts the frame in `chunk` to `len` bytes, so that Ethernet padding does not leave.
    #[inline]
    pub fn truncate(&mut self, chunk: &mut Chunk, len: usize) {
        chunk.len = chunk.len.min(len);
    }

    /// How many bytes of its chunk follow an address.
    #[inline]
    pub(super) fn room_at(&self, addr: usize) -> usize {
        let size = 1 << self.shift;
        size - (addr & (size - 1))
    }
}

impl Memory for Chunks {
    type Place = Chunk;

    #[inline]
    fn bytes<'a>(&'a self, chunk: &'a Chunk, range: Range<usize>) -> &'a [u8] {
        self.frame(chunk).get(range).unwrap_or(&[])
    }
}
