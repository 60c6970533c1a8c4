//! Where the messages of one outlet go: into slots of its own, and onto the ring.

use super::{
    buffers::{Buffers, Held},
    io::Io,
};
use crate::{
    backend::{batch::Frame, copies::Outbox, head::Head},
    stats::{Dropped, WorkerStats},
};

/// The outbox of one outlet.
#[derive(Debug)]
pub struct Post<'a> {
    io: &'a mut Io,
    outlet: usize,
    stats: &'a WorkerStats,
    /// The outlet has looked at its device.
    followed: bool,
}

impl<'a> Post<'a> {
    /// The outbox of outlet `outlet`, for one batch.
    pub fn new(io: &'a mut Io, outlet: usize, stats: &'a WorkerStats) -> Self {
        Self {
            io,
            outlet,
            stats,
            followed: false,
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
    #[inline]
    unsafe fn post<'a>(
        &mut self,
        output: u32,
        count: u16,
        write: impl FnOnce(&mut Head),
        frames: impl Iterator<Item = &'a Frame<Held>>,
        buffers: &'a Buffers,
    ) {
        if !self.followed {
            self.followed = true;
            if let Some(outlet) = self.io.outlets.get_mut(self.outlet) {
                outlet.follow_device();
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
