//! The TX ring of an AF_XDP socket and the completion ring that goes with it, straight over the
//! kernel's interface (include/uapi/linux/if_xdp.h).
//!
//! xsk-rs binds the socket, and receives. But a descriptor of its own names the start of a frame
//! that a ring has brought, and nothing else. A [`Descriptor`] names any bytes of the UMEM: headers
//! right in front of a payload that stays where it was received, or a payload alone, as the second
//! part of a frame.
//!
//! The kernel maps a ring as often as it is asked to, so this is a second mapping of the memory
//! that xsk-rs has mapped; only this one is used. A mapping holds the socket: it goes with the
//! port.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, RawFd},
    ptr::NonNull,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use nix::errno::Errno;
use xsk_rs::{CompQueue, TxQueue};

use super::{
    kick,
    ring_sizes::{COMPLETION_SIZE, TX_SIZE},
    transmitter::Rings,
};
use crate::host::socket_options;

/// What the kernel reads to transmit: `struct xdp_desc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// The first byte, from the start of the UMEM. The kernel gives the same number back, but an
    /// odd one less 1 (Linux 6.18).
    pub addr: u64,
    /// How many bytes; they must not leave their chunk.
    pub len: u32,
    /// `XDP_PKT_CONTD` where the frame goes on in the next descriptor.
    pub options: u32,
}

/// The TX ring and the completion ring of a bound socket.
#[derive(Debug)]
pub struct TxRings {
    tx: Producer<Descriptor>,
    completion: Consumer<u64>,
    /// Keeps the socket open. The rings of the queue are not touched.
    queue: TxQueue,
    _completion_queue: CompQueue,
}

impl TxRings {
    /// Maps the rings of the socket that xsk-rs has bound, which have [`TX_SIZE`] and
    /// [`COMPLETION_SIZE`] entries.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn new(queue: TxQueue, completion_queue: CompQueue) -> io::Result<Self> {
        let fd = queue.fd().as_raw_fd();
        // `struct xdp_mmap_offsets`: of the RX, TX, FILL and completion ring.
        let all: [u64; 16] = socket_options::get(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let [_, tx, _, completion] = *all.as_chunks().0 else {
            return Err(Errno::EINVAL.into());
        };
        let completion_at = libc::XDP_UMEM_PGOFF_COMPLETION_RING.cast_signed();
        Ok(Self {
            tx: Producer(Ring::map(fd, libc::XDP_PGOFF_TX_RING, tx, TX_SIZE)?),
            completion: Consumer(Ring::map(fd, completion_at, completion, COMPLETION_SIZE)?),
            queue,
            _completion_queue: completion_queue,
        })
    }
}

impl Rings for TxRings {
    type Desc = Descriptor;

    #[inline]
    fn free(&mut self) -> u32 {
        self.tx.free()
    }

    #[inline]
    unsafe fn submit(&mut self, descs: [&[Descriptor]; 2]) -> u32 {
        self.tx.produce(descs)
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.tx.needs_wakeup()
    }

    fn wake(&mut self) -> Result<(), Errno> {
        kick::transmitter(self.queue.fd().as_raw_fd())
    }

    #[inline]
    fn complete(&mut self, descs: &mut [Descriptor]) -> usize {
        self.completion.consume(descs, |addr| Descriptor {
            addr,
            ..Descriptor::default()
        })
    }
}

/// Where the parts of a ring lie in its mapping: `struct xdp_ring_offset`.
#[derive(Debug, Clone, Copy)]
struct Offsets {
    producer: u64,
    consumer: u64,
    entries: u64,
    flags: u64,
}

impl From<[u64; 4]> for Offsets {
    fn from([producer, consumer, entries, flags]: [u64; 4]) -> Self {
        Self {
            producer,
            consumer,
            entries,
            flags,
        }
    }
}

/// One ring that the kernel shares with this process. `T` is its kind of entry: plain numbers.
#[derive(Debug)]
struct Ring<T> {
    start: NonNull<libc::c_void>,
    len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    /// How many entries; a power of two.
    size: u32,
    /// How far this process is, as producer or as consumer. The number wraps.
    at: u32,
    /// The entries are read and written by value.
    _entries: PhantomData<T>,
}

// SAFETY: the memory belongs to the socket and to no thread; the owner of the ring is the only one
// in this process who uses it.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps the ring of `fd` that the kernel knows by `page_offset`.
    fn map(fd: RawFd, page_offset: libc::off_t, offsets: [u64; 4], size: u32) -> io::Result<Self> {
        let offsets = Offsets::from(offsets);
        let entries_len = size as usize * size_of::<T>();
        let len = usize::try_from(offsets.entries).unwrap_or(usize::MAX);
        let len = len.checked_add(entries_len).ok_or(Errno::EINVAL)?;
        // SAFETY: asks for a new mapping, at any address.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd,
                page_offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        let start = NonNull::new(start).ok_or(Errno::ENOMEM)?;
        let within = |offset: u64, of: usize| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = offset.checked_add(of).filter(|&end| end <= len);
            // SAFETY: the place is inside the mapping.
            end.map(|_| unsafe { start.byte_add(offset) })
        };
        let number = |offset| within(offset, size_of::<AtomicU32>()).map(NonNull::cast);
        let parts = (
            number(offsets.producer),
            number(offsets.consumer),
            number(offsets.flags),
            within(offsets.entries, entries_len),
        );
        let (Some(producer), Some(consumer), Some(flags), Some(entries)) = parts else {
            // SAFETY: the range was mapped above, and no pointer into it is used.
            unsafe { libc::munmap(start.as_ptr(), len) };
            return Err(Errno::EINVAL.into());
        };
        let mut ring = Self {
            start,
            len,
            producer,
            consumer,
            flags,
            entries: entries.cast(),
            size,
            at: 0,
            _entries: PhantomData,
        };
        // Both are equal after the bind, and nothing has used the ring.
        ring.at = ring.consumer().load(Acquire);
        Ok(ring)
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: a number in the mapping, which lives as long as the ring; the kernel reads and
        // writes it by single instructions.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// The place of the entry with this number.
    #[inline]
    fn entry(&self, number: u32) -> *mut T {
        let at = number & (self.size - 1);
        // SAFETY: below `size`, so inside the mapping.
        unsafe { self.entries.as_ptr().add(at as usize) }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this ring's own, and no reference into it outlives the ring.
        unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}

/// A ring that this process fills.
#[derive(Debug)]
struct Producer<T>(Ring<T>);

impl<T: Copy> Producer<T> {
    /// Free entries, as far as the kernel has published them. Acquire, so that entries which the
    /// kernel has read are not written before that.
    #[inline]
    fn free(&self) -> u32 {
        let taken = self.0.consumer().load(Acquire);
        self.0.size.saturating_sub(self.0.at.wrapping_sub(taken))
    }

    /// Puts the entries of both slices on the ring at once, if all of them have room, and returns
    /// how many. Release, so that the kernel sees the entries, and the bytes that they name, before
    /// it sees that they are there.
    #[inline]
    fn produce(&mut self, entries: [&[T]; 2]) -> u32 {
        let [first, second] = entries;
        let count = first.len() + second.len();
        if count > self.free() as usize {
            return 0;
        }
        for (&entry, step) in first.iter().chain(second).zip(0..) {
            // SAFETY: a free entry, which the kernel does not read before it is published below.
            unsafe { self.0.entry(self.0.at.wrapping_add(step)).write(entry) };
        }
        self.0.at = self.0.at.wrapping_add(count as u32);
        self.0.producer().store(self.0.at, Release);
        count as u32
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.0.flags().load(Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that the kernel fills.
#[derive(Debug)]
struct Consumer<T>(Ring<T>);

impl<T: Copy> Consumer<T> {
    /// Takes entries off the ring, as many as `to` has room for, and returns how many. Acquire, so
    /// that they are read after the kernel has written them; release, so that the kernel writes new
    /// ones after they were read.
    #[inline]
    fn consume<U>(&mut self, to: &mut [U], of: impl Fn(T) -> U) -> usize {
        let there = self.0.producer().load(Acquire).wrapping_sub(self.0.at);
        let count = (there.min(self.0.size) as usize).min(to.len());
        for (place, step) in to.iter_mut().take(count).zip(0..) {
            // SAFETY: an entry that the kernel has published and does not write to before it is
            // released below.
            *place = of(unsafe { self.0.entry(self.0.at.wrapping_add(step)).read() });
        }
        if count > 0 {
            self.0.at = self.0.at.wrapping_add(count as u32);
            self.0.consumer().store(self.0.at, Release);
        }
        count
    }
}

#[cfg(test)]
mod tests;
