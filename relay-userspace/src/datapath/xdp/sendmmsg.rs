//! Messages for `sendmmsg`, laid out in memory that is allocated once.
//!
//! A message is a [`VnetHeader`] and the payloads that follow it, each where it was received, or
//! all in one of the queue's `Pieces`. A [`Queue`] collects messages and hands them over as
//! [`Messages`]; it knows nothing of sockets. The caller of [`Queue::push`] guarantees that the
//! payloads stay valid until the queue has been handed over.

use std::{
    ops::Range,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::errno::Errno;

use super::{pieces::Pieces, umem::Chunks};
use crate::{
    datapath::{
        batch::{Frame, MAX_JOINED, MAX_PARTS, Memory},
        gso_packets::{Message, Outbox},
        vnet_header::VnetHeader,
    },
    host::GsoLimits,
};

/// Messages per `sendmmsg`: enough to spread the cost of the call, few enough to stay in the
/// first-level cache.
const MESSAGES: usize = 32;

/// Messages not handed over yet.
pub struct Queue {
    vnet_headers: Box<[VnetHeader]>,
    parts: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
    /// For each message, the output that it counts for and its number of frames.
    counts: Box<[(u32, u16)]>,
    len: usize,
    parts_used: usize,
    /// The payloads of the message pushed last, among the parts.
    last_payloads: Range<usize>,
    pieces: Pieces,
}

// SAFETY: the pointers in `parts` and `messages` lead into the boxes of the same `Queue`, or to
// payloads that the caller of `Queue::push` guarantees; they are followed only while the queue is
// handed over. No two threads share them.
unsafe impl Send for Queue {}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("len", &self.len).finish()
    }
}

impl Default for Queue {
    /// An empty queue.
    fn default() -> Self {
        let part = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: all zeros is a valid `mmsghdr`: no name, no parts, no control data.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            vnet_headers: vec![VnetHeader::EMPTY; MESSAGES].into(),
            parts: vec![part; MESSAGES * MAX_PARTS].into(),
            messages: vec![message; MESSAGES].into(),
            counts: vec![(0, 0); MESSAGES].into(),
            len: 0,
            parts_used: 0,
            last_payloads: 0..0,
            pieces: Pieces::default(),
        }
    }
}

impl Queue {
    /// An empty queue that brings the payloads of runs with several outputs into one piece.
    pub fn with_pieces() -> Self {
        Self {
            pieces: Pieces::with_memory(),
            ..Self::default()
        }
    }

    /// Whether [`Queue::hand_over`] must come before the next message.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len == MESSAGES
    }

    /// Adds a message. The queue must not be full.
    ///
    /// # Safety
    ///
    /// The payloads must stay where they are, and unwritten, until [`Queue::hand_over`] has
    /// returned.
    #[inline]
    pub unsafe fn push<'a, W, F>(&mut self, new: Message<W, F>, chunks: &'a Chunks)
    where
        W: FnOnce(&mut VnetHeader) -> usize,
        F: Iterator<Item = &'a Frame<<Chunks as Memory>::Place>>,
    {
        let at = self.parts_used;
        let (Some(vnet_header), Some(message), Some(counts), Some(parts)) = (
            self.vnet_headers.get_mut(self.len),
            self.messages.get_mut(self.len),
            self.counts.get_mut(self.len),
            self.parts.get_mut(at..at + MAX_PARTS),
        ) else {
            return;
        };
        let Some((first, rest)) = parts.split_first_mut() else {
            return;
        };
        let len = (new.write)(vnet_header);
        *first = libc::iovec {
            iov_base: std::ptr::from_mut(vnet_header).cast(),
            iov_len: len,
        };
        let used = if new.count == 1 {
            fill(rest.get_mut(..1).unwrap_or_default(), new.frames, chunks)
        } else {
            let again = new.in_run.repeats.then(|| self.last_payloads.clone());
            let mut used = fill_many(&mut self.parts, at + 1, again, new.frames, chunks);
            if !new.in_run.repeats {
                let parts = self.parts.get_mut(at + 1..at + 1 + used);
                // SAFETY: they were made just now, of payloads that stay until the queue has been
                // handed over.
                used = unsafe { self.pieces.join(parts.unwrap_or_default(), new.in_run) };
            }
            self.last_payloads = at + 1..at + 1 + used;
            used
        };
        // After all writes: through an older pointer the compiler may expect the parts as they were.
        message.msg_hdr.msg_iov = self.parts.as_mut_ptr().wrapping_add(at);
        message.msg_hdr.msg_iovlen = 1 + used;
        *counts = (new.output, new.count);
        self.parts_used += 1 + used;
        self.len += 1;
    }

    /// Hands all messages to `take`, if there are any, and empties the queue.
    #[inline]
    pub fn hand_over(&mut self, take: impl FnOnce(Messages<'_>)) {
        let len = std::mem::take(&mut self.len);
        self.parts_used = 0;
        if let (Some(messages), Some(counts)) =
            (self.messages.get_mut(..len), self.counts.get(..len))
            && len > 0
        {
            take(Messages { messages, counts });
        }
        self.pieces.handed_over();
    }
}

/// Makes a part of each payload. Returns how many.
#[inline]
fn fill<'a>(
    parts: &mut [libc::iovec],
    frames: impl Iterator<Item = &'a Frame<<Chunks as Memory>::Place>>,
    chunks: &'a Chunks,
) -> usize {
    let mut used = 0;
    for (part, frame) in parts.iter_mut().zip(frames) {
        let payload = frame.payload(chunks);
        part.iov_base = payload.as_ptr().cast_mut().cast();
        part.iov_len = payload.len();
        used += 1;
    }
    used
}

/// [`fill`] of the parts from `to` on, or where the payloads are those `again`, a copy of these
/// parts: parts stay what they are until they are overwritten, also when they have been handed over.
/// Out of line, so that the loop has all registers for itself.
#[inline(never)]
fn fill_many<'a>(
    parts: &mut [libc::iovec],
    to: usize,
    again: Option<Range<usize>>,
    frames: impl Iterator<Item = &'a Frame<<Chunks as Memory>::Place>>,
    chunks: &'a Chunks,
) -> usize {
    if let Some(from) = again {
        let count = from.len();
        if let Ok([from, to]) = parts.get_disjoint_mut([from, to..to + count]) {
            to.copy_from_slice(from);
            return count;
        }
    }
    let parts = parts.get_mut(to..to + MAX_JOINED);
    fill(parts.unwrap_or_default(), frames, chunks)
}

/// Messages to send now.
#[derive(Debug)]
pub struct Messages<'a> {
    messages: &'a mut [libc::mmsghdr],
    counts: &'a [(u32, u16)],
}

impl Messages<'_> {
    /// The number of messages, at least one.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// One `sendmmsg` of the messages from number `first` on, at most `at_once` of them, which does
    /// not wait. Returns how many the kernel took, at least one.
    ///
    /// # Errors
    ///
    /// The kernel's refusal of message number `first`.
    #[inline]
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        first: usize,
        at_once: usize,
    ) -> Result<usize, Errno> {
        let messages = self.messages.get_mut(first..).unwrap_or_default();
        let count = messages.len().min(at_once);
        // SAFETY: `Queue::push` has set every pointer, to parts that are valid until the queue has
        // been handed over.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        match Errno::result(sent)? {
            // The kernel never returns this; treated as a refusal, it cannot become an endless
            // loop.
            0 => Err(Errno::EIO),
            sent => Ok(sent as usize),
        }
    }

    /// The parts of message number `at`; none if there is no such message.
    pub(super) fn parts(&self, at: usize) -> impl Iterator<Item = &[u8]> + Clone {
        let parts = self.messages.get(at).map_or(&[][..], |message| {
            // SAFETY: `Queue::push` has set pointer and length, to parts of the queue that stay
            // until it has been handed over.
            unsafe {
                std::slice::from_raw_parts(message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen)
            }
        });
        // SAFETY: as above; the bytes of a part stay as long, as the caller of `Queue::push`
        // promised.
        parts.iter().map(|part| unsafe {
            std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len)
        })
    }

    /// For each of the `count` messages from number `first` on, its output and its number of
    /// frames.
    #[inline]
    pub(super) fn frames(
        &self,
        first: usize,
        count: usize,
    ) -> impl Iterator<Item = (u32, u64)> + '_ {
        let counts = self.counts.iter().skip(first).take(count);
        counts.map(|&(output, frames)| (output, u64::from(frames)))
    }
}

/// An outbox that hands full queues to `take`. Its queue is empty before and after.
#[derive(Debug)]
pub struct HandOver<'a, T> {
    /// Room for the messages.
    pub queue: &'a mut Queue,
    /// The GSO limits of the device.
    pub limits: GsoLimits,
    /// Sends the messages before it returns.
    pub take: T,
}

impl<T: FnMut(Messages<'_>)> Outbox<Chunks> for HandOver<'_, T> {
    #[inline]
    fn limits(&self) -> GsoLimits {
        self.limits
    }

    #[inline]
    unsafe fn post<'a, W, F>(&mut self, message: Message<W, F>, chunks: &'a Chunks)
    where
        W: FnOnce(&mut VnetHeader) -> usize,
        F: Iterator<Item = &'a Frame<<Chunks as Memory>::Place>> + Clone,
    {
        if self.queue.is_full() {
            self.queue.hand_over(&mut self.take);
        }
        // SAFETY: the payloads stay until `finish` has handed the queue over.
        unsafe { self.queue.push(message, chunks) };
    }

    #[inline]
    fn finish(&mut self) {
        self.queue.hand_over(&mut self.take);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{
        batch::fixture::{Numbered, PAYLOAD_AT, numbered},
        gso_packets::InRun,
        xdp::umem::Chunk,
    };

    fn frames(chunks: &mut Chunks, numbers: Range<u8>) -> Vec<Frame<Chunk>> {
        let mut frame = |number: u8| {
            let Numbered { bytes, received } = numbered(number);
            let mut chunk = chunks.take().unwrap();
            chunks.put(&mut chunk, &bytes);
            Frame::new(chunk, received, 0, PAYLOAD_AT)
        };
        numbers.map(&mut frame).collect()
    }

    /// Output, number of frames, number of parts, and all payloads.
    type Seen = (Option<(u32, u64)>, usize, Vec<u8>);

    fn look(messages: &Messages<'_>, seen: &mut Vec<Seen>) {
        for at in 0..messages.len() {
            let parts = messages.parts(at).skip(1);
            let payloads = parts.clone().flatten().copied().collect();
            seen.push((messages.frames(at, 1).next(), parts.count(), payloads));
        }
    }

    /// What `queue` hands over of these messages, each of one of two runs, and whether it repeats
    /// the one before it. Each may be followed by `may_follow` more with the same payloads.
    fn handed_over(
        mut queue: Queue,
        may_follow: usize,
        messages: impl Iterator<Item = (usize, bool)> + Clone,
    ) -> Vec<Seen> {
        let mut chunks = Chunks::new(2048, 8, 0).unwrap();
        let runs = [frames(&mut chunks, 0..2), frames(&mut chunks, 2..5)];
        let mut seen = Vec::new();
        for (number, (run, repeats)) in (0..).zip(messages.clone()) {
            let mut outbox = HandOver {
                queue: &mut queue,
                limits: GsoLimits::default(),
                take: |messages: Messages<'_>| look(&messages, &mut seen),
            };
            let message = Message {
                output: number,
                count: runs[run].len() as u16,
                write: |vnet_header: &mut VnetHeader| vnet_header.single(|_| 42),
                frames: runs[run].iter(),
                in_run: InRun {
                    repeats,
                    may_follow,
                },
            };
            // SAFETY: nothing writes into the chunks before the test ends.
            unsafe { outbox.post(message, &chunks) };
        }
        queue.hand_over(|messages| look(&messages, &mut seen));
        assert_eq!(seen.len(), messages.clone().count());
        for ((number, (run, _)), (counts, _, payloads)) in (0..).zip(messages).zip(&seen) {
            let expected = [&[0, 1][..], &[2, 3, 4]][run];
            let all = expected.iter().flat_map(|&byte| [byte; 100]);
            assert_eq!(*payloads, all.collect::<Vec<_>>(), "message {number}");
            assert_eq!(*counts, Some((number, expected.len() as u64)));
        }
        seen
    }

    /// Messages of both runs in turns, more than the queue has room for.
    fn in_turns() -> impl Iterator<Item = (usize, bool)> + Clone {
        (0..MESSAGES).flat_map(|_| [(0, false), (0, true), (1, false)])
    }

    #[test]
    fn messages_repeat_the_one_before_them_also_when_that_has_been_handed_over() {
        let seen = handed_over(Queue::default(), 0, in_turns());
        assert!(seen.iter().all(|(_, parts, _)| *parts > 1));
    }

    #[test]
    fn payloads_that_several_messages_have_are_one_piece_as_long_as_one_is_free() {
        let seen = handed_over(Queue::with_pieces(), 7, in_turns());
        let joined = seen.iter().filter(|(_, parts, _)| *parts == 1).count();
        // One for each of ten runs of twenty-two, and again after each hand-over.
        assert!((MESSAGES..3 * MESSAGES).contains(&joined), "{joined}");
        let few = handed_over(Queue::with_pieces(), 2, in_turns());
        assert!(few.iter().all(|(_, parts, _)| *parts > 1), "not worth it");
    }

    #[test]
    fn a_piece_that_was_handed_over_is_not_overwritten_while_messages_repeat_it() {
        let full = (0..MESSAGES).map(|at| (0, at > 0));
        let messages = full.chain([(0, true), (1, false), (1, true)]);
        let seen = handed_over(Queue::with_pieces(), 7, messages);
        assert!(seen.iter().all(|(_, parts, _)| *parts == 1));
    }
}
