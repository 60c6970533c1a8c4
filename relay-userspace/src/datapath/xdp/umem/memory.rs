//! The only access to the memory of a UMEM.
//!
//! xsk-rs maps and registers it, and lends frames that start where its own descriptors say. The
//! relay's frames start anywhere, so it goes by addresses, as the rings do: bytes from the start of
//! the UMEM.

use std::{num::NonZeroU32, ptr::NonNull};

use xsk_rs::{
    Umem,
    config::UmemConfig,
    umem::{UmemCreateError, frame::FrameDesc},
};

/// The memory of one UMEM.
#[derive(Debug)]
pub(super) struct UmemMemory {
    start: NonNull<u8>,
    len: usize,
    /// Keeps it mapped.
    #[cfg(not(miri))]
    umem: Umem,
}

// SAFETY: the memory belongs to the UMEM and to no thread; who owns this value says what is read
// and written.
unsafe impl Send for UmemMemory {}

impl UmemMemory {
    /// Maps and registers `count` chunks of `size` bytes, and gives what xsk-rs knows each by.
    #[cfg(not(miri))]
    pub(super) fn map(
        config: UmemConfig,
        count: NonZeroU32,
        size: u32,
    ) -> Result<(Self, Vec<FrameDesc>), UmemCreateError> {
        let (umem, descs) = Umem::new(config, count, false)?;
        let first = descs.first().map(|first| {
            // SAFETY: the descriptor is of this UMEM, its headroom is empty, and nothing is read.
            unsafe { umem.headroom(first) }.contents().as_ptr()
        });
        // xsk-rs made the memory by `mmap`, and gives its address by slices alone: so what may be
        // reached by it is told here, not by them.
        let start = first.map_or(0, <*const u8>::expose_provenance);
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(start));
        let memory = Self {
            len: start.map_or(0, |_| descs.len() * size as usize),
            start: start.unwrap_or(NonNull::dangling()),
            umem,
        };
        Ok((memory, descs))
    }

    #[cfg(not(miri))]
    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Miri has no AF_XDP: memory of the allocator, and descriptors that name nothing.
    #[cfg(miri)]
    pub(super) fn map(
        _config: UmemConfig,
        count: NonZeroU32,
        size: u32,
    ) -> Result<(Self, Vec<FrameDesc>), UmemCreateError> {
        let len = count.get() as usize * size as usize;
        let bytes: &mut [u8] = Box::leak(vec![0; len].into());
        let start = NonNull::from(bytes).cast();
        // SAFETY: zeros are a descriptor: it is made of numbers.
        let descs = (0..count.get()).map(|_| unsafe { std::mem::zeroed() });
        Ok((Self { start, len }, descs.collect()))
    }

    #[cfg(miri)]
    pub(super) fn umem(&self) -> &Umem {
        unreachable!("no socket can be bound")
    }

    /// Whether so many bytes from `addr` on are inside.
    pub(super) fn has(&self, addr: usize, len: usize) -> bool {
        addr.checked_add(len).is_some_and(|end| end <= self.len)
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

#[cfg(miri)]
impl Drop for UmemMemory {
    fn drop(&mut self) {
        let bytes = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len);
        // SAFETY: it was a box of so many bytes, and nothing refers to it any more.
        drop(unsafe { Box::from_raw(bytes) });
    }
}
