//! What taps are told of copies that ring outputs do not take: what they are, or would have been.

use super::{Datagram, Header, count, refusal};
use crate::datapath::{
    expired,
    flow_table::{RingCopies, RingOutput},
    stats::{Dropped, WorkerStats},
    tap::Unmade,
    xdp::{
        egress::Egress,
        tx_rings::Descriptor,
        umem::{Chunk, Chunks},
    },
};

/// Why copies are not made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// No output can take them in a frame of so many parts.
    Refused(u32),
    /// The same for all outputs.
    All(Dropped),
}

/// Counts a copy that was made, and that `ring_output` does not take; it is in these parts.
#[cold]
#[inline(never)]
pub(super) fn refuse(
    ring_output: &RingOutput,
    reason: Dropped,
    parts: [Option<Descriptor>; 2],
    chunks: &Chunks,
    stats: &WorkerStats,
) {
    count(ring_output, reason, stats);
    let taps = stats.outputs.taps();
    if taps.is_on() {
        let parts = parts.each_ref().map(Option::as_ref);
        let parts = parts.map(|part| part.map_or(&[][..], |part| chunks.named_by(part)));
        taps.frame(ring_output.output, Some(reason), parts);
    }
}

/// Tells of copies of the datagram in `chunk` that are not made, if a tap is on.
#[cold]
#[inline(never)]
#[expect(
    clippy::too_many_arguments,
    reason = "the datagram, where it goes, and what is asked about that"
)]
pub(super) fn tell_unmade(
    why: Why,
    datagram: Datagram<'_>,
    chunk: &Chunk,
    copies: &RingCopies,
    ring_outputs: &[RingOutput],
    chunks: &Chunks,
    ports: &[impl Egress],
    stats: &WorkerStats,
) {
    if !stats.outputs.taps().is_on() {
        return;
    }
    let ttl = copies.template.ttl(datagram.received);
    let mut adapted = None;
    let header = Header::new(
        copies,
        &datagram,
        ttl.unwrap_or(0),
        chunk,
        chunks,
        &mut adapted,
    );
    let payload = chunks.frame(chunk).get(datagram.payload.clone());
    let unmade = Unmade {
        template: header.template,
        received: header.received,
        ttl: header.ttl,
        udp_sum: header.udp_sum,
        payload: payload.unwrap_or_default(),
    };
    let len = datagram.received.payload_len();
    for ring_output in ring_outputs {
        let reason = match why {
            Why::All(reason) => Some(reason),
            Why::Refused(_) if ttl.is_none() => Some(expired::reason(&copies.template)),
            Why::Refused(parts) => refusal(parts, ring_output, len, ports),
        };
        if let Some(reason) = reason {
            let taps = stats.outputs.taps();
            taps.unmade(ring_output.output, reason, &unmade);
        }
    }
}
