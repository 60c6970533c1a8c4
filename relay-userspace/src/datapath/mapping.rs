//! Memory straight from the kernel: page-aligned, zeroed, and resident only where it was touched.
//!
//! Miri knows neither reserved addresses nor advice: there all of a mapping is open from the start.

use std::{io, ptr::NonNull};

use nix::errno::Errno;

const READ_AND_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
const KIND: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Anonymous memory, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: memory of the process, not of a thread; the owner decides when it is read and written.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes, at least one. Never in huge pages: most of each buffer is never touched
    /// and shall cost nothing.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn new(len: usize) -> io::Result<Self> {
        Self::map(len, READ_AND_WRITE)
    }

    /// Reserves `len` bytes of addresses, at least one. They cost no memory, and nothing may read
    /// or write them before [`Mapping::open`].
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn reserve(len: usize) -> io::Result<Self> {
        Self::map(len, libc::PROT_NONE)
    }

    /// Lets the first `len` bytes be read and written, and keeps what they hold.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or `ENOMEM` if `len` is beyond the end.
    pub fn open(&self, len: usize) -> io::Result<()> {
        if len > self.len {
            return Err(Errno::ENOMEM.into());
        }
        let access = READ_AND_WRITE;
        if cfg!(miri) {
            return Ok(());
        }
        // SAFETY: the pages are this value's own, and more access than before harms no reference.
        let opened = unsafe { libc::mprotect(self.start.as_ptr().cast(), len, access) };
        Ok(Errno::result(opened).map(drop)?)
    }

    fn map(len: usize, access: libc::c_int) -> io::Result<Self> {
        let (access, kind) = if cfg!(miri) {
            (READ_AND_WRITE, KIND)
        } else {
            (access, KIND | libc::MAP_NORESERVE)
        };
        // SAFETY: asks for new memory, at any address.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        if cfg!(not(miri)) {
            // SAFETY: the range was mapped just now. A kernel without huge pages refuses, which
            // does no harm.
            unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { start, len })
    }

    /// The first byte.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Never unmaps the memory, because the kernel may still write to it.
    pub fn leak(&mut self) {
        self.len = 0;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the memory is this value's own, and no pointer into it is used any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}
