//! From runs to messages: one super-frame an output for each run of a batch.
//!
//! The messages of one interface go out together, whatever flows they are of, and nothing is kept for the
//! next batch: what came in one batch has left, or is counted, when [`Senders::send`] returns.

use std::sync::Arc;

use super::{
    SetupError,
    batch::{Batch, Frame, Frames, Run},
    flows::{Flows, Leg},
    segmented::{Head, Queue, Sender},
    umem::Chunks,
};
use crate::{
    device_drops::Cut,
    plan::{self, Plan},
    stats::{Dropped, WorkerStats},
};

/// A worker's packet sockets, one an interface that copies leave by in super-frames.
#[derive(Debug)]
pub struct Senders {
    senders: Vec<Sender>,
    queue: Queue,
}

impl Senders {
    /// Opens the sockets of `worker`, in its order.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn open(plan: &Plan, worker: &plan::Worker) -> Result<Self, SetupError> {
        let interfaces = worker.segmented.iter();
        let senders = interfaces
            .filter_map(|&at| plan.interfaces.get(at))
            .map(Sender::open)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            senders,
            queue: Queue::new(),
        })
    }

    /// What each sender believes of its device, in the worker's order.
    pub fn devices(&self) -> impl Iterator<Item = Arc<Cut>> {
        self.senders.iter().map(Sender::device)
    }

    /// Sends every run of `batch` by all legs of its flow.
    #[inline]
    pub fn send(&mut self, batch: &mut Batch, flows: &Flows, chunks: &Chunks, stats: &WorkerStats) {
        let Self { senders, queue } = self;
        let (runs, frames) = batch.runs();
        for (number, sender) in senders.iter_mut().enumerate() {
            for run in &mut *runs {
                let legs = flows.legs(run.flow).get(run.leg..).unwrap_or(&[]);
                let mine = legs.partition_point(|leg| leg.sender == number);
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
                        queue.send(sender, &stats.outputs);
                    }
                    copies.queue(leg, queue, stats);
                }
            }
            queue.send(sender, &stats.outputs);
        }
    }
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
        // SAFETY: the payloads are in chunks of the batch, which is borrowed until the queue has been sent.
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
        // SAFETY: the payload is in a chunk of the batch, which is borrowed until the queue has been sent.
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
