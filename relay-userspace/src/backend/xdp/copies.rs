//! From runs to messages: one super-frame an output for each run of a batch.
//!
//! The messages of one interface are handed over together, whatever flows they are of, and nothing is kept for the
//! next batch. No system call is made here: whoever takes the messages sends them.

use super::{
    batch::{Batch, Frame, Frames, Run},
    flows::{Flows, Leg},
    messages::{Head, Messages, Queue},
    umem::Chunks,
};
use crate::stats::{Dropped, WorkerStats};

/// Makes the messages of all runs of `batch` for the legs of one sender, and hands them to `send` as `queue`, which
/// is empty before and after, fills up. Once a batch and sender, in the senders' order.
#[inline]
pub fn make(
    sender: usize,
    batch: &mut Batch,
    flows: &Flows,
    chunks: &Chunks,
    stats: &WorkerStats,
    queue: &mut Queue,
    mut send: impl FnMut(Messages<'_>),
) {
    let (runs, frames) = batch.runs();
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
                .then(|| first.received.udp_sum(first.payload(chunks)))
                .flatten(),
            chunks,
        };
        for leg in legs.iter().take(mine) {
            if queue.is_full() {
                queue.hand_over(&mut send);
            }
            copies.queue(leg, queue, stats);
        }
    }
    queue.hand_over(send);
}

/// A run, and what its copies have in common.
struct Copies<'a> {
    run: &'a Run,
    frames: Frames<'a>,
    first: &'a Frame,
    /// The first frame's, where it is the only one.
    udp_sum: Option<u32>,
    chunks: &'a Chunks,
}

impl Copies<'_> {
    /// Queues the run's copy for one leg, or counts why not. The queue must not be full.
    #[inline]
    fn queue(&self, leg: &Leg, queue: &mut Queue, stats: &WorkerStats) {
        let (run, received) = (self.run, &self.first.received);
        let Some(ttl) = leg.template.ttl(received) else {
            count(leg, Dropped::TtlExpired, run.count, stats);
            return;
        };
        if self.first.len() > leg.max_len {
            self.queue_fitting(leg, ttl, queue, stats);
            return;
        }
        if run.count == 1 {
            self.queue_one(self.first, self.udp_sum, leg, ttl, queue);
            return;
        }
        let write = |head: &mut Head| {
            let headers = head.joined(self.first.payload_len());
            leg.template
                .write_joined(headers, received, ttl, run.payload_len);
        };
        let payloads = run.frames(self.frames);
        let payloads = payloads.map(|frame| frame.payload(self.chunks));
        // SAFETY: the payloads are in chunks of the batch, which is borrowed until the queue has been handed over.
        unsafe { queue.push(leg.output, run.count, write, payloads) };
    }

    #[inline]
    fn queue_one(
        &self,
        frame: &Frame,
        udp_sum: Option<u32>,
        leg: &Leg,
        ttl: u8,
        queue: &mut Queue,
    ) {
        let write = |head: &mut Head| {
            leg.template
                .write(head.single(), &frame.received, ttl, udp_sum);
        };
        let payload = std::iter::once(frame.payload(self.chunks));
        // SAFETY: the payload is in a chunk of the batch, which is borrowed until the queue has been handed over.
        unsafe { queue.push(leg.output, 1, write, payload) };
    }

    /// The slow way of a run whose first datagram is too big for the leg: only the last one may be shorter.
    #[cold]
    fn queue_fitting(&self, leg: &Leg, ttl: u8, queue: &mut Queue, stats: &WorkerStats) {
        for frame in self.run.frames(self.frames) {
            if frame.len() > leg.max_len {
                count(leg, Dropped::TooBig, 1, stats);
            } else {
                let udp_sum = frame.received.udp_sum(frame.payload(self.chunks));
                self.queue_one(frame, udp_sum, leg, ttl, queue);
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
