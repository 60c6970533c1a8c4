//! From runs to messages: one super-frame an output for each run of a batch.
//!
//! The messages of one interface follow each other, whatever flows they are of, and nothing is kept for the
//! next batch. No system call is made here: an [`Outbox`] takes the messages.

use relay_common::wire::IPV4_HEADERS_LEN;

use super::{
    batch::{Batch, Frame, Frames, Memory, Run},
    flows::{Flows, Leg},
    head::Head,
};
use crate::{
    nic::GsoLimits,
    stats::{Dropped, WorkerStats},
};

/// What sends the messages of one interface.
pub trait Outbox<M: Memory> {
    /// Within what every message of more than one frame must stay.
    fn limits(&self) -> GsoLimits;

    /// Takes a message of `count` frames of `output`: `write` fills in the head, the payloads of `frames`, at most
    /// [`super::batch::MAX_JOINED`], follow it. Every frame counts as sent, or under the reason why not.
    ///
    /// # Safety
    ///
    /// The payloads must stay where they are, and unwritten, until [`Outbox::finish`] has returned, and for as long
    /// after it as the outbox holds on to their places.
    unsafe fn post<'a>(
        &mut self,
        output: u32,
        count: u16,
        write: impl FnOnce(&mut Head),
        frames: impl Iterator<Item = &'a Frame<M::Place>> + Clone,
        memory: &'a M,
    ) where
        M::Place: 'a;

    /// Ends the messages of a batch.
    fn finish(&mut self);
}

/// Makes the messages of all runs of `batch` for the legs of one sender, and posts them to its `outbox`. Once a batch
/// and sender, in the senders' order.
#[inline]
pub fn make<M: Memory>(
    sender: usize,
    batch: &mut Batch<M::Place>,
    flows: &Flows,
    memory: &M,
    stats: &WorkerStats,
    outbox: &mut impl Outbox<M>,
) {
    let (runs, frames) = batch.runs();
    let limits = outbox.limits();
    for run in runs {
        let legs = flows.legs(run.flow).get(run.leg..).unwrap_or(&[]);
        let mine = legs.partition_point(|leg| leg.sender == sender);
        run.leg += mine;
        let Some(first) = run.frames(frames).next().filter(|_| mine > 0) else {
            continue;
        };
        let copies = Copies {
            run,
            frames,
            first,
            // Here once, and not once a leg: it may read the payload.
            udp_sum: (run.count == 1)
                .then(|| first.received.udp_sum(first.payload(memory)))
                .flatten(),
            fits: limits.take(run.count, IPV4_HEADERS_LEN + usize::from(run.payload_len)),
            limits,
            memory,
        };
        for leg in legs.iter().take(mine) {
            copies.post(leg, outbox, stats);
        }
    }
    outbox.finish();
}

/// A run, and what its copies have in common.
struct Copies<'a, M: Memory> {
    run: &'a Run,
    frames: Frames<'a, M::Place>,
    first: &'a Frame<M::Place>,
    /// The first frame's, where it is the only one.
    udp_sum: Option<u32>,
    /// Whether one message can have all of them.
    fits: bool,
    limits: GsoLimits,
    memory: &'a M,
}

impl<M: Memory> Copies<'_, M> {
    /// Posts the run's copy for one leg, or counts why not.
    #[inline]
    fn post(&self, leg: &Leg, outbox: &mut impl Outbox<M>, stats: &WorkerStats) {
        let (run, received) = (self.run, &self.first.received);
        let Some(ttl) = leg.template.ttl(received) else {
            count(leg, Dropped::TtlExpired, run.count, stats);
            return;
        };
        if self.first.len() > leg.max_len || (run.count > 1 && !leg.joins) {
            self.post_apart(leg, ttl, outbox, stats);
            return;
        }
        if run.count == 1 {
            self.post_one(self.first, self.udp_sum, leg, ttl, outbox);
            return;
        }
        if !self.fits {
            self.post_in_parts(leg, ttl, outbox);
            return;
        }
        let write = |head: &mut Head| {
            let headers = head.joined(self.first.payload_len());
            leg.template
                .write_joined(headers, received, ttl, run.payload_len);
        };
        let frames = run.frames(self.frames);
        // SAFETY: the batch is borrowed until `make` has finished the outbox, and gives its places back one by one
        // after that.
        unsafe { outbox.post(leg.output, run.count, write, frames, self.memory) };
    }

    #[inline]
    fn post_one(
        &self,
        frame: &Frame<M::Place>,
        udp_sum: Option<u32>,
        leg: &Leg,
        ttl: u8,
        outbox: &mut impl Outbox<M>,
    ) {
        let write = |head: &mut Head| {
            leg.template
                .write(head.single(), &frame.received, ttl, udp_sum);
        };
        // SAFETY: as above.
        unsafe { outbox.post(leg.output, 1, write, std::iter::once(frame), self.memory) };
    }

    /// As several messages, each with as many frames as the device takes in one.
    #[cold]
    fn post_in_parts(&self, leg: &Leg, ttl: u8, outbox: &mut impl Outbox<M>) {
        let size = usize::from(self.first.payload_len());
        let most = self.limits.frames_of(IPV4_HEADERS_LEN, size);
        let (mut frames, mut left) = (self.run.frames(self.frames), self.run.payload_len);
        while let Some(first) = frames.clone().next() {
            let part = frames.clone().take(most);
            // Only the last frame of a run may be shorter.
            let count = usize::from(left).div_ceil(size).clamp(1, most) as u16;
            let payload_len = left.min(count.saturating_mul(size as u16));
            if count == 1 {
                let udp_sum = first.received.udp_sum(first.payload(self.memory));
                self.post_one(first, udp_sum, leg, ttl, outbox);
            } else {
                let write = |head: &mut Head| {
                    let headers = head.joined(first.payload_len());
                    leg.template
                        .write_joined(headers, &first.received, ttl, payload_len);
                };
                // SAFETY: as above.
                unsafe { outbox.post(leg.output, count, write, part, self.memory) };
            }
            left -= payload_len;
            frames.by_ref().take(most).for_each(drop);
        }
    }

    /// One by one: for a leg that takes no super-frames, and for a run whose first datagram is too big for the leg, of
    /// which only the last one may be shorter.
    fn post_apart(&self, leg: &Leg, ttl: u8, outbox: &mut impl Outbox<M>, stats: &WorkerStats) {
        for frame in self.run.frames(self.frames) {
            if frame.len() > leg.max_len {
                count(leg, Dropped::TooBig, 1, stats);
            } else {
                let udp_sum = frame.received.udp_sum(frame.payload(self.memory));
                self.post_one(frame, udp_sum, leg, ttl, outbox);
            }
        }
    }
}

#[inline]
fn count(leg: &Leg, reason: Dropped, frames: u16, stats: &WorkerStats) {
    if let Some(output) = stats.outputs.get(leg.output as usize) {
        output.drops.add(reason, u64::from(frames));
    }
}
