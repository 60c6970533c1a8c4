//! From one received frame to one queued frame per ring output.
//!
//! Ring outputs of one flow whose bytes are identical (same headers on several interfaces) form a
//! [`RingCopies`] and share one chunk, which has one reference per descriptor. All but the last get
//! a copy in a free chunk; the last takes the received chunk itself. An output without room is
//! skipped before anything is copied for it.

use super::{
    transmitter::Egress,
    umem::{Chunk, Chunks},
};
use crate::{
    datapath::{
        batch::{Batch, Frame, Offsets},
        expired,
        flow_table::{Flows, RingCopies, RingOutput},
        stats::{Dropped, OutputStats, WorkerStats},
    },
    packet::{Offset, Received, Template},
};

/// Ends `batch`: queues one copy of each of its frames for each ring output of the frame's flow.
#[inline]
pub fn forward_all(
    batch: &mut Batch<Chunk>,
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let (frames, offsets) = batch.end();
    if !flows.have_ring_outputs() {
        for frame in frames {
            chunks.give_back(frame.place);
        }
        return;
    }
    let mut at = 0;
    #[expect(
        clippy::explicit_counter_loop,
        reason = "an enumerated frame is moved once more, which is 28 instructions"
    )]
    for frame in frames {
        match flows.ring_copies(frame.flow).split_last() {
            Some(ring_copies) => {
                queue_copies(
                    frame,
                    (offsets, at),
                    ring_copies,
                    flows,
                    chunks,
                    ports,
                    stats,
                );
            }
            None => chunks.give_back(frame.place),
        }
        at += 1;
    }
}

/// Queues one copy of `frame`, which has the position `at` in its batch, for each ring output, and
/// ends the frame's use of its chunk.
///
/// Out of line: where all copies leave through TX sockets, no frame gets here.
#[inline(never)]
fn queue_copies(
    frame: Frame<Chunk>,
    (offsets, at): (Offsets<'_>, u32),
    (last, others): (&RingCopies, &[RingCopies]),
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let udp_sum = frame.received.udp_sum(frame.payload(chunks));
    // Copies have the headers of an untagged frame of the same version of IP, and so their length.
    let len = Len {
        frame: frame.end(),
        payload: frame.payload_len(),
    };
    let (received, flow) = (frame.received, frame.flow);
    let chunk = frame.place;
    for copies in others {
        let ring_outputs = flows.ring_outputs(copies);
        make_room(ring_outputs, chunks, ports, stats);
        let Some(ttl) = admit(copies, ring_outputs, &received, len, ports, stats) else {
            note_if_expired(copies, &received, flow, &chunk, chunks, stats);
            continue;
        };
        let Some(mut copy) = chunks.take() else {
            count_all(ring_outputs, Dropped::BufferExhaustion, stats);
            continue;
        };
        chunks.copy(&chunk, &mut copy, len.frame);
        let moved = moved(copies, || offsets.of(at));
        let header = Header {
            template: moved.as_ref().unwrap_or(&copies.template),
            received,
            ttl,
            udp_sum,
        };
        transmit(&header, ring_outputs, copy, len, chunks, ports, stats);
    }
    let ring_outputs = flows.ring_outputs(last);
    make_room(ring_outputs, chunks, ports, stats);
    match admit(last, ring_outputs, &received, len, ports, stats) {
        Some(ttl) => {
            let moved = moved(last, || offsets.of(at));
            let header = Header {
                template: moved.as_ref().unwrap_or(&last.template),
                received,
                ttl,
                udp_sum,
            };
            transmit(&header, ring_outputs, chunk, len, chunks, ports, stats);
        }
        None => {
            note_if_expired(last, &received, flow, &chunk, chunks, stats);
            chunks.give_back(chunk);
        }
    }
}

/// The template of copies that keep the place which their datagram was sent to.
#[inline]
fn moved(copies: &RingCopies, offset: impl FnOnce() -> Offset) -> Option<Template> {
    let template = &copies.template;
    template.keeps_place().then(|| template.moved_to(offset()))
}

/// Notes who sent the datagram in `chunk`, of which `copies` do not leave, if that is for its TTL.
#[cold]
#[inline(never)]
fn note_if_expired(
    copies: &RingCopies,
    received: &Received,
    flow: u32,
    chunk: &Chunk,
    chunks: &Chunks,
    stats: &WorkerStats,
) {
    if copies.template.ttl(received).is_none() {
        expired::note(flow, chunk, chunks, stats);
    }
}

#[inline]
fn make_room(
    ring_outputs: &[RingOutput],
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    for ring_output in ring_outputs {
        if let Some(port) = ports.get_mut(ring_output.port)
            && !port.has_room()
        {
            port.make_room(chunks, &stats.outputs);
        }
    }
}

/// Lengths in bytes.
#[derive(Debug, Clone, Copy)]
struct Len {
    /// Of the frame, from the Ethernet header on.
    frame: usize,
    payload: u16,
}

/// What the headers of one copy are made of.
struct Header<'a> {
    template: &'a Template,
    received: Received,
    ttl: u8,
    udp_sum: Option<u32>,
}

/// The TTL that `copies` leave with if at least one ring output can take a frame of this length;
/// otherwise counts for each output why it cannot.
#[inline]
fn admit(
    copies: &RingCopies,
    ring_outputs: &[RingOutput],
    received: &Received,
    len: Len,
    ports: &[impl Egress],
    stats: &WorkerStats,
) -> Option<u8> {
    let Some(ttl) = copies.template.ttl(received) else {
        count_all(ring_outputs, Dropped::TtlExpired, stats);
        return None;
    };
    if ring_outputs
        .iter()
        .any(|ring_output| refusal(ring_output, len, ports).is_none())
    {
        return Some(ttl);
    }
    for ring_output in ring_outputs {
        if let Some(reason) = refusal(ring_output, len, ports) {
            count(ring_output, reason, stats);
        }
    }
    None
}

/// Writes the headers into `chunk` and queues it on the port of every ring output that has room.
#[inline]
fn transmit(
    header: &Header<'_>,
    ring_outputs: &[RingOutput],
    mut chunk: Chunk,
    len: Len,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let Header {
        template,
        received,
        ttl,
        udp_sum,
    } = header;
    let mut frame = chunks.frame_mut(&mut chunk);
    template.write(&mut frame, received, *ttl, *udp_sum);
    let mut descriptors = 0;
    for ring_output in ring_outputs {
        if let Some(reason) = refusal(ring_output, len, ports) {
            count(ring_output, reason, stats);
        } else if let Some(port) = ports.get_mut(ring_output.port) {
            port.queue(&chunk, ring_output.output);
            descriptors += 1;
        }
    }
    if descriptors > 0 {
        chunks.transmitted(chunk, descriptors);
    } else {
        chunks.give_back(chunk);
    }
}

/// Why `ring_output` cannot take a frame of this length now; `None` if it can.
#[inline]
fn refusal(ring_output: &RingOutput, len: Len, ports: &[impl Egress]) -> Option<Dropped> {
    if len.payload > ring_output.max_payload {
        return Some(Dropped::TooBig);
    }
    match ports.get(ring_output.port) {
        Some(port) if port.has_room() => None,
        _ => Some(Dropped::RingFull),
    }
}

#[cold]
fn count_all(ring_outputs: &[RingOutput], reason: Dropped, stats: &WorkerStats) {
    for ring_output in ring_outputs {
        count(ring_output, reason, stats);
    }
}

#[cold]
fn count(ring_output: &RingOutput, reason: Dropped, stats: &WorkerStats) {
    if let Some(OutputStats { drops, .. }) = stats.outputs.get(ring_output.output as usize) {
        drops.add(reason, 1);
    }
}
