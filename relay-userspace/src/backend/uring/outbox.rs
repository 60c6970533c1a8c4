//! Where the messages of one outlet go: into slots of its own, and onto the ring.

use std::iter;

use super::{
    buffers::{Buffers, Held},
    io::Io,
};
use crate::{
    backend::{batch::Frame, copies::Outbox, head::Head, outlet::Outlet},
    nic::GsoLimits,
    stats::{Dropped, WorkerStats},
};

/// The outbox of one outlet.
#[derive(Debug)]
pub struct Post<'a> {
    io: &'a mut Io,
    outlet: usize,
    stats: &'a WorkerStats,
    /// The outlet has looked at its device.
    begun: bool,
}

impl<'a> Post<'a> {
    /// The outbox of outlet `outlet`, for one batch.
    pub fn new(io: &'a mut Io, outlet: usize, stats: &'a WorkerStats) -> Self {
        Self {
            io,
            outlet,
            stats,
            begun: false,
        }
    }

    /// A free slot. Where there is none, what was posted is submitted, and its completions are taken.
    #[inline]
    fn slot(&mut self, buffers: &Buffers) -> Option<u32> {
        if let Some(slot) = self.io.flights.take(self.outlet) {
            return Some(slot);
        }
        self.io.enter();
        self.io.collect(buffers, self.stats);
        self.io.flights.take(self.outlet)
    }

    #[cold]
    fn drop(&self, output: u32, count: u16) {
        if let Some(output) = self.stats.outputs.get(output as usize) {
            output.drops.add(Dropped::RingFull, u64::from(count));
        }
    }
}

impl Outbox<Buffers> for Post<'_> {
    fn limits(&self) -> GsoLimits {
        let outlet = self.io.outlets.get(self.outlet);
        outlet.map(Outlet::limits_now).unwrap_or_default()
    }

    #[inline]
    unsafe fn post<'a>(
        &mut self,
        output: u32,
        count: u16,
        write: impl FnOnce(&mut Head),
        frames: impl Iterator<Item = &'a Frame<Held>> + Clone,
        buffers: &'a Buffers,
    ) {
        if let Some(outlet) = self.io.outlets.get_mut(self.outlet) {
            if !self.begun {
                self.begun = true;
                outlet.begin(&self.stats.outputs);
            }
            if outlet.waits() {
                let mut head = Head::EMPTY;
                write(&mut head);
                let parts = iter::once(head.bytes());
                let parts = parts.chain(frames.map(|frame| frame.payload(buffers)));
                outlet.wait(output, count, parts, &self.stats.outputs);
                return;
            }
        }
        let Some(slot) = self.slot(buffers) else {
            self.drop(output, count);
            return;
        };
        let flights = &mut self.io.flights;
        let message = flights.fill(slot, output, count, write, frames, buffers);
        // The slot holds the payloads' buffers until its completion, whatever becomes of the batch.
        if !message.is_some_and(|message| self.io.send(slot, message)) {
            self.io.flights.end(slot, buffers);
            self.drop(output, count);
        }
    }

    /// Nothing to do: the worker submits everything with its next look for what has arrived.
    fn finish(&mut self) {}
}
