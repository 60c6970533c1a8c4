//! From the chunks of an RX ring to a batch: decode, look up, count.

use relay_common::wire::{self, Kind};

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
    let arrived = Arrived {
        input,
        known: source.known,
    };
    while let Some(chunk) = received.last() {
        let ahead = received.len().checked_sub(AHEAD + 1);
        if let Some(ahead) = ahead.and_then(|ahead| received.get(ahead)) {
            chunks.prefetch(ahead);
        }
        // Each kind has code of its own: what is the same in every frame of a kind is a constant
        // there.
        match wire::kind(chunks.frame(chunk)) {
            Kind::Ipv4 => add(Kind::Ipv4, arrived, received, batch, chunks, flows, stats),
            Kind::Ipv6 => add_apart::<true>(arrived, received, batch, chunks, flows, stats),
            Kind::Other => add_apart::<false>(arrived, received, batch, chunks, flows, stats),
        }
    }
}

/// The input that frames arrived on, as [`Flows`] know it.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    /// Its slot, if any flow has it.
    input: Option<u8>,
    known: Known,
}

/// [`add`] in a place of its own, for IPv6 or for what is neither that nor IPv4.
#[inline(never)]
fn add_apart<const IPV6: bool>(
    arrived: Arrived,
    received: &mut Vec<Chunk>,
    batch: &mut Batch<Chunk>,
    chunks: &mut Chunks,
    flows: &mut Flows,
    stats: &WorkerStats,
) {
    let kind = if IPV6 { Kind::Ipv6 } else { Kind::Other };
    add(kind, arrived, received, batch, chunks, flows, stats);
}

/// Takes the last frame of `received`, which is of this `kind`.
#[inline(always)]
fn add(
    kind: Kind,
    arrived: Arrived,
    received: &mut Vec<Chunk>,
    batch: &mut Batch<Chunk>,
    chunks: &mut Chunks,
    flows: &mut Flows,
    stats: &WorkerStats,
) {
    let Some(mut chunk) = received.pop() else {
        return;
    };
    stats.received.add(1);
    let frame = chunks.frame(&chunk);
    let Ok(datagram) = wire::decode_as(kind, frame) else {
        stats.drops.add(Dropped::Malformed, 1);
        chunks.give_back(chunk);
        return;
    };
    let Some(flow) = arrived
        .input
        .and_then(|input| flows.look_up(input, &datagram))
    else {
        stats.drops.add(Dropped::NoRule, 1);
        chunks.give_back(chunk);
        return;
    };
    let Some(received) = Received::read(frame, &datagram, arrived.known) else {
        stats.drops.add(Dropped::Malformed, 1);
        chunks.give_back(chunk);
        return;
    };
    let keeps = flows.keep_any() && keep(flow, &chunk, batch, chunks, flows);
    let payload = datagram.payload();
    chunks.truncate(&mut chunk, datagram.end());
    let frame = Frame::new(chunk, received, flow, payload);
    batch.add(frame, keeps, chunks, flows, stats);
}

/// Notes what some copies of the frame in `chunk`, the next one of `batch`, keep of it. Decodes it
/// once more, so that others need not carry along what few rule files need.
#[inline(never)]
fn keep(
    flow: u32,
    chunk: &Chunk,
    batch: &mut Batch<Chunk>,
    chunks: &Chunks,
    flows: &Flows,
) -> bool {
    let frame = chunks.frame(chunk);
    let datagram = wire::decode(frame).ok();
    batch.keep(datagram.and_then(|datagram| flows.kept(flow, &datagram, frame, None)))
}
