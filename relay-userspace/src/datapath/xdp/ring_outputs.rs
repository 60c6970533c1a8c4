//! From one received frame to one queued frame per ring output.
//!
//! Ring outputs of one flow whose bytes are identical (same headers on several interfaces) form a
//! [`RingCopies`] and share one chunk, which has one reference per descriptor. All but the last get
//! a copy in a free chunk; the last takes the received chunk itself. The payload is at the same
//! place in each of them, and headers of any length are written right in front of it. An output
//! without room is skipped before anything is copied for it.
//!
//! Where devices take a frame in two parts, only headers are written for all but the last, into
//! slots of their own, and the payload of the received chunk is the second part of every frame
//! ([`super::sharing`]).

mod shared;
mod telling;

use std::ops::Range;

pub use self::shared::{GROUP, Prepared};
use self::telling::{Why, refuse, tell_unmade};
use super::{
    egress::Egress,
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
/// `prepared` is room for a [`GROUP`] of frames that share payloads.
#[inline]
pub fn forward_all(
    batch: &mut Batch<Chunk>,
    prepared: &mut Vec<Prepared>,
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let (mut frames, kept) = batch.end();
    if !flows.have_ring_outputs() {
        for frame in frames {
            chunks.give_back(frame.place);
        }
        return;
    }
    if chunks.has_header_slots() {
        shared::forward_all(&mut frames, kept, prepared, flows, chunks, ports, stats);
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

/// A frame of the batch without its chunk, and what all its copies are made from. Calls get copies
/// of it: where it has an address, each of its fields is read from memory.
#[derive(Clone)]
struct Datagram<'a> {
    received: &'a Received,
    udp_sum: Option<u32>,
    /// Where its payload is in its frame.
    payload: Range<usize>,
    flow: u32,
    kept: KeptOf<'a>,
    /// Its position in the batch.
    at: u32,
}

/// Queues one copy of `frame`, which has the position `at_in_batch` in its batch, for each ring
/// output, and ends the frame's use of its chunk.
///
/// Out of line: where all copies leave through TX sockets, no frame gets here.
#[inline(never)]
fn queue_copies(
    frame: Frame<Chunk>,
    at_in_batch: (KeptOf<'_>, u32),
    (last, others): (&RingCopies, &[RingCopies]),
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let (kept, at) = at_in_batch;
    let datagram = Datagram {
        received: &frame.received,
        udp_sum: frame.received.udp_sum(frame.payload(chunks)),
        payload: frame.payload_at()..frame.end(),
        flow: frame.flow,
        kept,
        at,
    };
    let chunk = frame.place;
    for copies in others {
        queue_other(&datagram, &chunk, None, copies, flows, chunks, ports, stats);
    }
    queue_last(&datagram, chunk, last, flows, chunks, ports, stats);
}

/// Queues a copy of the datagram in `chunk` for all ring outputs but the last: with the `shared`
/// payload, if there is one, else with one of its own.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "the datagram, where it goes, and what changes on the way"
)]
fn queue_other(
    datagram: &Datagram<'_>,
    chunk: &Chunk,
    shared: Option<Descriptor>,
    copies: &RingCopies,
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let ring_outputs = flows.ring_outputs(copies);
    let shared = shared.filter(|_| all_share(ring_outputs, ports));
    let parts = 1 + u32::from(shared.is_some());
    make_room(parts, ring_outputs, chunks, ports, stats);
    let received = datagram.received;
    let Some(ttl) = admit(parts, copies, ring_outputs, received, ports, stats) else {
        note_if_expired(copies, received, datagram.flow, chunk, chunks, stats);
        tell_unmade(
            Why::Refused(parts),
            datagram.clone(),
            chunk,
            copies,
            ring_outputs,
            chunks,
            ports,
            stats,
        );
        return;
    };
    let mut adapted = None;
    let header = Header::new(copies, datagram, ttl, chunk, chunks, &mut adapted);
    if let Some(payload) = shared
        && let Some(slot) = chunks.take_header()
    {
        let frame = (slot, payload, chunk);
        transmit_parts(&header, frame, ring_outputs, chunks, ports, stats);
        return;
    }
    let Some(mut copy) = chunks.take() else {
        count_all(ring_outputs, Dropped::BufferExhaustion, stats);
        tell_unmade(
            Why::All(Dropped::BufferExhaustion),
            datagram.clone(),
            chunk,
            copies,
            ring_outputs,
            chunks,
            ports,
            stats,
        );
        return;
    };
    let headers = header.template.headers_len();
    if chunks.copy_payload(chunk, datagram.payload.clone(), &mut copy, headers) {
        transmit(&header, ring_outputs, copy, chunks, ports, stats);
    } else {
        chunks.give_back(copy);
        count_all(ring_outputs, Dropped::TooBig, stats);
        tell_unmade(
            Why::All(Dropped::TooBig),
            datagram.clone(),
            chunk,
            copies,
            ring_outputs,
            chunks,
            ports,
            stats,
        );
    }
}

/// Queues the received chunk itself for the last ring outputs.
#[inline(always)]
fn queue_last(
    datagram: &Datagram<'_>,
    mut chunk: Chunk,
    last: &RingCopies,
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let ring_outputs = flows.ring_outputs(last);
    make_room(1, ring_outputs, chunks, ports, stats);
    let received = datagram.received;
    let Some(ttl) = admit(1, last, ring_outputs, received, ports, stats) else {
        note_if_expired(last, received, datagram.flow, &chunk, chunks, stats);
        tell_unmade(
            Why::Refused(1),
            datagram.clone(),
            &chunk,
            last,
            ring_outputs,
            chunks,
            ports,
            stats,
        );
        chunks.finish(chunk, 0);
        return;
    };
    let mut adapted = None;
    let header = Header::new(last, datagram, ttl, &chunk, chunks, &mut adapted);
    let headers = header.template.headers_len();
    if chunks.reframe(&mut chunk, datagram.payload.clone(), headers) {
        transmit(&header, ring_outputs, chunk, chunks, ports, stats);
    } else {
        tell_unmade(
            Why::All(Dropped::TooBig),
            datagram.clone(),
            &chunk,
            last,
            ring_outputs,
            chunks,
            ports,
            stats,
        );
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
    let template = &copies.template;
    if template.ttl(received).is_none() && expired::reason(template) == Dropped::TtlExpired {
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
    received: &'a Received,
    ttl: u8,
    udp_sum: Option<u32>,
}

impl<'a> Header<'a> {
    /// Of the copy of the datagram in `chunk` for `copies`. `adapted` is the place for what is
    /// adapted to it.
    #[inline(always)]
    fn new(
        copies: &'a RingCopies,
        datagram: &Datagram<'a>,
        ttl: u8,
        chunk: &Chunk,
        chunks: &Chunks,
        adapted: &'a mut Option<(Template, Received)>,
    ) -> Self {
        let header = Self {
            template: &copies.template,
            received: datagram.received,
            ttl,
            udp_sum: datagram.udp_sum,
        };
        if header.template.is_plain() {
            return header;
        }
        let payload = chunks.frame(chunk).get(datagram.payload.clone());
        let kept = datagram.kept.frame(datagram.at);
        header.adapted(&kept, payload.unwrap_or_default(), adapted)
    }

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

    /// The same where the template is not plain, of a datagram with this payload. `place` is for
    /// what it has then.
    #[inline(never)]
    fn adapted(
        self,
        kept: &Kept,
        payload: &[u8],
        place: &'a mut Option<(Template, Received)>,
    ) -> Self {
        let (of_output, came) = (self.template, self.received);
        let udp_sum = of_output.udp_sum(came, payload, self.udp_sum);
        let (template, received) =
            place.insert((of_output.keeping(kept), of_output.received(came)));
        Self {
            template,
            received,
            udp_sum,
            ..self
        }
    }
}

/// The TTL that `copies` leave with if at least one ring output can take `received` in a frame of
/// so many parts; otherwise counts for each output why it cannot.
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
        count_all(ring_outputs, expired::reason(&copies.template), stats);
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
            refuse(
                ring_output,
                reason,
                [None, Some(chunk.desc())],
                chunks,
                stats,
            );
        } else if let Some(port) = ports.get_mut(ring_output.port) {
            port.queue(chunk.desc(), ring_output.output);
            descriptors += 1;
        }
    }
    chunks.finish(chunk, descriptors);
}

/// Writes the headers into the slot and queues them with the payload, which is in the chunk, on the
/// port of every ring output that has room.
#[inline]
fn transmit_parts(
    header: &Header<'_>,
    (mut slot, payload, chunk): (HeaderSlot, Descriptor, &Chunk),
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
            refuse(
                ring_output,
                reason,
                [Some(headers), Some(payload)],
                chunks,
                stats,
            );
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
