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
        batch::{Batch, Frame, KeptOf},
        expired,
        flow_table::{Flows, RingCopies, RingOutput},
        stats::{Dropped, OutputStats, WorkerStats},
    },
    packet::{Kept, Received, Template},
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
    let (frames, kept) = batch.end();
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
                queue_copies(frame, (kept, at), ring_copies, flows, chunks, ports, stats);
            }
            None => chunks.give_back(frame.place),
        }
        at += 1;
    }
}

/// Queues one copy of `frame`, which has the position `at_in_batch` in its batch, for each ring
/// output, and ends the frame's use of its chunk.
///
/// Out of line: where all copies leave through TX sockets, no frame gets here.
#[inline(never)]
fn queue_copies(
    frame: Frame<Chunk>,
    (kept, at_in_batch): (KeptOf<'_>, u32),
    (last, others): (&RingCopies, &[RingCopies]),
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let udp_sum = frame.received.udp_sum(frame.payload(chunks));
    let (received, flow, len) = (frame.received, frame.flow, frame.payload_len());
    let payload = frame.payload_at()..frame.end();
    let mut chunk = frame.place;
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
        let header = Header {
            template: &copies.template,
            received,
            ttl,
            udp_sum,
        };
        if header.template.ends_at(payload.start) {
            chunks.copy(&chunk, &mut copy, payload.end);
            transmit(&header, ring_outputs, copy, len, chunks, ports, stats);
        } else {
            let at = header.template.headers_len();
            chunks.copy_range(&chunk, payload.clone(), &mut copy, at);
            let kept = kept.frame(at_in_batch);
            transmit_adapted(header, &kept, ring_outputs, copy, chunks, ports, stats);
        }
    }
    let ring_outputs = flows.ring_outputs(last);
    make_room(ring_outputs, chunks, ports, stats);
    match admit(last, ring_outputs, &received, len, ports, stats) {
        Some(ttl) => {
            let header = Header {
                template: &last.template,
                received,
                ttl,
                udp_sum,
            };
            if header.template.ends_at(payload.start) {
                transmit(&header, ring_outputs, chunk, len, chunks, ports, stats);
            } else {
                chunks.move_within(&mut chunk, payload, header.template.headers_len());
                let kept = kept.frame(at_in_batch);
                transmit_adapted(header, &kept, ring_outputs, chunk, chunks, ports, stats);
            }
        }
        None => {
            note_if_expired(last, &received, flow, &chunk, chunks, stats);
            chunks.give_back(chunk);
        }
    }
}

/// [`transmit`] where the template is not plain, or its headers are not as long as the received
/// ones. The payload is in its place in `chunk` already.
#[inline(never)]
fn transmit_adapted(
    header: Header<'_>,
    kept: &Kept,
    ring_outputs: &[RingOutput],
    chunk: Chunk,
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
    let payload = chunks.frame(&chunk).get(template.headers_len()..);
    let udp_sum = template.udp_sum(&received, payload.unwrap_or_default(), udp_sum);
    let adapted = (!template.is_plain()).then(|| template.keeping(kept));
    let header = Header {
        template: adapted.as_ref().unwrap_or(template),
        received: template.received(&received),
        ttl,
        udp_sum,
    };
    let len = received.payload_len();
    transmit(&header, ring_outputs, chunk, len, chunks, ports, stats);
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
    let template = &copies.template;
    if template.ttl(received).is_none() && expired::reason(template) == Dropped::TtlExpired {
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

/// What the headers of one copy are made of.
struct Header<'a> {
    template: &'a Template,
    received: Received,
    ttl: u8,
    udp_sum: Option<u32>,
}

/// The TTL that `copies` leave with if at least one ring output can take a payload of this length;
/// otherwise counts for each output why it cannot.
#[inline]
fn admit(
    copies: &RingCopies,
    ring_outputs: &[RingOutput],
    received: &Received,
    len: u16,
    ports: &[impl Egress],
    stats: &WorkerStats,
) -> Option<u8> {
    let Some(ttl) = copies.template.ttl(received) else {
        count_all(ring_outputs, expired::reason(&copies.template), stats);
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
    len: u16,
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
    template.write_in_place(&mut frame, received, *ttl, *udp_sum);
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

/// Why `ring_output` cannot take a payload of this length now; `None` if it can.
#[inline]
fn refusal(ring_output: &RingOutput, len: u16, ports: &[impl Egress]) -> Option<Dropped> {
    if len > ring_output.max_payload {
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
