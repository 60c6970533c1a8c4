//! All packet sockets of a worker, and what they have in common: the memory of their messages.
//!
//! What came in one batch has left, or is counted, when [`Senders::send`] returns.

use std::sync::Arc;

use super::{
    SetupError, batch::Batch, copies, flows::Flows, messages::Queue, segmented::Sender,
    umem::Chunks,
};
use crate::{
    device_drops::Cut,
    plan::{self, Plan},
    stats::WorkerStats,
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
            queue: Queue::default(),
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
        for (number, sender) in senders.iter_mut().enumerate() {
            copies::make(number, batch, flows, chunks, stats, queue, |messages| {
                sender.send(messages, &stats.outputs);
            });
        }
    }
}
