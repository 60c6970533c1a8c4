//! Counters that control may add to while a worker counts: an entry never moves.
//!
//! An [`Arena`] reserves the addresses of all entries that it may ever have, which costs no memory,
//! and opens them from the front. So it is a slice that grows in place: a worker finds an entry
//! with one comparison and one addition, as in a slice that was made at once. It starts on a page
//! of its own, so two arenas never share a cache line.

use std::{
    fmt, io,
    marker::PhantomData,
    ops::Deref,
    slice,
    sync::atomic::{
        AtomicUsize,
        Ordering::{Acquire, Release},
    },
};

use nix::errno::Errno;

use super::mapping::Mapping;

/// The size of the smallest page of any CPU, and so the alignment of every mapping.
const PAGE: usize = 4096;

/// What an arena may hold.
///
/// # Safety
///
/// Zeros in all bytes are a value, and nothing is lost if a value is never dropped.
pub unsafe trait Zeros: Sync {}

/// A slice that grows in place. New entries are zeros.
pub struct Arena<T> {
    memory: Mapping,
    most: usize,
    /// Entries that are open. It only grows.
    len: AtomicUsize,
    entries: PhantomData<T>,
}

// SAFETY: it gives out nothing but shared references to entries, which are `Sync`, and its own
// state is an atomic number and a mapping that belongs to no thread.
unsafe impl<T: Zeros> Sync for Arena<T> {}

impl<T: Zeros> Arena<T> {
    /// An arena with `len` entries, which can grow to `most`, at least one.
    ///
    /// # Errors
    ///
    /// No addresses or no memory.
    pub fn new(len: usize, most: usize) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= PAGE && size_of::<T>() > 0) };
        let bytes = most.checked_mul(size_of::<T>()).ok_or(Errno::ENOMEM)?;
        let arena = Self {
            memory: Mapping::reserve(bytes)?,
            most,
            len: AtomicUsize::new(0),
            entries: PhantomData,
        };
        arena.grow(len)?;
        Ok(arena)
    }

    /// Makes sure that there are `len` entries. Those that exist stay where and what they are.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if that is more than the arena can ever have, or if memory is short.
    pub fn grow(&self, len: usize) -> io::Result<()> {
        if len <= self.len() {
            return Ok(());
        }
        if len > self.most {
            return Err(Errno::ENOMEM.into());
        }
        self.memory.open(len * size_of::<T>())?;
        self.len.fetch_max(len, Release);
        Ok(())
    }
}

impl<T: Zeros> Deref for Arena<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        let len = self.len.load(Acquire);
        // SAFETY: that many entries are open, aligned to a page, for as long as the arena lives,
        // and they began as zeros, which are values. No mutable reference to them exists.
        unsafe { slice::from_raw_parts(self.memory.start().as_ptr().cast(), len) }
    }
}

impl<'a, T: Zeros> IntoIterator for &'a Arena<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Zeros + fmt::Debug> fmt::Debug for Arena<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    /// The most entries of the arenas. Miri is slow.
    const MOST: usize = if cfg!(miri) { 1 << 8 } else { 1 << 20 };

    // SAFETY: a number.
    unsafe impl Zeros for AtomicU64 {}

    #[test]
    fn entries_stay_where_and_what_they_are_while_the_arena_grows() {
        let arena: Arena<AtomicU64> = Arena::new(1, MOST).unwrap();
        let first = &arena[0];
        first.store(7, Relaxed);
        let mut len = 1;
        while len < MOST {
            let more = len * 3 + 1;
            arena.grow(more.min(MOST)).unwrap();
            assert!(arena[len..].iter().all(|entry| entry.load(Relaxed) == 0));
            len = arena.len();
            arena[len - 1].store(len as u64, Relaxed);
            assert!(std::ptr::eq(first, &raw const arena[0]));
            assert_eq!((first.load(Relaxed), arena.len()), (7, len));
        }
        arena.grow(3).unwrap();
        assert_eq!(arena.len(), MOST, "it never shrinks");
        assert!(arena.grow(MOST + 1).is_err());
    }

    #[test]
    fn another_thread_may_read_while_the_arena_grows() {
        const FEW: usize = MOST >> 4;
        let arena: Arena<AtomicU64> = Arena::new(0, FEW).unwrap();
        let reads = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for len in 1..=FEW {
                    arena.grow(len).unwrap();
                    // It is read in between, however late the other thread begins.
                    while len == FEW / 2 && reads.load(Relaxed) == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            while arena.len() < FEW {
                reads.fetch_add(1, Relaxed);
                assert!(arena.last().is_none_or(|last| last.load(Relaxed) == 0));
            }
        });
    }
}
