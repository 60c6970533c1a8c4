//! From one received frame to one queued frame per ring output.
//!
//! Ring outputs of one flow whose bytes are identical (same headers on several interfaces) form a
//! [`RingCopies`] and share one chunk, which has one reference per descriptor. All but the last get
//! a copy in a free chunk; the last takes the received chunk itself. The payload is at the same place
//! in each of them, and headers of any length are written right in front of it. An output without
//! room is skipped before anything is copied for it.
//!
//! Where devices take a frame in two parts, only headers are written for all but the last, into
//! slots of their own, and the payload of the received chunk is the second part of every frame
//! ([`super::sharing`]).

use super::{
    sharing::SHARED_FROM,
    transmitter::Egress,
    tx_rings::Descriptor,
    umem::{Chunk, Chunks, HeaderSlot},
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
    let shared = match len >= SHARED_FROM && chunks.may_be_shared() {
        true => chunks.payload_desc(&chunk, payload.clone()),
        false => None,
    };
    for copies in others {
        let ring_outputs = flows.ring_outputs(copies);
        let shared = shared.filter(|_| all_share(ring_outputs, ports));
        let parts = 1 + u32::from(shared.is_some());
        make_room(parts, ring_outputs, chunks, ports, stats);
        let Some(ttl) = admit(parts, copies, ring_outputs, &received, ports, stats) else {
            note_if_expired(copies, &received, flow, &chunk, chunks, stats);
            continue;
        };
        let mut adapted = None;
        let mut header = Header {
            template: &copies.template,
            received,
            ttl,
            udp_sum,
        };
        if !header.template.is_plain() {
            let payload = chunks.frame(&chunk).get(payload.clone());
            let kept = kept.frame(at_in_batch);
            header = header.adapted(&kept, payload.unwrap_or_default(), &mut adapted);
        }
        if let Some(payload) = shared
            && let Some(slot) = chunks.take_header()
        {
            transmit_parts(&header, slot, payload, &chunk, ring_outputs, chunks, ports, stats);
            continue;
        }
        let Some(mut copy) = chunks.take() else {
            count_all(ring_outputs, Dropped::BufferExhaustion, stats);
            continue;
        };
        let headers = header.template.headers_len();
        if chunks.copy_payload(&chunk, payload.clone(), &mut copy, headers) {
            transmit(&header, ring_outputs, copy, chunks, ports, stats);
        } else {
            chunks.give_back(copy);
            count_all(ring_outputs, Dropped::TooBig, stats);
        }
    }
    let ring_outputs = flows.ring_outputs(last);
    make_room(1, ring_outputs, chunks, ports, stats);
    let Some(ttl) = admit(1, last, ring_outputs, &received, ports, stats) else {
        note_if_expired(last, &received, flow, &chunk, chunks, stats);
        chunks.finish(chunk, 0);
        return;
    };
    let mut adapted = None;
    let mut header = Header {
        template: &last.template,
        received,
        ttl,
        udp_sum,
    };
    if !header.template.is_plain() {
        let payload = chunks.frame(&chunk).get(payload.clone());
        let kept = kept.frame(at_in_batch);
        header = header.adapted(&kept, payload.unwrap_or_default(), &mut adapted);
    }
    if chunks.reframe(&mut chunk, payload, header.template.headers_len()) {
        transmit(&header, ring_outputs, chunk, chunks, ports, stats);
    } else {
        chunks.finish(chunk, 0);
        count_all(ring_outputs, Dropped::TooBig, stats);
    }
}

/// Whether all of `ring_outputs` leave through devices that take a frame in two parts.
#[inline]
fn all_share(ring_outputs: &[RingOutput], ports: &[impl Egress]) -> bool {
    let mut ports = ring_outputs.iter().map(|one| ports.get(one.port));
    ports.all(|port| port.is_some_and(Egress::shares))
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
    if copies.template.is_resolved() && copies.template.ttl(received).is_none() {
        expired::note(flow, chunk, chunks, stats);
    }
}

/// Looks for room for a frame of so many parts, where there is none.
#[inline]
fn make_room(
    parts: u32,
    ring_outputs: &[RingOutput],
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    for ring_output in ring_outputs {
        if let Some(port) = ports.get_mut(ring_output.port)
            && !port.has_room(parts)
        {
            port.make_room(parts, chunks, &stats.outputs);
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

impl<'a> Header<'a> {
    /// Writes the headers to the first bytes of `to`. Returns how many these are.
    #[inline(always)]
    fn write(&self, to: &mut [u8]) -> usize {
        let Self {
            template,
            received,
            ttl,
            udp_sum,
        } = self;
        template.write_in_place(to, received, *ttl, *udp_sum)
    }

    /// The same where the template is not plain, of a datagram with this payload. `template` is the
    /// place for the one that it has then.
    #[inline(never)]
    fn adapted(self, kept: &Kept, payload: &[u8], template: &'a mut Option<Template>) -> Self {
        let Self {
            template: of_output,
            received,
            ..
        } = self;
        Self {
            template: template.insert(of_output.keeping(kept)),
            received: of_output.received(&received),
            udp_sum: of_output.udp_sum(&received, payload, self.udp_sum),
            ..self
        }
    }
}

/// The TTL that `copies` leave with if at least one ring output can take `received` in a frame of so
/// many parts; otherwise counts for each output why it cannot.
#[inline]
fn admit(
    parts: u32,
    copies: &RingCopies,
    ring_outputs: &[RingOutput],
    received: &Received,
    ports: &[impl Egress],
    stats: &WorkerStats,
) -> Option<u8> {
    let Some(ttl) = copies.template.ttl(received) else {
        let reason = match copies.template.is_resolved() {
            true => Dropped::TtlExpired,
            false => Dropped::NoNeighbour,
        };
        count_all(ring_outputs, reason, stats);
        return None;
    };
    let len = received.payload_len();
    if ring_outputs
        .iter()
        .any(|ring_output| refusal(parts, ring_output, len, ports).is_none())
    {
        return Some(ttl);
    }
    for ring_output in ring_outputs {
        if let Some(reason) = refusal(parts, ring_output, len, ports) {
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
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    header.write(chunks.frame_mut(&mut chunk));
    let len = header.received.payload_len();
    let mut descriptors = 0;
    for ring_output in ring_outputs {
        if let Some(reason) = refusal(1, ring_output, len, ports) {
            count(ring_output, reason, stats);
        } else if let Some(port) = ports.get_mut(ring_output.port) {
            port.queue(chunk.desc(), ring_output.output);
            descriptors += 1;
        }
    }
    chunks.finish(chunk, descriptors);
}

/// Writes the headers into `slot` and queues them with `payload`, which is in `chunk`, on the port of
/// every ring output that has room.
#[inline]
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a frame, where it goes, and what changes on the way"
)]
fn transmit_parts(
    header: &Header<'_>,
    mut slot: HeaderSlot,
    payload: Descriptor,
    chunk: &Chunk,
    ring_outputs: &[RingOutput],
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let written = header.write(chunks.header_mut(&mut slot));
    let headers = chunks.header_desc(&slot, written);
    let len = header.received.payload_len();
    let mut descriptors = 0;
    for ring_output in ring_outputs {
        if let Some(reason) = refusal(2, ring_output, len, ports) {
            count(ring_output, reason, stats);
        } else if let Some(port) = ports.get_mut(ring_output.port) {
            port.queue_parts(headers, payload, ring_output.output);
            descriptors += 1;
        }
    }
    chunks.share(chunk, descriptors);
    chunks.finish_header(slot, descriptors);
}

/// Why `ring_output` cannot take a payload of this length now, in a frame of so many parts; `None`
/// if it can.
#[inline]
fn refusal(
    parts: u32,
    ring_output: &RingOutput,
    len: u16,
    ports: &[impl Egress],
) -> Option<Dropped> {
    if len > ring_output.max_payload {
        return Some(Dropped::TooBig);
    }
    match ports.get(ring_output.port) {
        Some(port) if port.has_room(parts) => None,
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
