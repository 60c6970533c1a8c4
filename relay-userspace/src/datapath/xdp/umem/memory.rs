//! The only access to the memory of a UMEM.
//!
//! xsk-rs maps and registers it, and lends frames that start where its own descriptors say. The
//! relay's frames start anywhere, so it goes by addresses, as the rings do: bytes from the start of
//! the UMEM.

use std::ptr::NonNull;

use xsk_rs::{Umem, umem::frame::FrameDesc};

/// The memory of one UMEM.
#[derive(Debug)]
pub(super) struct UmemMemory {
    start: NonNull<u8>,
    len: usize,
    /// Keeps it mapped.
    umem: Umem,
}

// SAFETY: the memory belongs to the UMEM and to no thread; who owns this value says what is read
// and written.
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
        let start = first.map_or(0, <*const u8>::expose_provenance);
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(start));
        Self {
            len: start.map_or(0, |_| descs.len() * size as usize),
            start: start.unwrap_or(NonNull::dangling()),
            umem,
        }
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// A place in the memory.
    ///
    /// # Safety
    ///
    /// `len` bytes from `addr` on must be inside.
    #[inline]
    unsafe fn place(&self, addr: usize, len: usize) -> *mut u8 {
        debug_assert!(addr <= self.len && len <= self.len - addr);
        // SAFETY: inside the mapping, as the caller promised.
        unsafe { self.start.as_ptr().add(addr) }
    }

    /// Bytes.
    ///
    /// # Safety
    ///
    /// They must be inside, and nobody may write to them while they are borrowed.
    #[inline]
    pub(super) unsafe fn bytes(&self, addr: usize, len: usize) -> &[u8] {
        // SAFETY: mapped as long as `self`, inside, and not written to, as the caller promised.
        unsafe { std::slice::from_raw_parts(self.place(addr, len), len) }
    }

    /// Bytes to write to.
    ///
    /// # Safety
    ///
    /// They must be inside, and nobody else may read or write them while they are borrowed.
    #[inline]
    pub(super) unsafe fn bytes_mut(&mut self, addr: usize, len: usize) -> &mut [u8] {
        // SAFETY: mapped as long as `self`, inside, and nobody else's, as the caller promised.
        unsafe { std::slice::from_raw_parts_mut(self.place(addr, len), len) }
    }

    /// Bytes to write to, of which several may be borrowed at the same time.
    ///
    /// # Safety
    ///
    /// They must be inside, and nobody else may read or write them while they are borrowed.
    #[inline]
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller promises that no two of them overlap"
    )]
    pub(super) unsafe fn array_mut<const LEN: usize>(&self, addr: usize) -> &mut [u8; LEN] {
        // SAFETY: mapped as long as `self`, inside, and nobody else's, as the caller promised.
        unsafe { &mut *self.place(addr, LEN).cast() }
    }

    /// Copies `len` bytes.
    ///
    /// # Safety
    ///
    /// Both places must be inside and apart. Nobody else may write to either, or read the second
    /// one.
    #[inline]
    pub(super) unsafe fn copy(&mut self, from: usize, to: usize, len: usize) {
        // SAFETY: inside, as the caller promised.
        let (from, to) = unsafe { (self.place(from, len), self.place(to, len)) };
        // SAFETY: inside the mapping and apart, as the caller promised.
        unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    }
}
