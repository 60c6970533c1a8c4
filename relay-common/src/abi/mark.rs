//! How user space learns when a frame arrived: it asks for one frame of a queue, and the kernel
//! program notes when it saw it, and what tells it from others.

use crate::wire::Bytes;

/// One place of [`MARKS`](super::MARKS). The memory is mapped into user space, so each side writes
/// while the other may read; what either needs is in the order of the fields' writes.
///
/// Every [`Self::EVERY`]th frame that a CPU gives to the relay may be marked. User space writes
/// `interface` and `queue`, then `left`, which it does not touch until it is 0. The program counts
/// `left` down with each of these frames that is of that queue. When it makes it 0, it has written
/// `time`, `print` and `check` before.
///
/// Places are few, and found by a simple rule, so two queues may share one. Then the one that asks
/// last has it, and the other one waits in vain.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// How many frames that may be marked until the one that is, that one included; 0 while none is
    /// asked for.
    pub left: u64,
    /// Whose frames: the kernel's index of the interface.
    pub interface: u32,
    /// The queue; 0 on the socket filter, which knows of none.
    pub queue: u32,
    /// When the program saw the frame, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// What tells the frame from others, see [`print`].
    pub print: u64,
    /// [`Self::check`] of both. CPUs that write at the same moment leave another value here.
    pub check: u64,
    _padding: [u64; 3],
}

impl Mark {
    /// One of so many frames may be marked: which one neither depends on what user space does just
    /// then, nor do other frames pay for it.
    pub const EVERY: u64 = 64;

    /// Whether a frame may be marked, if `counted` frames were given to the relay with this one, or
    /// with this packet of so many `datagrams`.
    #[inline(always)]
    #[must_use]
    pub const fn may_be(counted: u64, datagrams: u64) -> bool {
        counted % Self::EVERY < datagrams
    }

    /// Where a queue's mark is.
    #[inline(always)]
    #[must_use]
    pub const fn place(interface: u32, queue: u32) -> u32 {
        interface.wrapping_mul(16).wrapping_add(queue) % super::MAX_MARKS
    }

    /// What shows that `time` and `print` were written together.
    #[inline(always)]
    #[must_use]
    pub const fn check(time: u64, print: u64) -> u64 {
        time ^ print.rotate_left(32) ^ u64::MAX
    }
}

/// Where the first part of a frame starts that [`print`] reads: behind the Ethernet header.
const FIRST: usize = 14;
/// Where the second and the third one start.
const SECOND: usize = 42;
const THIRD: usize = 62;
/// How much longer a frame must be than what is read, so that it is read: a NIC pads a short frame
/// to 60 or 64 bytes, and user space may see it without.
const SPARE: usize = 4;

/// What tells a frame from others: a hash of its IP and UDP headers, with identification and
/// checksum, and of the first bytes of its payload. `None` where it is shorter than any datagram.
///
/// Frames may have the same: those that are equal to their checksums.
#[inline(always)]
#[must_use]
pub fn print<B: Bytes + ?Sized>(frame: &B) -> Option<u64> {
    let mut print = fold(0, frame.words::<7>(FIRST)?);
    if frame.holds(THIRD + SPARE, 0)
        && let Some(words) = frame.words::<5>(SECOND)
    {
        print = fold(print, words);
    }
    if frame.holds(THIRD + 20 + SPARE, 0)
        && let Some(words) = frame.words::<5>(THIRD)
    {
        print = fold(print, words);
    }
    Some(print)
}

/// Adds words to a hash.
#[inline(always)]
fn fold<const N: usize>(mut hash: u64, words: [u32; N]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    for word in words {
        hash = (hash ^ u64::from(word)).wrapping_mul(ODD);
        hash ^= hash >> 29;
    }
    hash
}

const _: () = assert!(size_of::<Mark>() == 64 && super::MAX_MARKS.is_power_of_two());

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, plain integers, padding that is a field, valid for every bit pattern.
    unsafe impl aya::Pod for super::Mark {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame whose bytes are their own numbers.
    fn frame<const LEN: usize>() -> [u8; LEN] {
        core::array::from_fn(|at| at as u8)
    }

    #[test]
    fn every_byte_behind_the_ethernet_header_counts_as_far_as_it_is_read() {
        fn check<const LEN: usize>(read: core::ops::Range<usize>) {
            let whole = print(&frame::<LEN>()[..]);
            for at in 0..LEN {
                let mut other = frame::<LEN>();
                other[at] ^= 0x80;
                let differs = print(&other[..]) != whole;
                assert_eq!(differs, read.contains(&at), "byte {at} of {LEN}");
            }
        }
        check::<42>(14..42);
        check::<65>(14..42);
        check::<66>(14..62);
        check::<85>(14..62);
        check::<86>(14..82);
        check::<1500>(14..82);
        assert_eq!(print(&frame::<41>()[..]), None);
    }

    #[test]
    fn padding_of_a_short_frame_does_not_count() {
        for len in 42..=60 {
            let mut padded = frame::<64>();
            padded[len..].fill(0);
            assert_eq!(print(&padded[..len]), print(&padded[..60]), "{len} bytes");
            assert_eq!(print(&padded[..len]), print(&padded[..64]), "{len} bytes");
        }
    }

    #[test]
    fn one_of_so_many_frames_may_be_marked() {
        let frames = (1..=640).filter(|&counted| Mark::may_be(counted, 1));
        assert_eq!(frames.count(), 10);
        let packets = (1..=100).filter(|number| Mark::may_be(number * 40, 40));
        assert_eq!(packets.count(), 62, "of 4000 datagrams");
        assert!(Mark::may_be(1000, 64));
    }

    #[test]
    fn queues_have_places_of_their_own_as_far_as_there_are_some() {
        let mut places = [false; super::super::MAX_MARKS as usize];
        for interface in 2..10 {
            for queue in 0..16 {
                let place = &mut places[Mark::place(interface, queue) as usize];
                assert!(!*place, "interface {interface}, queue {queue}");
                *place = true;
            }
        }
        assert!(Mark::place(u32::MAX, u32::MAX) < super::super::MAX_MARKS);
    }
}
