//! From the chunks of an RX ring to a batch: decode, look up, count.

use std::ops::Range;

use relay_common::wire::{self, ETHERNET_LEN};

use super::umem::{Chunk, Chunks};
use crate::{
    datapath::{
        batch::{Batch, Frame},
        flow_table::Flows,
        stats::{Dropped, WorkerStats},
    },
    packet::{Known, Received},
};

/// How many frames ahead the CPU fetches headers: far enough for a miss of all caches.
const AHEAD: usize = 8;

/// The input that frames arrived on.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The kernel's index of the interface.
    pub interface: u32,
    /// What is known of their UDP checksums.
    pub known: Known,
}

/// Takes all frames of `received`, the last one first: adds each to the batch, or counts why not
/// and gives its chunk back.
#[inline]
pub fn add_all(
    source: Source,
    received: &mut Vec<Chunk>,
    batch: &mut Batch<Chunk>,
    chunks: &mut Chunks,
    flows: &mut Flows,
    stats: &WorkerStats,
) {
    if received.is_empty() {
        return;
    }
    let input = flows.input(source.interface);
    while let Some(chunk) = received.pop() {
        let ahead = received.len().checked_sub(AHEAD);
        if let Some(ahead) = ahead.and_then(|ahead| received.get(ahead)) {
            chunks.prefetch(ahead);
        }
        add(input, source.known, chunk, batch, chunks, flows, stats);
    }
}

/// Takes the frame in `chunk`, which arrived on the interface with the slot `input` in `flows`.
#[inline(always)]
fn add(
    input: Option<u8>,
    known: Known,
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
    let Some(flow) = input.and_then(|input| flows.look_up(input, &datagram)) else {
        stats.drops.add(Dropped::NoRule, 1);
        chunks.give_back(chunk);
        return;
    };
    let Some(received) = Received::read(frame, &datagram, known) else {
        stats.drops.add(Dropped::Malformed, 1);
        chunks.give_back(chunk);
        return;
    };
    let offset = flows.offset(flow, &datagram);
    let mut payload = datagram.payload()..datagram.end();
    let tags = usize::from(datagram.network) - ETHERNET_LEN;
    if tags != 0 {
        flows.keep_headers(flow, batch, &chunk, payload.start, chunks);
        payload = untag(&mut chunk, payload, tags, chunks);
    }
    chunks.truncate(&mut chunk, payload.end);
    let mut frame = Frame::new(chunk, received, flow, payload);
    if let Some(offset) = offset {
        frame.offset = offset;
    }
    batch.add(frame, chunks, flows, stats);
}

/// Moves `payload`, which arrived behind `tags` bytes of tags, to where an untagged frame has it:
/// copies leave untagged, and their headers are written in front of it. Returns its new range.
#[inline(never)]
fn untag(
    chunk: &mut Chunk,
    payload: Range<usize>,
    tags: usize,
    chunks: &mut Chunks,
) -> Range<usize> {
    let moved = payload.start - tags..payload.end - tags;
    let mut frame = chunks.frame_mut(chunk);
    if payload.end <= frame.len() {
        frame.copy_within(payload, moved.start);
    }
    moved
}
