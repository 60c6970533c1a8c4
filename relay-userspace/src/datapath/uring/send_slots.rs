//! Messages in flight: the memory that the kernel reads until a send completes.
//!
//! Every TX socket has [`PER_SOCKET`] slots of its own. That bounds what is in flight to one
//! interface, and an interface whose sends do not complete takes no slot from another. A slot's
//! payloads lie in receive buffers, and it holds each of them until its completion has come.

use crate::datapath::{
    batch::{Frame, MAX_JOINED},
    gso_packets::Message,
    vnet_header::VnetHeader,
};

use super::buffers::{Buffers, Held};

/// Messages that one TX socket may have in flight: enough to spread the cost of a system call.
pub const PER_SOCKET: u32 = 64;
/// The most parts of one message: one for the headers, and one for each payload.
const PARTS: usize = 1 + MAX_JOINED;

/// The slots of all TX sockets.
#[derive(Default)]
pub struct SendSlots {
    /// Ordered by TX socket.
    slots: Box<[Slot]>,
    /// Numbers of the free slots, by TX socket. Each list has capacity for all slots of its TX
    /// socket, so it never grows.
    free: Box<[Vec<u32>]>,
}

/// A message, and the output and frames that it counts for.
struct Slot {
    vnet_header: VnetHeader,
    parts: [libc::iovec; PARTS],
    message: libc::msghdr,
    /// A hold on each buffer that payloads are in. Its capacity is `MAX_JOINED`.
    held: Vec<Held>,
    output: u32,
    frames: u16,
    tx_socket: u32,
    direct: bool,
}

// SAFETY: the pointers in a slot lead into the slot itself, which is never moved, or into buffers
// that it holds. They stay valid in any thread, and no two threads share them.
unsafe impl Send for SendSlots {}

impl std::fmt::Debug for SendSlots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// What a message counts for, and how it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The TX socket's number.
    pub tx_socket: usize,
    /// The output that it counts for.
    pub output: u32,
    /// The number of its frames.
    pub frames: u64,
    /// Whether it went straight to the device.
    pub direct: bool,
}

impl SendSlots {
    /// The slots of `tx_sockets` TX sockets.
    pub fn new(tx_sockets: usize) -> Self {
        let slot = |number: u32| {
            let part = libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            };
            Slot {
                vnet_header: VnetHeader::EMPTY,
                parts: [part; PARTS],
                // SAFETY: all zeros is a valid `msghdr`: no name, no parts, no control data.
                message: unsafe { std::mem::zeroed() },
                held: Vec::with_capacity(MAX_JOINED),
                output: 0,
                frames: 0,
                tx_socket: number / PER_SOCKET,
                direct: true,
            }
        };
        let tx_sockets = tx_sockets as u32;
        let of_socket =
            |tx_socket: u32| (tx_socket * PER_SOCKET..(tx_socket + 1) * PER_SOCKET).rev();
        Self {
            slots: (0..tx_sockets * PER_SOCKET).map(slot).collect(),
            free: (0..tx_sockets).map(|at| of_socket(at).collect()).collect(),
        }
    }

    /// All slots.
    #[cfg(test)]
    pub fn total(&self) -> usize {
        self.slots.len()
    }

    /// Slots of messages in flight.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.iter().map(Vec::len).sum::<usize>()
    }

    /// Takes a free slot of a TX socket.
    #[inline]
    pub fn take(&mut self, tx_socket: usize) -> Option<u32> {
        self.free.get_mut(tx_socket)?.pop()
    }

    /// Fills a slot that was taken with a message. Payloads that follow each other in one buffer
    /// become one part. Returns the message for the kernel; it is valid until the slot has
    /// [ended](Self::end).
    #[inline]
    pub fn fill<'a, W, F>(
        &mut self,
        slot: u32,
        new: Message<W, F>,
        buffers: &'a Buffers,
    ) -> Option<*const libc::msghdr>
    where
        W: FnOnce(&mut VnetHeader) -> usize,
        F: Iterator<Item = &'a Frame<Held>>,
    {
        let Slot {
            vnet_header,
            parts,
            message,
            held,
            output,
            frames,
            ..
        } = self.slots.get_mut(slot as usize)?;
        let len = (new.write)(vnet_header);
        let (first, rest) = parts.split_first_mut()?;
        *first = libc::iovec {
            iov_base: std::ptr::from_mut(vnet_header).cast(),
            iov_len: len,
        };
        let used = if new.count == 1 {
            gather(rest.get_mut(..1)?, held, new.frames, buffers)
        } else {
            gather_many(rest, held, new.frames, buffers)
        };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = 1 + used;
        (*output, *frames) = (new.output, new.count);
        Some(message)
    }

    /// The parts of a slot's message, the vnet header first.
    pub fn parts(&self, slot: u32) -> impl Iterator<Item = &[u8]> + Clone {
        let parts = self.slots.get(slot as usize).and_then(|slot| {
            let used = slot.message.msg_iovlen;
            slot.parts.get(..used)
        });
        // SAFETY: `fill` has set them, to the slot's own vnet header and to buffers that the slot
        // holds until it ends.
        parts.unwrap_or(&[]).iter().map(|part| unsafe {
            std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len)
        })
    }

    /// Remembers whether a slot's message goes straight to the device.
    #[inline]
    pub fn goes(&mut self, slot: u32, direct: bool) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.direct = direct;
        }
    }

    /// What the message of a slot counts for.
    #[inline]
    pub fn look(&self, slot: u32) -> Option<Ended> {
        let slot = self.slots.get(slot as usize)?;
        Some(Ended {
            tx_socket: slot.tx_socket as usize,
            output: slot.output,
            frames: u64::from(slot.frames),
            direct: slot.direct,
        })
    }

    /// Every message in flight.
    pub fn on_their_way(&self) -> impl Iterator<Item = Ended> + '_ {
        let slots = (0..).zip(&self.slots);
        let busy = slots.filter(|(_, slot)| !slot.held.is_empty());
        busy.filter_map(|(number, _)| self.look(number))
    }

    /// Frees a slot whose completion has come, and ends its holds.
    #[inline]
    pub fn end(&mut self, slot: u32, buffers: &Buffers) {
        let Some(ended) = self.slots.get_mut(slot as usize) else {
            return;
        };
        for held in ended.held.drain(..) {
            buffers.release(held);
        }
        if let Some(free) = self.free.get_mut(ended.tx_socket as usize) {
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

/// Makes parts of payloads, as many as there is room for, and holds their buffers. Returns how many
/// parts.
#[inline]
fn gather<'a>(
    parts: &mut [libc::iovec],
    held: &mut Vec<Held>,
    frames: impl Iterator<Item = &'a Frame<Held>>,
    buffers: &'a Buffers,
) -> usize {
    let mut used = 0;
    for frame in frames {
        let payload = frame.payload(buffers);
        let start: *mut libc::c_void = payload.as_ptr().cast_mut().cast();
        if let Some(last) = held.last()
            && Buffers::same(last, &frame.place)
            && let Some(part) = parts.get_mut(..used).and_then(<[_]>::last_mut)
            && part.iov_base.wrapping_byte_add(part.iov_len) == start
        {
            part.iov_len += payload.len();
            continue;
        }
        let Some(part) = parts.get_mut(used) else {
            break;
        };
        part.iov_base = start;
        part.iov_len = payload.len();
        held.push(buffers.share(&frame.place));
        used += 1;
    }
    used
}

/// [`gather`] out of line, so that the loop has all registers for itself.
#[inline(never)]
fn gather_many<'a>(
    parts: &mut [libc::iovec],
    held: &mut Vec<Held>,
    frames: impl Iterator<Item = &'a Frame<Held>>,
    buffers: &'a Buffers,
) -> usize {
    gather(parts, held, frames, buffers)
}
