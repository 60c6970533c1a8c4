//! Messages in flight: the memory that the kernel reads until a send completes.
//!
//! Every TX socket has [`PER_SOCKET`] slots of its own. That bounds what is in flight to one
//! interface, and an interface whose sends do not complete takes no slot from another. A slot's
//! payloads lie in receive buffers, and it holds each of them until its completion has come.

use crate::datapath::{
    batch::{Frame, MAX_JOINED, MAX_PARTS},
    gso_packets::Message,
    vnet_header::VnetHeader,
};

use super::buffers::{Buffers, Held};

/// Messages that one TX socket may have in flight: enough to spread the cost of a system call.
pub const PER_SOCKET: u32 = 64;

/// The slots of all TX sockets.
#[derive(Default)]
pub struct SendSlots {
    /// Ordered by TX socket.
    slots: Box<[Slot]>,
    /// Numbers of the free slots, by TX socket. Each list has capacity for all slots of its TX
    /// socket, so it never grows.
    free: Box<[Vec<u32>]>,
    /// The slot that was filled last with more than one payload.
    last_filled: u32,
}

/// A message, and the output and frames that it counts for.
struct Slot {
    vnet_header: VnetHeader,
    parts: [libc::iovec; MAX_PARTS],
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
        f.debug_struct("SendSlots")
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
                parts: [part; MAX_PARTS],
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
            last_filled: 0,
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
    /// become one part. A message that repeats another one must come right after it. Returns the
    /// message for the kernel; it is valid until the slot has [ended](Self::end).
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
        message.msg_iov = parts.as_mut_ptr();
        let (first, rest) = parts.split_first_mut()?;
        *first = libc::iovec {
            iov_base: std::ptr::from_mut(vnet_header).cast(),
            iov_len: len,
        };
        (*output, *frames) = (new.output, new.count);
        if new.count == 1 {
            message.msg_iovlen = 1 + gather(rest.get_mut(..1)?, held, new.frames, buffers);
            return Some(message);
        }
        self.gather_many(slot, new.in_run.repeats, new.frames, buffers)
    }

    /// Fills a slot with many payloads, with those of the slot that was filled so last, if it
    /// `repeats` these and they have not left already. Out of line, so that the loop has all
    /// registers for itself.
    #[inline(never)]
    fn gather_many<'a>(
        &mut self,
        slot: u32,
        repeats: bool,
        frames: impl Iterator<Item = &'a Frame<Held>>,
        buffers: &'a Buffers,
    ) -> Option<*const libc::msghdr> {
        let last = std::mem::replace(&mut self.last_filled, slot);
        let repeated = match repeats {
            true => self.repeat(last, slot, buffers),
            false => None,
        };
        let slot = self.slots.get_mut(slot as usize)?;
        let used = match repeated {
            Some(used) => used,
            None => gather(slot.parts.get_mut(1..)?, &mut slot.held, frames, buffers),
        };
        slot.message.msg_iovlen = 1 + used;
        Some(&raw const slot.message)
    }

    /// Copies the payloads of the slot `from` to the slot `to`. Returns how many parts they have;
    /// `None` if its message has left already.
    #[inline]
    fn repeat(&mut self, from: u32, to: u32, buffers: &Buffers) -> Option<usize> {
        let [from, to] = self
            .slots
            .get_disjoint_mut([from as usize, to as usize])
            .ok()?;
        let used = from.held.len();
        let parts = to.parts.get_mut(1..=used)?;
        parts.copy_from_slice(from.parts.get(1..=used)?);
        let held = from.held.iter().map(|held| buffers.share(held));
        to.held.extend(held);
        (used > 0).then_some(used)
    }

    /// Makes sure that the next message repeats none: the one before it is in no slot.
    pub fn forget_last(&mut self) {
        self.last_filled = u32::MAX;
    }

    /// The parts of a slot's message, the vnet header first.
    pub fn parts(&self, slot: u32) -> impl Iterator<Item = &[u8]> + Clone {
        let slot = self.slots.get(slot as usize);
        let used = slot.and_then(|slot| slot.parts.get(..slot.message.msg_iovlen));
        let (first, rest) = used.and_then(<[_]>::split_first).unzip();
        let header = slot.zip(first);
        let header = header.map(|(slot, first)| slot.vnet_header.bytes(first.iov_len));
        // SAFETY: `fill` has set them to what is in buffers that the slot holds until it ends.
        let payloads = rest.unwrap_or(&[]).iter().map(|part| unsafe {
            std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len)
        });
        header.into_iter().chain(payloads)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{
        batch::fixture::{Numbered, PAYLOAD_AT, numbered},
        gso_packets::InRun,
    };

    /// Frames in buffers of their own, each with a payload that is full of its number.
    fn frames(buffers: &mut Buffers, numbers: std::ops::Range<u8>) -> Vec<Frame<Held>> {
        let mut frame = |number: u8| {
            let Numbered { bytes, received } = numbered(number);
            let held = buffers.received(number.into()).unwrap();
            buffers.write(&held, &bytes);
            Frame::new(held, received, 0, PAYLOAD_AT)
        };
        numbers.map(&mut frame).collect()
    }

    /// Fills a slot with a message of `frames`, and returns it and the first byte of each payload.
    fn fill(
        slots: &mut SendSlots,
        frames: &[Frame<Held>],
        repeats: bool,
        buffers: &Buffers,
    ) -> (u32, Vec<u8>) {
        let slot = slots.take(0).unwrap();
        let message = Message {
            output: 0,
            count: frames.len() as u16,
            write: |vnet_header: &mut VnetHeader| vnet_header.single(|_| 42),
            frames: frames.iter(),
            in_run: InRun {
                repeats,
                ..InRun::ALONE
            },
        };
        slots.fill(slot, message, buffers).unwrap();
        let payloads = slots.parts(slot).skip(1).map(|payload| payload[0]);
        (slot, payloads.collect())
    }

    #[test]
    fn a_message_repeats_the_one_before_it_and_no_other() {
        let mut buffers = Buffers::without_ring(8).unwrap();
        let mut slots = SendSlots::new(1);
        let (first, second) = (frames(&mut buffers, 0..2), frames(&mut buffers, 2..4));
        let (a, payloads) = fill(&mut slots, &first, false, &buffers);
        assert_eq!(payloads, [0, 1]);
        let (b, payloads) = fill(&mut slots, &first, true, &buffers);
        assert_eq!(payloads, [0, 1]);
        // The one before it was not sent.
        slots.forget_last();
        let (c, payloads) = fill(&mut slots, &second, true, &buffers);
        assert_eq!(payloads, [2, 3]);
        // The one before it has left already, and holds nothing any more.
        slots.end(c, &buffers);
        let (d, payloads) = fill(&mut slots, &second, true, &buffers);
        assert_eq!(payloads, [2, 3]);
        for frame in first.into_iter().chain(second) {
            buffers.release(frame.place);
        }
        assert_eq!(buffers.held(), 4, "each message holds its own");
        for slot in [a, b, d] {
            slots.end(slot, &buffers);
        }
        assert_eq!(buffers.held(), 0);
    }
}
