//! Copies that share the payload of the received chunk: headers in a slot of their own, and the
//! payload where it was received.
//!
//! Frames of one flow that arrived one after another are a group. The copies of a whole group for
//! one output are made one after another, so that what is the same in all of them is looked up
//! once: the output, its port, its headers, room on the ring and header slots. What is not as
//! simple as that, such as tags, or a ring that gets full, goes copy by copy.

use std::vec::Drain;

use super::{Datagram, queue_copies, queue_other};
use crate::{
    datapath::{
        batch::{Frame, KeptOf},
        flow_table::{Flows, RingCopies},
        stats::WorkerStats,
        xdp::{
            egress::Egress,
            tx_rings::Descriptor,
            umem::{Chunk, Chunks},
        },
    },
    packet::{Patch, Patched},
};

/// The most frames of a group: enough to spread the cost of the look-ups, few enough to find room
/// on a ring that is in use.
pub const GROUP: usize = 64;

/// What all copies of one frame have in common.
#[derive(Debug)]
pub struct Prepared {
    patch: Patch,
    payload: Descriptor,
}

/// Ends a batch of a worker whose copies may share payloads.
#[inline(never)]
pub(super) fn forward_all(
    frames: &mut Drain<'_, Frame<Chunk>>,
    kept: KeptOf<'_>,
    prepared: &mut Vec<Prepared>,
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let mut at = 0;
    loop {
        let group = group(frames.as_slice(), chunks);
        let Some(first) = group.first() else {
            return;
        };
        let (count, shares) = (group.len(), chunks.shares(first.payload_len()));
        let Some((last, others)) = flows.ring_copies(first.flow).split_last() else {
            for frame in frames.take(count) {
                chunks.give_back(frame.place);
            }
            at += count as u32;
            continue;
        };
        if shares && !others.is_empty() {
            queue_others(
                group,
                (kept, at),
                others,
                prepared,
                flows,
                chunks,
                ports,
                stats,
            );
        }
        for frame in frames.take(count) {
            let rest = if shares { &[][..] } else { others };
            queue_copies(frame, (kept, at), (last, rest), flows, chunks, ports, stats);
            at += 1;
        }
    }
}

/// The first of `frames` that are of one flow, and all share their payload or none does.
fn group<'a>(frames: &'a [Frame<Chunk>], chunks: &Chunks) -> &'a [Frame<Chunk>] {
    let frames = frames.get(..GROUP).unwrap_or(frames);
    let mut groups = frames.chunk_by(|one, next| {
        let shares = |frame: &Frame<Chunk>| chunks.shares(frame.payload_len());
        one.flow == next.flow && shares(one) == shares(next)
    });
    groups.next().unwrap_or_default()
}

/// Queues the copies of a group for all ring outputs but the last.
#[expect(
    clippy::too_many_arguments,
    reason = "the group, where it goes, and what changes on the way"
)]
fn queue_others(
    group: &[Frame<Chunk>],
    (kept, at): (KeptOf<'_>, u32),
    others: &[RingCopies],
    prepared: &mut Vec<Prepared>,
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let common = prepare(group, prepared, chunks);
    // Outputs whose copies are queued but not in the references of the chunks yet: before anything
    // may come back, they have to be.
    let mut unnoted = 0;
    for copies in others {
        let is_queued = common.as_ref().is_some_and(|common| {
            queue_group(common, prepared, copies, flows, chunks, ports).is_some()
        });
        if is_queued {
            unnoted += 1;
            continue;
        }
        note(group, std::mem::take(&mut unnoted), chunks);
        for (frame, at) in group.iter().zip(at..) {
            let datagram = datagram(frame, kept, at, chunks);
            let payload = chunks.payload_desc(&frame.place, datagram.payload.clone());
            queue_other(
                &datagram,
                &frame.place,
                payload,
                copies,
                flows,
                chunks,
                ports,
                stats,
            );
        }
    }
    note(group, unnoted, chunks);
}

fn datagram<'a>(
    frame: &'a Frame<Chunk>,
    kept: KeptOf<'a>,
    at: u32,
    chunks: &Chunks,
) -> Datagram<'a> {
    Datagram {
        received: &frame.received,
        udp_sum: frame.received.udp_sum(frame.payload(chunks)),
        payload: frame.payload_at()..frame.end(),
        flow: frame.flow,
        kept,
        at,
    }
}

/// Notes that so many descriptors name the payload of each frame of a group.
fn note(group: &[Frame<Chunk>], descriptors: u16, chunks: &mut Chunks) {
    if descriptors > 0 {
        for frame in group {
            chunks.share(&frame.place, descriptors);
        }
    }
}

/// What the frames of a group have in common.
struct Common {
    ttl: u8,
    /// The longest payload.
    len: u16,
    is_ipv6: bool,
}

/// Prepares the frames of a group. `None` if they came with different times to live.
fn prepare(
    group: &[Frame<Chunk>],
    prepared: &mut Vec<Prepared>,
    chunks: &Chunks,
) -> Option<Common> {
    prepared.clear();
    let first = &group.first()?.received;
    let (ttl, is_ipv6) = (first.ttl(), first.is_ipv6());
    let mut len = 0;
    for frame in group {
        let received = &frame.received;
        if received.ttl() != ttl {
            return None;
        }
        len = len.max(frame.payload_len());
        let udp_sum = received.udp_sum(frame.payload(chunks));
        prepared.push(Prepared {
            patch: Patch::new(received, udp_sum),
            payload: chunks.payload_desc(&frame.place, frame.payload_at()..frame.end())?,
        });
    }
    Some(Common { ttl, len, is_ipv6 })
}

/// Queues the copies of a whole group for one output. `None` if they are not all as simple as that;
/// then nothing is done.
fn queue_group(
    common: &Common,
    prepared: &[Prepared],
    copies: &RingCopies,
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
) -> Option<()> {
    let [ring_output] = flows.ring_outputs(copies) else {
        return None;
    };
    let port = ports.get_mut(ring_output.port)?;
    let takes = port.shares()
        && port.has_room(2 * prepared.len() as u32)
        && common.len <= ring_output.max_payload;
    if !takes {
        return None;
    }
    let ttl = copies.template.ttl_after(common.ttl)?;
    let patched = copies.template.patched(ttl)?;
    if patched.is_ipv6() != common.is_ipv6 {
        return None;
    }
    let output = ring_output.output;
    match patched.is_ipv6() {
        true => queue_frames::<true>(&patched, prepared, output, chunks, port),
        false => queue_frames::<false>(&patched, prepared, output, chunks, port),
    }
}

/// The innermost loop, for one version of IP.
#[inline(never)]
fn queue_frames<const IPV6: bool>(
    patched: &Patched,
    prepared: &[Prepared],
    output: u32,
    chunks: &mut Chunks,
    port: &mut impl Egress,
) -> Option<()> {
    let slots = chunks.header_run(prepared.len())?;
    let frames = prepared.iter().zip(slots).map(|(frame, (to, addr))| {
        patched.write::<IPV6>(to, &frame.patch);
        let headers = Descriptor {
            addr,
            len: Patched::len::<IPV6>() as u32,
            options: libc::XDP_PKT_CONTD,
        };
        [headers, frame.payload]
    });
    port.queue_all_parts(frames, output);
    Some(())
}
