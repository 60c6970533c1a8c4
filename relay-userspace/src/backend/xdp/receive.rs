//! From chunks that an RX ring gave to a batch: decode, look up, count.

use relay_common::{abi::FlowKey, wire};

use super::umem::{Chunk, Chunks};
use crate::{
    backend::{
        batch::{Batch, Frame},
        flows::Flows,
    },
    rewrite::Received,
    stats::{Dropped, WorkerStats},
};

/// How many frames ahead the headers are fetched: far enough for a miss of all caches.
const AHEAD: usize = 8;

/// Takes all frames of `received`, which came in by `interface` (the kernel's index), the last one first: into the
/// batch, or counts why not and gives the chunk back.
#[inline]
pub fn add_all(
    interface: u32,
    received: &mut Vec<Chunk>,
    batch: &mut Batch<Chunk>,
    chunks: &mut Chunks,
    flows: &mut Flows,
    stats: &WorkerStats,
) {
    while let Some(chunk) = received.pop() {
        let ahead = received.len().checked_sub(AHEAD);
        if let Some(ahead) = ahead.and_then(|ahead| received.get(ahead)) {
            chunks.prefetch(ahead);
        }
        add(interface, chunk, batch, chunks, flows, stats);
    }
}

/// Takes the frame in `chunk`.
#[inline]
fn add(
    interface: u32,
    mut chunk: Chunk,
    batch: &mut Batch<Chunk>,
    chunks: &mut Chunks,
    flows: &mut Flows,
    stats: &WorkerStats,
) {
    stats.received.add(1);
    let frame = chunks.frame(&chunk);
    let Ok(datagram) = wire::decode(frame) else {
        stats.drops.add(Dropped::Malformed, 1);
        chunks.give_back(chunk);
        return;
    };
    let Some(flow) = flows.look_up(FlowKey::new(interface, &datagram)) else {
        stats.drops.add(Dropped::NoRule, 1);
        chunks.give_back(chunk);
        return;
    };
    let Some(received) = Received::read(frame, &datagram) else {
        stats.drops.add(Dropped::Malformed, 1);
        chunks.give_back(chunk);
        return;
    };
    chunks.truncate(&mut chunk, datagram.end());
    let payload = datagram.payload()..datagram.end();
    let frame = Frame::new(chunk, received, flow, payload);
    batch.add(frame, chunks, flows, stats);
}
