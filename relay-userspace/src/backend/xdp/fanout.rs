//! From one received frame to one queued frame an output that leaves by a TX ring.
//!
//! All outputs but the last get a copy in a free chunk; the last one takes the received chunk itself.
//! Outputs of one flow whose bytes are identical (same headers on several interfaces) form a [`Group`] and
//! share one chunk, which is counted in flight once a descriptor. An output without room is passed over
//! before anything is copied for it.

use relay_common::wire::IPV4_HEADERS_LEN;

use super::{
    transmitter::Egress,
    umem::{Chunk, Chunks},
};
use crate::{
    backend::{
        batch::Frame,
        flows::{Flows, Group, Member},
    },
    rewrite::Received,
    stats::{Dropped, OutputStats, WorkerStats},
};

/// Queues one copy of `frame` a member of its flow's groups, and ends the frame's use of its chunk.
#[inline]
pub fn forward(
    frame: Frame<Chunk>,
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    match flows.groups(frame.flow).split_last() {
        Some(groups) => queue_copies(frame, groups, flows, chunks, ports, stats),
        None => chunks.give_back(frame.place),
    }
}

/// Out of line: where all copies leave by packet sockets, no frame gets here.
#[inline(never)]
fn queue_copies(
    frame: Frame<Chunk>,
    (last, others): (&Group, &[Group]),
    flows: &Flows,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let udp_sum = frame.received.udp_sum(frame.payload(chunks));
    let (len, received, chunk) = (frame.len(), frame.received, frame.place);
    for group in others {
        let members = flows.members(group);
        make_room(members, chunks, ports, stats);
        let Some(ttl) = admit(group, members, &received, len, ports, stats) else {
            continue;
        };
        let Some(mut copy) = chunks.take() else {
            count_all(members, Dropped::BufferExhaustion, stats);
            continue;
        };
        chunks.copy(&chunk, &mut copy, len);
        let header = Header {
            group,
            received,
            ttl,
            udp_sum,
        };
        transmit(&header, members, copy, len, chunks, ports, stats);
    }
    let members = flows.members(last);
    make_room(members, chunks, ports, stats);
    match admit(last, members, &received, len, ports, stats) {
        Some(ttl) => {
            let header = Header {
                group: last,
                received,
                ttl,
                udp_sum,
            };
            transmit(&header, members, chunk, len, chunks, ports, stats);
        }
        None => chunks.give_back(chunk),
    }
}

#[inline]
fn make_room(
    members: &[Member],
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    for member in members {
        if let Some(port) = ports.get_mut(member.port) {
            port.make_room(chunks, &stats.outputs);
        }
    }
}

/// What the header of one group's copy is made of.
struct Header<'a> {
    group: &'a Group,
    received: Received,
    ttl: u8,
    udp_sum: Option<u32>,
}

/// The time to live that `group` leaves with if at least one member can take a frame of `len` bytes; otherwise
/// counts why none can.
#[inline]
fn admit(
    group: &Group,
    members: &[Member],
    received: &Received,
    len: usize,
    ports: &[impl Egress],
    stats: &WorkerStats,
) -> Option<u8> {
    let Some(ttl) = group.template.ttl(received) else {
        count_all(members, Dropped::TtlExpired, stats);
        return None;
    };
    if members
        .iter()
        .any(|member| refusal(member, len, ports).is_none())
    {
        return Some(ttl);
    }
    for member in members {
        if let Some(reason) = refusal(member, len, ports) {
            count(member, reason, stats);
        }
    }
    None
}

/// Writes the headers into `chunk` and queues it on the port of every member that has room.
#[inline]
fn transmit(
    header: &Header<'_>,
    members: &[Member],
    mut chunk: Chunk,
    len: usize,
    chunks: &mut Chunks,
    ports: &mut [impl Egress],
    stats: &WorkerStats,
) {
    let mut frame = chunks.frame_mut(&mut chunk);
    if let Some(bytes) = frame.first_chunk_mut::<IPV4_HEADERS_LEN>() {
        let Header {
            group,
            received,
            ttl,
            udp_sum,
        } = header;
        group.template.write(bytes, received, *ttl, *udp_sum);
    }
    let mut descriptors = 0;
    for member in members {
        if let Some(reason) = refusal(member, len, ports) {
            count(member, reason, stats);
        } else if let Some(port) = ports.get_mut(member.port) {
            port.queue(&chunk, member.output);
            descriptors += 1;
        }
    }
    if descriptors > 0 {
        chunks.transmitted(chunk, descriptors);
    } else {
        chunks.give_back(chunk);
    }
}

/// Why `member` cannot take a frame of `len` bytes now.
#[inline]
fn refusal(member: &Member, len: usize, ports: &[impl Egress]) -> Option<Dropped> {
    if len > member.max_len {
        return Some(Dropped::TooBig);
    }
    match ports.get(member.port) {
        Some(port) if port.has_room() => None,
        _ => Some(Dropped::RingFull),
    }
}

#[inline]
fn count_all(members: &[Member], reason: Dropped, stats: &WorkerStats) {
    for member in members {
        count(member, reason, stats);
    }
}

#[inline]
fn count(member: &Member, reason: Dropped, stats: &WorkerStats) {
    if let Some(OutputStats { drops, .. }) = stats.outputs.get(member.output as usize) {
        drops.add(reason, 1);
    }
}
