//! When frames arrived: a map of the kernel programs that user space reads and writes like memory,
//! see [`relay_common::abi::Mark`]. So a worker asks for a frame's time without a system call.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use nix::errno::Errno;
use relay_common::abi::{self, MAX_MARKS, Mark};

use super::{
    error::{KernelError, map_write},
    maps::take,
};

/// The marks of one program.
#[derive(Debug)]
pub struct Marks {
    start: NonNull<Mark>,
    /// Open until the program is loaded, which refers to it by its descriptor.
    _map: Option<MapData>,
}

// SAFETY: memory of the process, which every thread reads and writes by atomic accesses alone.
unsafe impl Send for Marks {}
// SAFETY: as above.
unsafe impl Sync for Marks {}

/// A frame that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    /// When the program saw it, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// What tells it from others, see [`abi::mark::print`].
    pub print: u64,
}

/// One place, as atomic numbers.
struct Place<'a> {
    left: &'a AtomicU64,
    interface: &'a AtomicU32,
    queue: &'a AtomicU32,
    time: &'a AtomicU64,
    print: &'a AtomicU64,
    check: &'a AtomicU64,
}

const LEN: usize = MAX_MARKS as usize * size_of::<Mark>();

impl Marks {
    /// Maps the marks of a loaded object.
    pub(super) fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let Map::Array(map) = take(ebpf, abi::MARKS)? else {
            return Err(KernelError::Map(abi::MARKS));
        };
        let fd = map.fd().as_fd().as_raw_fd();
        Self::map(libc::MAP_SHARED, fd, Some(map))
            .map_err(|error| map_write(abi::MARKS, "all marks by `mmap`", &error))
    }

    /// Marks that no program writes to.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn without_program() -> io::Result<Self> {
        Self::map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, None)
    }

    fn map(kind: libc::c_int, fd: libc::c_int, map: Option<MapData>) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: asks for new memory, at any address.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), LEN, access, kind, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { start, _map: map })
    }

    /// Asks for the `count`-th frame of a queue, at least the first, of those that may be marked.
    /// Forgets what was asked for there before.
    pub fn ask(&self, interface: u32, queue: u32, count: u64) {
        let place = self.place(interface, queue);
        place.left.store(0, Relaxed);
        // So that what the last frame has left is not taken for this one's.
        place.check.store(0, Relaxed);
        place.time.store(0, Relaxed);
        place.print.store(0, Relaxed);
        place.interface.store(interface, Relaxed);
        place.queue.store(queue, Relaxed);
        place.left.store(count.max(1), Release);
    }

    /// The frame that was asked for, if it has come.
    #[inline]
    #[must_use]
    pub fn marked(&self, interface: u32, queue: u32) -> Option<Marked> {
        let place = self.place(interface, queue);
        if place.left.load(Acquire) != 0 {
            return None;
        }
        let (time, print) = (place.time.load(Relaxed), place.print.load(Relaxed));
        let is_whole = place.check.load(Relaxed) == Mark::check(time, print)
            && place.interface.load(Relaxed) == interface
            && place.queue.load(Relaxed) == queue;
        is_whole.then_some(Marked { time, print })
    }

    /// How many frames that may be marked until the one that is asked for; 0 if it has come, or none
    /// is asked for.
    #[must_use]
    pub fn left(&self, interface: u32, queue: u32) -> u64 {
        self.place(interface, queue).left.load(Relaxed)
    }

    /// Marks the frame that was asked for, as the program does.
    pub fn mark(&self, interface: u32, queue: u32, marked: Marked) {
        let place = self.place(interface, queue);
        place.time.store(marked.time, Relaxed);
        place.print.store(marked.print, Relaxed);
        let check = Mark::check(marked.time, marked.print);
        place.check.store(check, Relaxed);
        place.left.store(0, Release);
    }

    fn place(&self, interface: u32, queue: u32) -> Place<'_> {
        let number = Mark::place(interface, queue) % MAX_MARKS;
        // SAFETY: the number is below that of the places, which are mapped as long as `self` lives,
        // and aligned. The program writes whole fields, and the process accesses them atomically.
        unsafe {
            let mark = self.start.as_ptr().add(number as usize);
            Place {
                left: AtomicU64::from_ptr(&raw mut (*mark).left),
                interface: AtomicU32::from_ptr(&raw mut (*mark).interface),
                queue: AtomicU32::from_ptr(&raw mut (*mark).queue),
                time: AtomicU64::from_ptr(&raw mut (*mark).time),
                print: AtomicU64::from_ptr(&raw mut (*mark).print),
                check: AtomicU64::from_ptr(&raw mut (*mark).check),
            }
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        // SAFETY: the memory is this value's own, and no reference into it is used any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_marked_for_the_queue_that_asks_and_once() {
        const MARKED: Marked = Marked { time: 7, print: 9 };
        let marks = Marks::without_program().unwrap();
        assert_eq!(marks.marked(3, 1), None, "nothing was asked for");
        marks.ask(3, 1, 2);
        assert_eq!(marks.marked(3, 1), None, "it has not come");
        marks.mark(3, 1, MARKED);
        assert_eq!(marks.marked(3, 1), Some(MARKED));
        // Of the same place.
        let other = 3 + MAX_MARKS;
        assert_eq!(Mark::place(other, 1), Mark::place(3, 1));
        assert_eq!(marks.marked(other, 1), None);
        marks.ask(3, 1, 0);
        assert_eq!(marks.left(3, 1), 1);
        assert_eq!(marks.marked(3, 1), None, "the old one is forgotten");
        marks.ask(other, 1, 1);
        marks.mark(3, 1, MARKED);
        assert_eq!(marks.marked(3, 1), None, "it was another queue's");
    }

    #[test]
    fn what_two_cpus_wrote_at_once_is_not_taken() {
        let marks = Marks::without_program().unwrap();
        marks.ask(3, 0, 1);
        marks.mark(3, 0, Marked { time: 7, print: 9 });
        marks.place(3, 0).time.store(8, Relaxed);
        assert_eq!(marks.marked(3, 0), None);
    }
}
