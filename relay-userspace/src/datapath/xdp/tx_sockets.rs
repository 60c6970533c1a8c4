//! All TX sockets of a worker, and the memory of their messages.
//!
//! When [`TxSockets::send`] returns, every copy of the batch was sent, is counted, or waits in a
//! backlog, copied: `sendmmsg` takes the payloads from the chunks, which are free then.

use std::ops::Range;

use nix::errno::Errno;

use super::{
    sendmmsg::{HandOver, Messages, Queue},
    umem::{Chunk, Chunks},
};
use crate::datapath::{
    batch::Batch,
    flow_table::Flows,
    gso_packets,
    stats::{Outputs, WorkerStats},
    tap::Fate,
    tx_socket::{self, TxSocket},
};

/// A worker's TX sockets, one per interface that copies leave through in GSO packets.
#[derive(Debug)]
pub struct TxSockets {
    tx_sockets: Vec<TxSocket>,
    queue: Queue,
}

impl TxSockets {
    /// With these TX sockets.
    pub fn new(tx_sockets: Vec<TxSocket>) -> Self {
        Self {
            tx_sockets,
            queue: Queue::with_pieces(),
        }
    }

    /// The TX sockets, to send their backlogs, and to replace them between two batches.
    pub fn tx_sockets_mut(&mut self) -> &mut Vec<TxSocket> {
        &mut self.tx_sockets
    }

    /// The TX sockets, in the worker's order.
    pub fn tx_sockets(&self) -> &[TxSocket] {
        &self.tx_sockets
    }

    /// Sends every run of `batch` through all socket outputs of its flow.
    #[inline]
    pub fn send(
        &mut self,
        batch: &mut Batch<Chunk>,
        flows: &Flows,
        chunks: &Chunks,
        stats: &WorkerStats,
    ) {
        let Self { tx_sockets, queue } = self;
        for (number, tx_socket) in tx_sockets.iter_mut().enumerate() {
            let limits = tx_socket.limits_now();
            let take = |messages: Messages<'_>| send(tx_socket, messages, &stats.outputs);
            let mut outbox = HandOver {
                queue,
                limits,
                take,
            };
            gso_packets::make(number, batch, flows, chunks, stats, &mut outbox);
        }
    }
}

/// Sends the messages, and counts each frame as sent or under the reason why not. A message that a
/// full TX ring refuses waits, and all that follow it.
fn send(tx_socket: &mut TxSocket, mut messages: Messages<'_>, outputs: &Outputs) {
    tx_socket.begin(outputs);
    let mut done = 0;
    while done < messages.len() {
        if tx_socket.waits() {
            wait(tx_socket, &messages, done, outputs);
            return;
        }
        let (refusal, answered) = match messages.send(tx_socket.socket(), done, tx_socket.at_once())
        {
            Ok(sent) => (None, sent),
            Err(Errno::EINTR) => continue,
            // A device that is down or gone refuses all of them.
            Err(error @ (Errno::ENETDOWN | Errno::ENXIO)) => (Some(error), messages.len() - done),
            Err(error) => {
                let frames = messages.frames(done, 1).map(|(_, frames)| frames).sum();
                if tx_socket.can_wait(error, tx_socket.is_direct(), frames) {
                    wait(tx_socket, &messages, done, outputs);
                    return;
                }
                (Some(error), 1)
            }
        };
        for (output, frames) in messages.frames(done, answered) {
            match (outputs.get(output as usize), refusal) {
                (Some(output), None) => output.sent.add(frames),
                (Some(output), Some(error)) => {
                    tx_socket.count_refused(error, tx_socket.is_direct(), output, frames);
                }
                (None, _) => {}
            }
        }
        if outputs.taps().is_on() {
            let fate = refusal.and_then(|error| tx_socket::fate(error, tx_socket.is_direct()));
            tell(&messages, done..done + answered, fate, outputs);
        }
        done += answered;
    }
}

/// Tells the taps what became of some of the messages.
#[cold]
#[inline(never)]
fn tell(messages: &Messages<'_>, told: Range<usize>, fate: Fate, outputs: &Outputs) {
    for at in told {
        for (output, frames) in messages.frames(at, 1) {
            let parts = messages.parts(at);
            outputs.taps().message(output, frames, fate, parts);
        }
    }
}

/// Makes the messages from number `first` on wait for the device.
#[cold]
fn wait(tx_socket: &mut TxSocket, messages: &Messages<'_>, first: usize, outputs: &Outputs) {
    for at in first..messages.len() {
        for (output, frames) in messages.frames(at, 1) {
            tx_socket.wait(output, frames as u16, messages.parts(at), outputs);
        }
    }
}
