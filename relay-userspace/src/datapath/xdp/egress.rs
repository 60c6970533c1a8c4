//! What ring outputs need of a port: room, and a place in its queue.

use super::{
    transmitter::{Rings, Transmitter},
    tx_rings::Descriptor,
    umem::Chunks,
};
use crate::datapath::stats::Outputs;

/// What ring outputs need of a port.
pub trait Egress {
    /// Whether its device takes frames of two parts.
    fn shares(&self) -> bool;

    /// Whether one more frame of so many descriptors may be queued.
    fn has_room(&self, descriptors: u32) -> bool;

    /// Looks for room for a frame of so many descriptors if there is none.
    fn make_room(&mut self, descriptors: u32, chunks: &mut Chunks, stats: &Outputs);

    /// Queues a frame for `output`. Only after [`Egress::has_room`].
    fn queue(&mut self, frame: Descriptor, output: u32);

    /// Queues a frame of two parts for `output`. Only after [`Egress::has_room`] for two
    /// descriptors, and where it [`Egress::shares`].
    fn queue_parts(&mut self, headers: Descriptor, payload: Descriptor, output: u32);

    /// The same with many frames.
    fn queue_all_parts(&mut self, frames: impl Iterator<Item = [Descriptor; 2]>, output: u32);
}

impl<R: Rings<Desc = Descriptor>> Egress for Transmitter<R> {
    #[inline]
    fn shares(&self) -> bool {
        self.shares()
    }

    #[inline]
    fn has_room(&self, descriptors: u32) -> bool {
        self.has_room(descriptors)
    }

    #[inline]
    fn make_room(&mut self, descriptors: u32, chunks: &mut Chunks, stats: &Outputs) {
        self.make_room(descriptors, chunks, stats);
    }

    #[inline]
    fn queue(&mut self, frame: Descriptor, output: u32) {
        self.queue(frame, output);
    }

    #[inline]
    fn queue_parts(&mut self, headers: Descriptor, payload: Descriptor, output: u32) {
        self.queue_parts(headers, payload, output);
    }

    #[inline(always)]
    fn queue_all_parts(&mut self, frames: impl Iterator<Item = [Descriptor; 2]>, output: u32) {
        self.queue_all_parts(frames, output);
    }
}
