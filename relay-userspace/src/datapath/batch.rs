//! The frames of one receive batch: decoded, looked up, and sorted into runs.
//!
//! A [`Run`] may leave as one GSO packet: datagrams of one flow, in the order of their arrival,
//! equal in length (the last may be shorter) and in every header field that no output sets. Runs of
//! a flow follow each other in the order of their first datagrams, and a datagram joins only the
//! last run of its sender. So sending the runs in order keeps the order of every sender of every
//! flow, whichever came in between.

use std::{ops::Range, vec::Drain};

use relay_common::wire::Tag;

use super::{
    flow_table::Flows,
    open_runs::{Entry, OpenRuns},
    stats::WorkerStats,
};
use crate::packet::{HEADERS_ROOM, Kept, Received};

/// The most datagrams in a run: more saves nothing measurable, and this many of 1000 bytes still
/// fit into the second-level cache.
pub const MAX_JOINED: usize = 64;
/// The most parts of a message: one for the headers, and one for each payload.
pub const MAX_PARTS: usize = 1 + MAX_JOINED;
/// The most bytes of payload in a run: the GSO packet, its headers included, stays below 64 KiB,
/// the most that devices promise to cut apart (`GSO_LEGACY_MAX_SIZE`,
/// include/linux/netdevice.h).
const MAX_PAYLOAD: u32 = 65_535 - HEADERS_ROOM as u32;
/// How many senders of a flow, told apart by their source ports, may take turns: each has a run of
/// its own. More would make every datagram of a flow with many senders look for its own among more
/// runs.
const SENDERS: usize = 4;
/// Frames per flow that make runs long enough: more saves less than it costs to hold them.
const ENOUGH: usize = MAX_JOINED / 2;
/// No position.
const NONE: u32 = u32::MAX;

/// The memory that frames are received into, and how a worker names a place in it.
pub trait Memory {
    /// A place in it, owned by the value.
    type Place: std::fmt::Debug;
    /// Where a received frame starts in its place, in bytes. Every place that shares memory with
    /// others, as datagrams of one GSO packet do, starts with the same headers.
    const FRAME_AT: usize = 0;

    /// The bytes in `range` of `place`; empty if the range leaves the place.
    fn bytes<'a>(&'a self, place: &'a Self::Place, range: Range<usize>) -> &'a [u8];

    /// The outermost tag of the frame in `place`, if the kernel keeps it beside the frame.
    fn beside(&self, _place: &Self::Place) -> Option<Tag> {
        None
    }
}

/// The frames of one receive batch that belong to a flow. `P` is a [`Memory::Place`].
#[derive(Debug)]
pub struct Batch<P> {
    /// Its capacity is the largest batch, so it never grows.
    frames: Vec<Frame<P>>,
    /// Its capacity is the largest batch: in the worst case every frame is a run of its own.
    runs: Vec<Run>,
    open: OpenRuns,
    /// How many entries of [`Self::open`] have a run.
    apart: usize,
    /// By position of the frame, for flows some of whose copies keep it.
    kept: Box<[Kept]>,
}

/// One datagram.
#[derive(Debug)]
pub struct Frame<P> {
    /// Where it is.
    pub place: P,
    /// The header fields and checksum that all its copies are made from.
    pub received: Received,
    /// Its flow.
    pub flow: u32,
    /// Where its payload starts, in bytes from the start of its place.
    payload: u32,
    /// The position of the next frame of its run, or `NONE`.
    next: u32,
}

impl<P> Frame<P> {
    /// A datagram of `flow` whose payload starts at `payload`, in bytes from the start of `place`.
    #[inline]
    pub fn new(place: P, received: Received, flow: u32, payload: usize) -> Self {
        Self {
            place,
            received,
            flow,
            payload: payload as u32,
            next: NONE,
        }
    }

    /// Its payload.
    #[inline]
    pub fn payload<'a, M: Memory<Place = P>>(&'a self, memory: &'a M) -> &'a [u8] {
        let start = self.payload as usize;
        memory.bytes(&self.place, start..self.end())
    }

    /// Length of its payload in bytes, without padding.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        self.received.payload_len()
    }

    /// Where its payload starts, in bytes from the start of its place.
    #[inline]
    pub(super) fn payload_at(&self) -> usize {
        self.payload as usize
    }

    /// Where its payload ends, in bytes from the start of its place.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.payload as usize + usize::from(self.payload_len())
    }
}

/// Frames that may leave as one GSO packet.
#[derive(Debug)]
pub struct Run {
    /// Their flow.
    pub flow: u32,
    entry: Entry,
    /// How many frames it has.
    pub count: u16,
    /// Bytes of payload of all its frames.
    pub payload_len: u16,
    /// The first of its flow's socket outputs that it has not been sent through.
    pub socket_output: usize,
    first: u32,
    last: u32,
    /// The run of its entry before it, or `NONE`.
    before: u32,
    /// Whether another frame may join it.
    open: bool,
    /// Whether its frames' checksums have been checked and are right.
    vouched: bool,
}

impl<P> Batch<P> {
    /// Room for `size` frames of the flows of `open`.
    pub fn new(size: usize, open: OpenRuns) -> Self {
        Self {
            frames: Vec::with_capacity(size),
            runs: Vec::with_capacity(size),
            open,
            apart: 0,
            kept: vec![Kept::default(); size].into(),
        }
    }

    /// Replaces the number of flows, between two batches: takes `open`, and puts its own there.
    pub(super) fn resize(&mut self, open: &mut OpenRuns) {
        std::mem::swap(&mut self.open, open);
    }

    /// Whether [`Batch::end`] must be called before the next frame.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.frames.len() == self.frames.capacity()
    }

    /// Whether runs would be longer, by enough to be worth it, if `more` frames were added, for
    /// which there is room.
    #[inline]
    pub fn wants(&self, more: usize) -> bool {
        self.frames.len() < self.apart * ENOUGH
            && self.frames.len() + more <= self.frames.capacity()
    }

    /// Notes what some copies keep of the next frame, if any keeps something, and returns whether
    /// one does.
    #[inline(never)]
    pub fn keep(&mut self, kept: Option<Kept>) -> bool {
        match (kept, self.kept.get_mut(self.frames.len())) {
            (Some(kept), Some(of_frame)) => {
                *of_frame = kept;
                true
            }
            _ => false,
        }
    }

    /// Adds a frame. `keeps` is whether [`Self::keep`] has noted something for it. The batch must
    /// not be full.
    #[inline]
    pub fn add<M: Memory<Place = P>>(
        &mut self,
        frame: Frame<P>,
        keeps: bool,
        memory: &M,
        flows: &Flows,
        stats: &WorkerStats,
    ) {
        #[cfg(feature = "poison-chunks")]
        super::trap::spring(frame.payload(memory));
        let flow = frame.flow;
        let at = self.push(frame, stats);
        if keeps {
            self.join_kept(at, flow, memory, flows);
        } else if !flows.socket_outputs(flow).is_empty() {
            self.join::<true, _>(at, Entry::of_flow(flow), memory);
        }
    }

    /// Puts the frame at `at`, of which some copies keep something, into a run. Out of line: few
    /// rule files have such flows.
    #[inline(never)]
    fn join_kept<M: Memory<Place = P>>(&mut self, at: u32, flow: u32, memory: &M, flows: &Flows) {
        let kept = KeptOf(&self.kept).frame(at);
        if flows.socket_outputs(flow).is_empty() {
            return;
        }
        let (runs, all) = (&self.runs, KeptOf(&self.kept));
        let of_run = |run: usize| {
            let run = runs.get(run).filter(|run| run.flow == flow);
            run.map(|run| all.frame(run.first))
        };
        let entry = if flows.keeps_apart(flow) {
            let is_there = |run| of_run(run).is_some_and(|other| other.offset == kept.offset);
            self.open.entry_at_offset(flow, kept.offset, is_there)
        } else {
            Entry::of_flow(flow)
        };
        let run = self.open.get(entry);
        if of_run(run) != Some(kept)
            && let Some(run) = self.runs.get_mut(run)
        {
            run.open = false;
        }
        // Of another run, it is not known what its frames keep.
        self.join::<false, _>(at, entry, memory);
    }

    /// Counts a frame and appends it. Returns its position.
    #[inline]
    fn push(&mut self, frame: Frame<P>, stats: &WorkerStats) -> u32 {
        stats.matched.add(1);
        if let Some(flow) = stats.flows.get(frame.flow as usize) {
            flow.matched.add(1);
            flow.bytes.add(frame.payload_len().into());
        }
        let at = self.frames.len() as u32;
        self.frames.push(frame);
        at
    }

    /// Puts the frame at `at` into the last run of `entry`, with `SENDERS_APART` into the last one
    /// of its sender, or into a new one.
    #[inline]
    fn join<const SENDERS_APART: bool, M: Memory<Place = P>>(
        &mut self,
        at: u32,
        entry: Entry,
        memory: &M,
    ) {
        let Some(frame) = self.frames.get(at as usize) else {
            return;
        };
        let (flow, payload_len) = (frame.flow, frame.payload_len());
        let newest = self.open.get(entry);
        if let Some(run) = self.runs.get_mut(newest) {
            if run.open && run.takes(frame, &self.frames, memory) {
                run.append(at, payload_len, &mut self.frames);
                return;
            }
            if SENDERS_APART && self.join_before(newest, at, memory) {
                return;
            }
        }
        self.open.set(entry, self.runs.len());
        self.apart += usize::from(newest >= self.runs.len());
        self.runs.push(Run {
            flow,
            entry,
            count: 1,
            payload_len,
            socket_output: 0,
            first: at,
            last: at,
            before: newest as u32,
            open: true,
            vouched: false,
        });
    }

    /// Puts the frame at `at` into the last run of its sender, if that is among the few before
    /// `newest`, the flow's last one, which has not taken it. Returns whether it did. Out of line:
    /// most flows have one sender.
    #[inline(never)]
    fn join_before<M: Memory<Place = P>>(&mut self, newest: usize, at: u32, memory: &M) -> bool {
        let Some(frame) = self.frames.get(at as usize) else {
            return false;
        };
        let payload_len = frame.payload_len();
        let mut next = newest;
        for _ in 0..SENDERS {
            let Some(run) = self.runs.get_mut(next) else {
                return false;
            };
            if run.is_of_sender_of(frame, &self.frames) {
                let takes = next != newest && run.open && run.takes(frame, &self.frames, memory);
                if takes {
                    run.append(at, payload_len, &mut self.frames);
                }
                return takes;
            }
            next = run.before as usize;
        }
        false
    }

    /// All frames, in the order of their arrival.
    #[inline]
    pub(super) fn frames(&self) -> &[Frame<P>] {
        &self.frames
    }

    /// The runs, in order, and the frames they refer to.
    #[inline]
    pub fn runs(&mut self) -> (&mut [Run], Frames<'_, P>) {
        let frames = Frames {
            frames: &self.frames,
            kept: KeptOf(&self.kept),
        };
        (&mut self.runs, frames)
    }

    /// Ends the batch: hands out its frames in the order of their arrival, and what is kept of them
    /// by their positions in this order.
    #[inline]
    pub fn end(&mut self) -> (Drain<'_, Frame<P>>, KeptOf<'_>) {
        for run in self.runs.drain(..) {
            self.open.clear(run.entry);
        }
        self.apart = 0;
        (self.frames.drain(..), KeptOf(&self.kept))
    }
}

impl Run {
    /// Whether `frame` may leave right behind the last one. Closes the run if no frame can follow
    /// any more.
    #[inline]
    fn takes<P, M: Memory<Place = P>>(
        &mut self,
        frame: &Frame<P>,
        frames: &[Frame<P>],
        memory: &M,
    ) -> bool {
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
        // Cutting a GSO packet computes checksums anew, and would hide a damaged payload.
        self.vouched = self.vouched || fits && first.received.checksum_ok(first.payload(memory));
        let takes = fits && self.vouched && frame.received.checksum_ok(frame.payload(memory));
        self.open = match takes {
            true => len == first.payload_len(),
            // The sender of the run goes on behind another one's datagram.
            false => !first.received.has_port_of(&frame.received),
        };
        takes
    }

    /// Adds the frame at `at`.
    #[inline]
    fn append<P>(&mut self, at: u32, payload_len: u16, frames: &mut [Frame<P>]) {
        self.count += 1;
        self.payload_len += payload_len;
        let last = std::mem::replace(&mut self.last, at);
        if let Some(last) = frames.get_mut(last as usize) {
            last.next = at;
        }
    }

    /// Whether `frame` came from the port that its frames came from.
    fn is_of_sender_of<P>(&self, frame: &Frame<P>, frames: &[Frame<P>]) -> bool {
        let first = frames.get(self.first as usize);
        first.is_some_and(|first| first.received.has_port_of(&frame.received))
    }

    /// Its frames, in order.
    #[inline]
    pub fn frames<'a, P>(
        &self,
        frames: Frames<'a, P>,
    ) -> impl Iterator<Item = &'a Frame<P>> + Clone + use<'a, P> {
        let mut next = self.first;
        std::iter::from_fn(move || {
            let frame = frames.frames.get(next as usize)?;
            next = frame.next;
            Some(frame)
        })
    }

    /// What is kept of its frames. Of a flow whose copies keep nothing, any.
    #[inline]
    pub fn kept<P>(&self, frames: Frames<'_, P>) -> Kept {
        frames.kept.frame(self.first)
    }
}

/// The frames that runs refer to.
#[derive(Debug)]
pub struct Frames<'a, P> {
    frames: &'a [Frame<P>],
    kept: KeptOf<'a>,
}

// Not derived: a place need not be `Copy`.
impl<P> Clone for Frames<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Frames<'_, P> {}

/// What some copies keep of each frame of a batch, by the frame's position. Of a flow whose copies
/// keep nothing, any.
#[derive(Debug, Clone, Copy)]
pub struct KeptOf<'a>(&'a [Kept]);

impl KeptOf<'_> {
    /// That of a frame.
    #[inline]
    #[must_use]
    pub fn frame(self, frame: u32) -> Kept {
        self.0.get(frame as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
pub mod fixture;
#[cfg(test)]
mod tests;
