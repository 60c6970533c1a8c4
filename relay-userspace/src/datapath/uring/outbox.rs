//! Where the messages of one TX socket go: into its send slots, and onto the ring.

use std::iter;

use super::{
    buffers::{Buffers, Held},
    ring::Ring,
};
use crate::{
    datapath::{
        batch::Frame,
        gso_packets::{Message, Outbox},
        stats::{Dropped, WorkerStats},
        tx_socket::TxSocket,
        vnet_header::VnetHeader,
    },
    host::GsoLimits,
};

/// The outbox of one TX socket.
#[derive(Debug)]
pub struct Post<'a> {
    ring: &'a mut Ring,
    tx_socket: usize,
    stats: &'a WorkerStats,
    /// [`TxSocket::begin`] was called for this batch.
    begun: bool,
}

impl<'a> Post<'a> {
    /// The outbox of TX socket `tx_socket`, for one batch.
    pub fn new(ring: &'a mut Ring, tx_socket: usize, stats: &'a WorkerStats) -> Self {
        Self {
            ring,
            tx_socket,
            stats,
            begun: false,
        }
    }

    #[cold]
    fn drop(&mut self, output: u32, count: u16) {
        self.ring.not_sent();
        if let Some(output) = self.stats.outputs.get(output as usize) {
            output.drops.add(Dropped::RingFull, u64::from(count));
        }
    }
}

impl Outbox<Buffers> for Post<'_> {
    fn limits(&self) -> GsoLimits {
        let tx_socket = self.ring.tx_socket(self.tx_socket);
        tx_socket.map(TxSocket::limits_now).unwrap_or_default()
    }

    #[inline]
    unsafe fn post<'a, W, F>(&mut self, message: Message<W, F>, buffers: &'a Buffers)
    where
        W: FnOnce(&mut VnetHeader) -> usize,
        F: Iterator<Item = &'a Frame<Held>> + Clone,
    {
        let (output, count) = (message.output, message.count);
        if let Some(tx_socket) = self.ring.tx_socket_mut(self.tx_socket) {
            if !self.begun {
                self.begun = true;
                tx_socket.begin(&self.stats.outputs);
            }
            if tx_socket.waits() {
                let mut vnet_header = VnetHeader::EMPTY;
                let len = (message.write)(&mut vnet_header);
                let parts = iter::once(vnet_header.bytes(len));
                let parts = parts.chain(message.frames.map(|frame| frame.payload(buffers)));
                tx_socket.wait(output, count, parts, &self.stats.outputs);
                self.ring.not_sent();
                return;
            }
        }
        if !self.ring.send(self.tx_socket, message, buffers, self.stats) {
            self.drop(output, count);
        }
    }

    /// Nothing to do: the next round submits everything.
    fn finish(&mut self) {}
}
