//! The only access to the memory of a UMEM.
//!
//! xsk-rs maps and registers it, and lends frames that start where its own descriptors say. The
//! relay's frames start anywhere, so it goes by addresses, as the rings do: bytes from the start of
//! the UMEM. Nothing outside of it can be reached, whatever the address.

use std::ptr::NonNull;

use xsk_rs::{Umem, umem::frame::FrameDesc};

/// The memory of one UMEM.
#[derive(Debug)]
pub(super) struct UmemMemory {
    start: NonNull<u8>,
    len: u64,
    /// Keeps it mapped.
    umem: Umem,
}

// SAFETY: the memory belongs to the UMEM and to no thread; who owns this value says what is read and
// written.
unsafe impl Send for UmemMemory {}

impl UmemMemory {
    /// The memory of `umem`, whose chunks of `size` bytes are `descs`, in order.
    pub(super) fn new(umem: Umem, descs: &[FrameDesc], size: u32) -> Self {
        let first = descs.first().map(|first| {
            // SAFETY: the descriptor is of this UMEM, its headroom is empty, and nothing is read.
            unsafe { umem.headroom(first) }.contents().as_ptr()
        });
        // xsk-rs made the memory by `mmap`, and gives its address by slices alone: so what may be
        // reached by it is told here, not by them.
        let start = first.map_or(0, |first| first.expose_provenance());
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(start));
        Self {
            len: start.map_or(0, |_| descs.len() as u64 * u64::from(size)),
            start: start.unwrap_or(NonNull::dangling()),
            umem,
        }
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// The place of `len` bytes; of no bytes if any of them is outside.
    #[inline]
    fn place(&self, addr: u64, len: u64) -> (NonNull<u8>, usize) {
        if addr > self.len || len > self.len - addr {
            return (self.start, 0);
        }
        // SAFETY: inside the mapping, or right behind it.
        (unsafe { self.start.add(addr as usize) }, len as usize)
    }

    /// Bytes, or none if any of them is outside.
    ///
    /// # Safety
    ///
    /// Nobody may write to them while they are borrowed.
    #[inline]
    pub(super) unsafe fn bytes(&self, addr: u64, len: u32) -> &[u8] {
        let (place, len) = self.place(addr, len.into());
        // SAFETY: mapped as long as `self`, and not written to, as the caller promised.
        unsafe { std::slice::from_raw_parts(place.as_ptr(), len) }
    }

    /// Bytes to write to, or none if any of them is outside.
    ///
    /// # Safety
    ///
    /// Nobody else may read or write them while they are borrowed.
    #[inline]
    pub(super) unsafe fn bytes_mut(&mut self, addr: u64, len: u32) -> &mut [u8] {
        let (place, len) = self.place(addr, len.into());
        // SAFETY: mapped as long as `self`, and nobody else's, as the caller promised.
        unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), len) }
    }

    /// Copies `len` bytes; none if any of them is outside, at either end.
    ///
    /// # Safety
    ///
    /// Nobody else may write to either place, or read the second one, and they must not overlap.
    #[inline]
    pub(super) unsafe fn copy(&mut self, from: u64, to: u64, len: usize) {
        let (from, there) = self.place(from, len as u64);
        let (to, room) = self.place(to, len as u64);
        // SAFETY: both are inside the mapping, and apart, as the caller promised.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), there.min(room)) };
    }
}
