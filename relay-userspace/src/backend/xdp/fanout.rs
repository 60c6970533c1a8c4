//! From one received frame to one queued frame an output.
//!
//! All outputs but the last get a copy in a free chunk; the last one takes the received chunk itself.
//! Outputs of one flow whose bytes are identical (same headers on several interfaces) form a [`Group`] and
//! share one chunk, which is counted in flight once a descriptor. An output without room is passed over
//! before anything is copied for it.

use std::ops::Range;

use relay_common::{
    abi::FlowKey,
    wire::{self, ETHERNET_LEN, IPV4_HEADERS_LEN},
};
use rustc_hash::FxHashMap;

use super::{
    port::Port,
    umem::{Chunk, Chunks},
};
use crate::{
    kernel,
    plan::{self, Plan},
    rewrite::{Received, Target, Template},
    stats::{Dropped, OutputStats, WorkerStats},
};

/// Everything a worker needs to know of its flows, laid out flat.
#[derive(Debug)]
pub struct Fanout {
    by_key: FxHashMap<FlowKey, u32>,
    /// The flow that the last frame belonged to: feeds come in bursts.
    last: Option<(FlowKey, u32)>,
    flows: Box<[Flow]>,
    groups: Box<[Group]>,
    members: Box<[Member]>,
}

/// A flow's groups of outputs, a range of [`Fanout::groups`]. Never empty.
#[derive(Debug)]
struct Flow {
    groups: Range<usize>,
}

/// Outputs whose frames are identical, a range of [`Fanout::members`].
#[derive(Debug)]
struct Group {
    template: Template,
    members: Range<usize>,
}

/// One output.
#[derive(Debug)]
struct Member {
    /// Position of its port in the worker.
    port: usize,
    /// Position of its counters in [`WorkerStats::outputs`].
    output: u32,
    /// The largest frame its interface takes, in bytes from the Ethernet header on.
    max_len: usize,
}

impl Fanout {
    /// Lays out the flows of a worker. The ports given to [`Fanout::forward`] must be the worker's, in its order.
    #[must_use]
    pub fn new(plan: &Plan, worker: &plan::Worker) -> Self {
        let mut fanout = Self {
            by_key: FxHashMap::default(),
            last: None,
            flows: Box::default(),
            groups: Box::default(),
            members: Box::default(),
        };
        let (mut flows, mut groups, mut members) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_output = 0;
        for flow in worker.flows.iter().filter_map(|&at| plan.flows.get(at)) {
            let Some(key) = kernel::key(plan, flow) else {
                continue;
            };
            fanout.by_key.insert(key, flows.len() as u32);
            let mut by_template: Vec<(Template, Vec<Member>)> = Vec::new();
            for (at, output) in flow.outputs.iter().enumerate() {
                let port = worker
                    .ports
                    .iter()
                    .position(|port| port.transmits && port.interface == output.interface);
                let (Some(port), Some(interface)) = (port, plan.interfaces.get(output.interface))
                else {
                    continue;
                };
                let template = Template::new(&Target {
                    source_mac: interface.mac,
                    destination_mac: output.destination_mac,
                    source: output.source,
                    destination: output.group,
                    port: output.port,
                    ttl: output.ttl,
                });
                let member = Member {
                    port,
                    output: first_output + at as u32,
                    max_len: ETHERNET_LEN + interface.mtu as usize,
                };
                match by_template.iter_mut().find(|(other, _)| *other == template) {
                    Some((_, members)) => members.push(member),
                    None => by_template.push((template, vec![member])),
                }
            }
            first_output += flow.outputs.len() as u32;
            let first_group = groups.len();
            for (template, of_group) in by_template {
                let first_member = members.len();
                members.extend(of_group);
                groups.push(Group {
                    template,
                    members: first_member..members.len(),
                });
            }
            flows.push(Flow {
                groups: first_group..groups.len(),
            });
        }
        fanout.flows = flows.into();
        fanout.groups = groups.into();
        fanout.members = members.into();
        fanout
    }

    /// Queues one frame an output for the frame in `chunk`, which came in by `interface` (the kernel's index).
    #[inline]
    pub fn forward(
        &mut self,
        interface: u32,
        mut chunk: Chunk,
        chunks: &mut Chunks,
        ports: &mut [Port],
        stats: &WorkerStats,
    ) {
        stats.received.add(1);
        let frame = chunks.frame(&chunk);
        let Ok(datagram) = wire::decode(frame) else {
            stats.drops.add(Dropped::Malformed);
            chunks.give_back(chunk);
            return;
        };
        let Some(flow) = self.look_up(FlowKey::new(interface, &datagram)) else {
            stats.drops.add(Dropped::NoRule);
            chunks.give_back(chunk);
            return;
        };
        // Only now: a partial checksum makes this read the whole payload.
        let Some(received) = Received::read(frame, &datagram) else {
            stats.drops.add(Dropped::Malformed);
            chunks.give_back(chunk);
            return;
        };
        stats.matched.add(1);
        if let Some(matched) = stats.flows.get(flow) {
            matched.add(1);
        }
        let len = datagram.end();
        chunks.truncate(&mut chunk, len);

        let groups = self
            .flows
            .get(flow)
            .and_then(|flow| self.groups.get(flow.groups.clone()));
        let Some((last, others)) = groups.and_then(<[Group]>::split_last) else {
            chunks.give_back(chunk);
            return;
        };
        let members = |group: &Group| self.members.get(group.members.clone()).unwrap_or(&[]);
        for group in others {
            let members = members(group);
            let Some(ttl) = admit(group, members, &received, len, ports, stats) else {
                continue;
            };
            let Some(mut copy) = chunks.take() else {
                count_all(members, Dropped::BufferExhaustion, stats);
                continue;
            };
            chunks.copy(&chunk, &mut copy, len);
            transmit(
                group, members, &received, ttl, copy, len, chunks, ports, stats,
            );
        }
        let members = members(last);
        match admit(last, members, &received, len, ports, stats) {
            Some(ttl) => transmit(
                last, members, &received, ttl, chunk, len, chunks, ports, stats,
            ),
            None => chunks.give_back(chunk),
        }
    }

    #[inline]
    fn look_up(&mut self, key: FlowKey) -> Option<usize> {
        if let Some((last, flow)) = self.last
            && last == key
        {
            return Some(flow as usize);
        }
        let flow = *self.by_key.get(&key)?;
        self.last = Some((key, flow));
        Some(flow as usize)
    }
}

/// The time to live that `group` leaves with if at least one member can take a frame of `len` bytes; otherwise
/// counts why none can.
#[inline]
fn admit(
    group: &Group,
    members: &[Member],
    received: &Received,
    len: usize,
    ports: &[Port],
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
#[expect(
    clippy::too_many_arguments,
    reason = "the loop's state, split so that it borrows apart"
)]
fn transmit(
    group: &Group,
    members: &[Member],
    received: &Received,
    ttl: u8,
    mut chunk: Chunk,
    len: usize,
    chunks: &mut Chunks,
    ports: &mut [Port],
    stats: &WorkerStats,
) {
    let mut frame = chunks.frame_mut(&mut chunk);
    if let Some(header) = frame.first_chunk_mut::<IPV4_HEADERS_LEN>() {
        group.template.write(header, received, ttl);
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
fn refusal(member: &Member, len: usize, ports: &[Port]) -> Option<Dropped> {
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
        drops.add(reason);
    }
}
