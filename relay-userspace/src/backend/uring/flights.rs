//! Messages on their way: what the kernel reads until a send completes.
//!
//! Every outlet has so many slots of its own. So what is on its way to one interface is bounded, and one whose sends do
//! not complete keeps no slot from another. A slot's payloads lie in receive buffers, and it holds each of them until
//! its completion has come.

use crate::backend::{
    batch::{Frame, MAX_JOINED},
    head::Head,
};

use super::buffers::{Buffers, Held};

/// Messages that one outlet may have on their way: enough to spread the cost of a system call.
pub const PER_OUTLET: u32 = 64;
/// The most parts of one message: the headers and a payload each.
const PARTS: usize = 1 + MAX_JOINED;

/// The slots of all outlets.
#[derive(Default)]
pub struct Flights {
    /// One outlet's after the other's.
    slots: Box<[Slot]>,
    /// Numbers of the free slots, by outlet. Their capacity is all of the outlet's slots, so they never grow.
    free: Box<[Vec<u32>]>,
}

/// A message, and what it counts for.
struct Slot {
    head: Head,
    parts: [libc::iovec; PARTS],
    message: libc::msghdr,
    /// A hold on each buffer that payloads are in. Its capacity is `MAX_JOINED`.
    held: Vec<Held>,
    output: u32,
    frames: u16,
    outlet: u32,
    direct: bool,
}

// SAFETY: the pointers in a slot lead into the slot itself, which is never moved, or into buffers that it holds. Nothing
// here follows them, and no thread shares them.
unsafe impl Send for Flights {}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// What a message was, when it has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The outlet's number.
    pub outlet: usize,
    /// The output that it counts for.
    pub output: u32,
    /// Frames that it was.
    pub frames: u64,
    /// It went straight to the device.
    pub direct: bool,
}

impl Flights {
    /// Slots for so many outlets.
    pub fn new(outlets: usize) -> Self {
        let slot = |number: u32| {
            let part = libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            };
            Slot {
                head: Head::EMPTY,
                parts: [part; PARTS],
                // SAFETY: all zeros is a valid `msghdr`: no name, no parts, no control data.
                message: unsafe { std::mem::zeroed() },
                held: Vec::with_capacity(MAX_JOINED),
                output: 0,
                frames: 0,
                outlet: number / PER_OUTLET,
                direct: true,
            }
        };
        let outlets = outlets as u32;
        let of_outlet = |outlet: u32| (outlet * PER_OUTLET..(outlet + 1) * PER_OUTLET).rev();
        Self {
            slots: (0..outlets * PER_OUTLET).map(slot).collect(),
            free: (0..outlets).map(|at| of_outlet(at).collect()).collect(),
        }
    }

    /// All slots.
    #[cfg(test)]
    pub fn total(&self) -> usize {
        self.slots.len()
    }

    /// Slots of messages on their way.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.iter().map(Vec::len).sum::<usize>()
    }

    /// A free slot of an outlet.
    #[inline]
    pub fn take(&mut self, outlet: usize) -> Option<u32> {
        self.free.get_mut(outlet)?.pop()
    }

    /// Fills a slot that was taken with a message of `count` frames of `output`: `write` fills in the head, and the
    /// payloads of `frames` follow it. Payloads that follow each other in one buffer are one part. Returns what the
    /// kernel shall send; valid until the slot has [ended](Self::end).
    #[inline]
    pub fn fill<'a>(
        &mut self,
        slot: u32,
        output: u32,
        count: u16,
        write: impl FnOnce(&mut Head),
        frames: impl Iterator<Item = &'a Frame<Held>>,
        buffers: &'a Buffers,
    ) -> Option<*const libc::msghdr> {
        let Slot {
            head,
            parts,
            message,
            held,
            output: its_output,
            frames: its_frames,
            ..
        } = self.slots.get_mut(slot as usize)?;
        write(head);
        let (first, rest) = parts.split_first_mut()?;
        *first = libc::iovec {
            iov_base: std::ptr::from_mut(head).cast(),
            iov_len: size_of::<Head>(),
        };
        let mut used = 0;
        for frame in frames.take(MAX_JOINED) {
            let payload = frame.payload(buffers);
            let start: *mut libc::c_void = payload.as_ptr().cast_mut().cast();
            if let Some(last) = held.last()
                && Buffers::same(last, &frame.place)
                && let Some(part) = rest.get_mut(..used).and_then(<[_]>::last_mut)
                && part.iov_base.wrapping_byte_add(part.iov_len) == start
            {
                part.iov_len += payload.len();
                continue;
            }
            if let Some(part) = rest.get_mut(used) {
                part.iov_base = start;
                part.iov_len = payload.len();
                held.push(buffers.share(&frame.place));
                used += 1;
            }
        }
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = 1 + used;
        (*its_output, *its_frames) = (output, count);
        Some(message)
    }

    /// The parts of a slot's message, the head first.
    pub fn parts(&self, slot: u32) -> impl Iterator<Item = &[u8]> + Clone {
        let parts = self.slots.get(slot as usize).and_then(|slot| {
            let used = slot.message.msg_iovlen;
            slot.parts.get(..used)
        });
        // SAFETY: `fill` has set them, to the slot's own head and to buffers that the slot holds
        // until it ends.
        parts.unwrap_or(&[]).iter().map(|part| unsafe {
            std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len)
        })
    }

    /// Remembers which way a slot's message goes.
    #[inline]
    pub fn goes(&mut self, slot: u32, direct: bool) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.direct = direct;
        }
    }

    /// What a slot on its way is.
    #[inline]
    pub fn look(&self, slot: u32) -> Option<Ended> {
        let slot = self.slots.get(slot as usize)?;
        Some(Ended {
            outlet: slot.outlet as usize,
            output: slot.output,
            frames: u64::from(slot.frames),
            direct: slot.direct,
        })
    }

    /// Every message on its way.
    pub fn on_their_way(&self) -> impl Iterator<Item = Ended> + '_ {
        let slots = (0..).zip(&self.slots);
        let busy = slots.filter(|(_, slot)| !slot.held.is_empty());
        busy.filter_map(|(number, _)| self.look(number))
    }

    /// Frees a slot whose completion has come, and gives up its holds.
    #[inline]
    pub fn end(&mut self, slot: u32, buffers: &Buffers) {
        let Some(ended) = self.slots.get_mut(slot as usize) else {
            return;
        };
        for held in ended.held.drain(..) {
            buffers.release(held);
        }
        if let Some(free) = self.free.get_mut(ended.outlet as usize) {
            free.push(slot);
        }
    }

    /// Where the payloads of a slot's message are: addresses and lengths.
    #[cfg(test)]
    pub fn payloads(&self, slot: u32) -> Vec<(usize, usize)> {
        let payloads = self.parts(slot).skip(1);
        payloads
            .map(|part| (part.as_ptr().addr(), part.len()))
            .collect()
    }
}
