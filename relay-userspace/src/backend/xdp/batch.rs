//! What one receive batch brought: decoded, looked up, and sorted into runs.
//!
//! A [`Run`] is what may leave as one super-frame: datagrams of one flow, in the order in which they came,
//! equal in length (the last may be shorter) and in every header field that no output sets. Runs of a flow
//! follow each other in the order of their first datagrams. So whoever sends the runs in order keeps the
//! order of every flow, whatever other flows came between.

use relay_common::{
    abi::FlowKey,
    wire::{self, IPV4_HEADERS_LEN},
};

use super::{
    flows::Flows,
    umem::{Chunk, Chunks},
};
use crate::{
    rewrite::Received,
    stats::{Dropped, WorkerStats},
};

/// The most datagrams in a run: more saves nothing measurable, and this many of 1000 bytes still fit
/// into the second-level cache.
pub const MAX_JOINED: usize = 64;
/// The most bytes of payload in a run: the super-frame, Ethernet header included, stays below 64 KiB, which
/// is as much as devices promise to cut apart (`GSO_LEGACY_MAX_SIZE`, include/linux/netdevice.h).
const MAX_PAYLOAD: u32 = 65_535 - IPV4_HEADERS_LEN as u32;
/// How many frames ahead the headers are fetched: far enough for a miss of all caches.
const AHEAD: usize = 8;
/// No position.
const NONE: u32 = u32::MAX;

/// The frames of one receive batch that belong to a flow.
#[derive(Debug)]
pub struct Batch {
    /// Its capacity is the largest batch, so it never grows.
    frames: Vec<Frame>,
    /// Its capacity is the largest batch: in the worst case every frame is a run of its own.
    runs: Vec<Run>,
    /// By flow: the position of its last run, or `NONE`.
    open: Box<[u32]>,
}

/// One frame.
#[derive(Debug)]
pub struct Frame {
    /// Where it is.
    pub chunk: Chunk,
    /// What its outputs have in common.
    pub received: Received,
    /// Its flow.
    pub flow: u32,
    /// Where its payload starts, in bytes from the start of the frame.
    payload: u16,
    /// Where it ends, padding left out.
    end: u16,
    /// The position of the next frame of its run, or `NONE`.
    next: u32,
}

impl Frame {
    /// Its payload.
    #[inline]
    pub fn payload<'a>(&'a self, chunks: &'a Chunks) -> &'a [u8] {
        let range = usize::from(self.payload)..usize::from(self.end);
        chunks.frame(&self.chunk).get(range).unwrap_or(&[])
    }

    /// Length of its payload in bytes.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        self.end - self.payload
    }

    /// Length of the frame in bytes, padding left out.
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.end)
    }
}

/// Frames that may leave as one super-frame.
#[derive(Debug)]
pub struct Run {
    /// Their flow.
    pub flow: u32,
    /// How many they are.
    pub count: u16,
    /// Bytes of payload of all of them.
    pub payload_len: u16,
    /// The next of its flow's legs to send it by.
    pub leg: usize,
    first: u32,
    last: u32,
    /// Whether one more may join it.
    open: bool,
    /// Whether its frames' checksums are known to be right.
    vouched: bool,
}

impl Batch {
    /// Room for `size` frames of so many flows.
    pub fn new(size: usize, flows: usize) -> Self {
        Self {
            frames: Vec::with_capacity(size),
            runs: Vec::with_capacity(size),
            open: vec![NONE; flows].into(),
        }
    }

    /// Takes all frames of `received`, which came in by `interface` (the kernel's index), the last one first: into the
    /// batch, or counts why not and gives the chunk back.
    #[inline]
    pub fn add_all(
        &mut self,
        interface: u32,
        received: &mut Vec<Chunk>,
        chunks: &mut Chunks,
        flows: &mut Flows,
        stats: &WorkerStats,
    ) {
        while let Some(chunk) = received.pop() {
            let ahead = received.len().checked_sub(AHEAD);
            if let Some(ahead) = ahead.and_then(|ahead| received.get(ahead)) {
                chunks.prefetch(ahead);
            }
            self.add(interface, chunk, chunks, flows, stats);
        }
    }

    /// Takes the frame in `chunk`.
    #[inline]
    fn add(
        &mut self,
        interface: u32,
        mut chunk: Chunk,
        chunks: &mut Chunks,
        flows: &mut Flows,
        stats: &WorkerStats,
    ) {
        stats.received.add(1);
        let frame = chunks.frame(&chunk);
        let Ok(datagram) = wire::decode(frame) else {
            stats.drops.add(Dropped::Malformed, 1);
            chunks.give_back(chunk);
            return;
        };
        let Some(flow) = flows.look_up(FlowKey::new(interface, &datagram)) else {
            stats.drops.add(Dropped::NoRule, 1);
            chunks.give_back(chunk);
            return;
        };
        let Some(received) = Received::read(frame, &datagram) else {
            stats.drops.add(Dropped::Malformed, 1);
            chunks.give_back(chunk);
            return;
        };
        stats.matched.add(1);
        if let Some(matched) = stats.flows.get(flow as usize) {
            matched.add(1);
        }
        chunks.truncate(&mut chunk, datagram.end());
        let at = self.frames.len() as u32;
        self.frames.push(Frame {
            chunk,
            received,
            flow,
            payload: datagram.payload() as u16,
            end: datagram.end() as u16,
            next: NONE,
        });
        if !flows.legs(flow).is_empty() {
            self.join(at, chunks);
        }
    }

    /// Puts the frame at `at` into its flow's last run, or into a new one.
    #[inline]
    fn join(&mut self, at: u32, chunks: &Chunks) {
        let Some(frame) = self.frames.get(at as usize) else {
            return;
        };
        let (flow, payload_len) = (frame.flow, frame.payload_len());
        let Some(open) = self.open.get_mut(flow as usize) else {
            return;
        };
        if let Some(run) = self.runs.get_mut(*open as usize)
            && run.open
            && run.takes(frame, &self.frames, chunks)
        {
            run.count += 1;
            run.payload_len += payload_len;
            let last = std::mem::replace(&mut run.last, at);
            if let Some(last) = self.frames.get_mut(last as usize) {
                last.next = at;
            }
            return;
        }
        *open = self.runs.len() as u32;
        self.runs.push(Run {
            flow,
            count: 1,
            payload_len,
            leg: 0,
            first: at,
            last: at,
            open: true,
            vouched: false,
        });
    }

    /// The runs, in order, and the frames they refer to.
    #[inline]
    pub fn runs(&mut self) -> (&mut [Run], Frames<'_>) {
        (&mut self.runs, Frames(&self.frames))
    }

    /// Ends the batch: hands out its frames in the order in which they came.
    #[inline]
    pub fn end(&mut self) -> impl Iterator<Item = Frame> + '_ {
        for run in self.runs.drain(..) {
            if let Some(open) = self.open.get_mut(run.flow as usize) {
                *open = NONE;
            }
        }
        self.frames.drain(..)
    }
}

impl Run {
    /// Whether `frame` may leave right behind the last one. Closes the run where nothing can follow any more.
    #[inline]
    fn takes(&mut self, frame: &Frame, frames: &[Frame], chunks: &Chunks) -> bool {
        let (Some(first), Some(last)) = (
            frames.get(self.first as usize),
            frames.get(self.last as usize),
        ) else {
            return false;
        };
        let len = frame.payload_len();
        let fits = len > 0
            && len <= first.payload_len()
            && usize::from(self.count) < MAX_JOINED
            && u32::from(self.payload_len) + u32::from(len) <= MAX_PAYLOAD
            && last.received.is_followed_by(&frame.received);
        // Cutting apart computes checksums anew, and would repair a damaged payload.
        self.vouched = self.vouched || fits && first.received.vouches_for(first.payload(chunks));
        let takes = fits && self.vouched && frame.received.vouches_for(frame.payload(chunks));
        self.open = takes && len == first.payload_len();
        takes
    }

    /// Its frames, in order.
    #[inline]
    pub fn frames<'a>(&self, frames: Frames<'a>) -> impl Iterator<Item = &'a Frame> + use<'a> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            let frame = frames.0.get(next as usize)?;
            next = frame.next;
            Some(frame)
        })
    }
}

/// The frames that runs refer to.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a>(&'a [Frame]);
