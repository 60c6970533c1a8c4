//! The flows of a worker, laid out flat, and the look-up.
//!
//! A flow's outputs are ring outputs or socket outputs. A [`RingOutput`] leaves through an AF_XDP
//! TX ring; those with identical frames are one [`RingCopies`]. A [`SocketOutput`] leaves through a
//! packet socket, in GSO packets where the interface takes them. Each kind is a range of one array
//! per worker, so that the loop walks memory in order.
//!
//! A flow's number is the slot of its counters, so it stays the same when another table replaces
//! this one.

mod followed_hops;

use std::{ops::Range, sync::Arc};

use relay_common::wire::{Datagram, Tag};

use self::followed_hops::FollowedHops;
use super::{
    output_link::{Link, Links, State},
    slots::Slots,
    stats::WorkerStats,
    waiting::Waiting,
    xdp::local_frames::LocalFrames,
};
use crate::{
    host::neighbours::OnLink,
    matching::Table,
    packet::{Keeping, Keeps, Kept, Target, Template},
    plan::{self, InterfaceId, LinkDestination, Plan, TxMethod},
};

/// The flows of one worker.
#[derive(Debug)]
pub struct Flows {
    table: Table,
    /// The kernel's indices of the interfaces that its flows arrive on. The position of each is its
    /// slot in the table.
    inputs: Box<[u32]>,
    /// By slot; a slot that this table does not use has a flow without outputs.
    flows: Box<[Flow]>,
    ring_copies: Box<[RingCopies]>,
    ring_outputs: Box<[RingOutput]>,
    socket_outputs: Box<[SocketOutput]>,
    followed: Box<[Followed]>,
    /// The next hops of unicast outputs, if there are any.
    next_hops: Option<Box<FollowedHops>>,
    /// There are flows some of whose copies keep what others do not.
    any_keeps: bool,
    /// Bytes that a frame may have in a chunk.
    frame_room: usize,
    waiting: Arc<Waiting>,
    /// Gives frames of flows with `local` back to the Linux stack.
    pub(super) local: Option<Box<LocalFrames>>,
}

/// A link that copies leave through.
#[derive(Debug)]
struct Followed {
    link: Arc<Link>,
    /// The state that ring outputs and socket outputs have taken over.
    seen: State,
    /// The positions of its ports in the worker.
    ports: Vec<usize>,
    /// The position of its TX socket in the worker, and whether the plan lets GSO packets leave
    /// through it.
    tx_socket: Option<(usize, bool)>,
}

/// A flow's outputs, as ranges of the arrays in [`Flows`].
#[derive(Debug, Clone, Default)]
struct Flow {
    ring_copies: Range<usize>,
    socket_outputs: Range<usize>,
    /// What some copies keep that others do not.
    keeping: Option<Keeping>,
    /// All copies of two places in its prefix and range go to two destinations.
    keeps_apart: bool,
}

/// Ring outputs whose frames are identical, a range of the ring outputs in [`Flows`].
#[derive(Debug)]
pub struct RingCopies {
    /// Their headers.
    pub template: Template,
    /// Of 32 bits: 128 bytes are found with three instructions less than 136.
    ring_outputs: Range<u32>,
}

impl RingCopies {
    #[inline]
    fn ring_outputs(&self) -> Range<usize> {
        self.ring_outputs.start as usize..self.ring_outputs.end as usize
    }
}

/// One output that leaves through a TX ring.
#[derive(Debug)]
pub struct RingOutput {
    /// Position of its port in the worker.
    pub port: usize,
    /// The slot of its counters in [`crate::datapath::stats::WorkerStats::outputs`].
    pub output: u32,
    /// The longest payload that its interface takes, in bytes.
    pub max_payload: u16,
}

/// One output that leaves through a packet socket.
#[derive(Debug, Clone)]
pub struct SocketOutput {
    /// Its headers.
    pub template: Template,
    /// Position of its TX socket in the worker.
    pub tx_socket: usize,
    /// Whether its interface takes its copies in GSO packets; otherwise every frame leaves on its
    /// own.
    pub joins: bool,
    /// The slot of its counters in [`crate::datapath::stats::WorkerStats::outputs`].
    pub output: u32,
    /// The longest payload that its interface takes, in bytes.
    pub max_payload: u16,
}

impl SocketOutput {
    /// The same for copies of datagrams that have `kept` in common.
    pub(super) fn keeping(&self, kept: &Kept) -> Self {
        Self {
            template: self.template.keeping(kept),
            ..self.clone()
        }
    }
}

impl Flows {
    /// Lays out the flows of a worker, for its ports and TX sockets in the worker's order. `slots`
    /// has the slots of these flows, `links` the links that their copies leave through.
    #[must_use]
    pub fn new(
        plan: &Plan,
        worker: &plan::WorkerPlan,
        slots: &Slots,
        links: &Links,
        ports: &Ports,
    ) -> Self {
        let room = worker.frame_room(plan) as usize;
        let frame_room = |template: &Template| most_in(room, template);
        let (mut keys, mut inputs) = (Vec::new(), Vec::new());
        let mut flows = vec![Flow::default(); slots.flows_end()];
        let mut ring_copies = Vec::new();
        let (mut ring_outputs, mut socket_outputs) = (Vec::new(), Vec::new());
        let mut hops = FollowedHops::new(&links.next_hops);
        let planned = worker.flows.iter().filter_map(|&at| plan.flows.get(at));
        for (flow, of_flow) in planned.zip(slots.iter()) {
            for key in plan.keys(flow) {
                let known = inputs.iter().position(|&input| input == key.interface);
                let at = known.unwrap_or(inputs.len());
                if known.is_none() {
                    inputs.push(key.interface);
                }
                keys.extend(u8::try_from(at).map(|slot| (key.at(slot), of_flow.flow)));
            }
            let (first_copies, first_socket_output) = (ring_copies.len(), socket_outputs.len());
            let mut keeps = Keeps::default();
            let mut keeps_apart = true;
            let mut by_template: Vec<(Template, Option<OnLink>, Vec<RingOutput>)> = Vec::new();
            for (output, &number) in flow.outputs.iter().zip(&of_flow.outputs) {
                let Some(interface) = plan.interfaces.get(output.interface) else {
                    continue;
                };
                let (destination_mac, next_hop) = match output.to {
                    LinkDestination::Group(mac) => (mac, None),
                    LinkDestination::NextHop(address) => {
                        let interface = interface.index;
                        ([0; 6], Some(OnLink { interface, address }))
                    }
                };
                let Some(mut template) = Template::new(&Target {
                    source_mac: interface.mac,
                    destination_mac,
                    source: output.source,
                    group: output.group,
                    port: output.port,
                    header: &output.header,
                    input: &flow.matches,
                }) else {
                    continue;
                };
                if let Some(host) = next_hop {
                    template.set_destination_mac(hops.mac(host));
                }
                keeps = keeps.or(template.keeps());
                keeps_apart &= template.keeps().all_places_of(&flow.matches);
                let max_payload = template.max_payload(interface.mtu);
                match leaves_by(plan, worker, output.interface, ports) {
                    Some(LeavesBy::TxSocket { tx_socket, joins }) => {
                        let state = State::planned(interface);
                        let socket_output = SocketOutput {
                            joins: joins && state.joins(template.tags()),
                            template,
                            tx_socket,
                            output: number,
                            max_payload,
                        };
                        socket_outputs.push((socket_output, next_hop));
                    }
                    Some(LeavesBy::Port(port)) => {
                        let ring_output = RingOutput {
                            port,
                            output: number,
                            max_payload: max_payload.min(frame_room(&template)),
                        };
                        let same = |(other, hop, _): &&mut (Template, Option<OnLink>, _)| {
                            *hop == next_hop && *other == template
                        };
                        match by_template.iter_mut().find(same) {
                            Some((.., ring_outputs)) => ring_outputs.push(ring_output),
                            None => by_template.push((template, next_hop, vec![ring_output])),
                        }
                    }
                    None => {}
                }
            }
            for (template, next_hop, outputs) in by_template {
                let first_output = ring_outputs.len();
                if let Some(host) = next_hop {
                    hops.add_ring_copies(ring_copies.len(), host);
                }
                ring_outputs.extend(outputs);
                ring_copies.push(RingCopies {
                    template,
                    ring_outputs: first_output as u32..ring_outputs.len() as u32,
                });
            }
            if let Some(of_flow) = socket_outputs.get_mut(first_socket_output..) {
                of_flow.sort_by_key(|(socket_output, _)| socket_output.tx_socket);
            }
            if let Some(place) = flows.get_mut(of_flow.flow as usize) {
                *place = Flow {
                    ring_copies: first_copies..ring_copies.len(),
                    socket_outputs: first_socket_output..socket_outputs.len(),
                    keeping: (!keeps.nothing()).then(|| Keeping::new(&flow.matches, keeps)),
                    keeps_apart,
                };
            }
        }
        for (at, (_, next_hop)) in socket_outputs.iter().enumerate() {
            if let Some(host) = *next_hop {
                hops.add_socket_output(at, host);
            }
        }
        let socket_outputs = socket_outputs.into_iter().map(|(output, _)| output);
        Self {
            // The plan has no more shapes than a table takes.
            table: Table::new(keys).unwrap_or_default(),
            inputs: inputs.into(),
            waiting: Arc::default(),
            local: None,
            any_keeps: flows.iter().any(|flow| flow.keeping.is_some()),
            frame_room: room,
            flows: flows.into(),
            ring_copies: ring_copies.into(),
            ring_outputs: ring_outputs.into(),
            socket_outputs: socket_outputs.collect(),
            next_hops: hops.into_any(),
            followed: followed(plan, worker, links, ports),
        }
    }

    /// The table with outputs that wait.
    #[must_use]
    pub(super) fn with_waiting(mut self, waiting: Arc<Waiting>) -> Self {
        self.waiting = waiting;
        self
    }

    /// Takes the place of `former`: what the waiting outputs of each miss is counted up to here,
    /// and from here on.
    pub(super) fn take_over_from(&self, former: &Self, stats: &WorkerStats) {
        former.waiting.end(stats);
        self.waiting.begin(stats);
    }

    /// The links that its copies leave through.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> {
        self.followed.iter().map(|one| Arc::clone(&one.link))
    }

    /// Takes over changes of the links. Called once per round.
    #[inline]
    pub fn follow_links(&mut self) {
        for at in 0..self.followed.len() {
            let changed = self.followed.get(at).and_then(|followed| {
                let state = followed.link.state();
                (state != followed.seen).then_some(state)
            });
            if let Some(state) = changed {
                self.follow(at, state);
            }
        }
    }

    /// Takes over changes of the next hops. Called once per round.
    #[inline]
    pub fn follow_next_hops(&mut self) {
        if let Some(hops) = &mut self.next_hops {
            hops.follow(&mut self.ring_copies, &mut self.socket_outputs);
        }
    }

    #[cold]
    fn follow(&mut self, at: usize, state: State) {
        let Some(followed) = self.followed.get_mut(at) else {
            return;
        };
        followed.seen = state;
        for copies in &self.ring_copies {
            let max_payload = copies.template.max_payload(state.mtu);
            let max_payload = max_payload.min(most_in(self.frame_room, &copies.template));
            let ring_outputs = self.ring_outputs.get_mut(copies.ring_outputs());
            let mine = |ring_output: &&mut RingOutput| followed.ports.contains(&ring_output.port);
            for ring_output in ring_outputs.into_iter().flatten().filter(mine) {
                ring_output.max_payload = max_payload;
            }
        }
        if let Some((tx_socket, joins)) = followed.tx_socket {
            for socket_output in self
                .socket_outputs
                .iter_mut()
                .filter(|socket_output| socket_output.tx_socket == tx_socket)
            {
                let template = &socket_output.template;
                socket_output.max_payload = template.max_payload(state.mtu);
                socket_output.joins = joins && state.joins(template.tags());
            }
        }
    }

    /// How many flow numbers there are.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The slot of an interface, given by the kernel's index, in this table; `None` if no flow
    /// arrives there.
    #[inline]
    #[must_use]
    pub fn input(&self, interface: u32) -> Option<u8> {
        let mut inputs = self.inputs.iter();
        let at = inputs.position(|&input| input == interface)?;
        u8::try_from(at).ok()
    }

    /// The number of the flow that takes `datagram`, which arrived on the interface with the slot
    /// `input`.
    #[inline(always)]
    pub fn look_up(&mut self, input: u8, datagram: &Datagram) -> Option<u32> {
        self.table.look_up(input, datagram)
    }

    /// Whether some copies of any flow keep what others do not.
    #[inline]
    #[must_use]
    pub const fn keep_any(&self) -> bool {
        self.any_keeps
    }

    /// What some copies of `datagram`, which `flow` takes, keep of it; `None` where none keeps
    /// anything. `frame` is what it was decoded from, whose outermost tag may be `beside` it. To be
    /// asked only where [`Self::keep_any`].
    #[must_use]
    pub fn kept(
        &self,
        flow: u32,
        datagram: &Datagram,
        frame: &[u8],
        beside: Option<Tag>,
    ) -> Option<Kept> {
        let keeping = self.flows.get(flow as usize)?.keeping?;
        Some(keeping.kept(datagram, frame, beside))
    }

    /// Whether all copies of two places in a flow go to two destinations, so that their order is
    /// none of any destination's.
    pub(super) fn keeps_apart(&self, flow: u32) -> bool {
        let flow = self.flows.get(flow as usize);
        flow.is_some_and(|flow| flow.keeps_apart)
    }

    /// Whether any copy leaves through a TX ring.
    #[inline]
    pub(super) fn have_ring_outputs(&self) -> bool {
        !self.ring_copies.is_empty()
    }

    /// The ring outputs of a flow, one entry per set of identical frames.
    #[inline]
    #[must_use]
    pub fn ring_copies(&self, flow: u32) -> &[RingCopies] {
        let flow = self.flows.get(flow as usize);
        flow.and_then(|flow| self.ring_copies.get(flow.ring_copies.clone()))
            .unwrap_or(&[])
    }

    /// The socket outputs of a flow, in the order of their TX sockets.
    #[inline]
    #[must_use]
    pub fn socket_outputs(&self, flow: u32) -> &[SocketOutput] {
        let flow = self.flows.get(flow as usize);
        flow.and_then(|flow| self.socket_outputs.get(flow.socket_outputs.clone()))
            .unwrap_or(&[])
    }

    /// The ring outputs of `copies`.
    #[inline]
    #[must_use]
    pub fn ring_outputs(&self, copies: &RingCopies) -> &[RingOutput] {
        self.ring_outputs.get(copies.ring_outputs()).unwrap_or(&[])
    }
}

/// The longest payload of a copy that a chunk with `room` for a frame holds.
fn most_in(room: usize, template: &Template) -> u16 {
    let most = room.saturating_sub(template.headers_len());
    u16::try_from(most).unwrap_or(u16::MAX)
}

/// The links of all interfaces that copies of `worker` leave through.
fn followed(
    plan: &Plan,
    worker: &plan::WorkerPlan,
    links: &Links,
    places: &Ports,
) -> Box<[Followed]> {
    let interfaces = plan.interfaces.with_ids();
    let followed = interfaces.filter_map(|(at, interface)| {
        let tx_method = worker.tx_method(plan, at)?;
        let ports = worker.ports.iter();
        let ports = ports.filter(|port| port.transmits && port.interface == at);
        let mut tx_sockets = worker.tx_sockets.iter();
        let tx_socket = tx_sockets.position(|&tx_socket| tx_socket == at);
        Some(Followed {
            // The outputs are made from the plan. Where the link knows better, they follow it in
            // the first round.
            seen: State::planned(interface),
            link: links.get(interface.index)?,
            ports: ports.filter_map(|port| places.place(plan, port)).collect(),
            tx_socket: tx_socket.map(|tx_socket| (tx_socket, tx_method == TxMethod::Segmented)),
        })
    });
    followed.collect()
}

/// The ports of a worker, in its order, which is not that of the plan.
#[derive(Debug, Clone, Default)]
pub struct Ports(Vec<(u32, u32)>);

impl Ports {
    /// With these ports: the kernel's index of the interface, and the queue.
    #[must_use]
    pub fn of(ports: impl IntoIterator<Item = (u32, u32)>) -> Self {
        Self(ports.into_iter().collect())
    }

    /// The ports of `worker` of `plan` in the plan's order.
    #[must_use]
    pub fn planned(plan: &Plan, worker: &plan::WorkerPlan) -> Self {
        let ports = worker.ports.iter();
        let place =
            |port: &plan::Port| Some((plan.interfaces.get(port.interface)?.index, port.queue));
        Self(ports.filter_map(place).collect())
    }

    /// Where the worker has a port of another plan.
    fn place(&self, plan: &Plan, port: &plan::Port) -> Option<usize> {
        let index = plan.interfaces.get(port.interface)?.index;
        let mut ports = self.0.iter();
        ports.position(|one| *one == (index, port.queue))
    }
}

/// Whether copies of a worker of a plan can leave through an interface, with the ports that it has.
pub(super) fn can_leave(
    plan: &Plan,
    worker: &plan::WorkerPlan,
    interface: InterfaceId,
    places: &Ports,
) -> bool {
    leaves_by(plan, worker, interface, places).is_some()
}

/// How a worker's copies leave through an interface.
enum LeavesBy {
    Port(usize),
    TxSocket { tx_socket: usize, joins: bool },
}

fn leaves_by(
    plan: &Plan,
    worker: &plan::WorkerPlan,
    interface: InterfaceId,
    places: &Ports,
) -> Option<LeavesBy> {
    let tx_method = worker.tx_method(plan, interface)?;
    if tx_method == TxMethod::Xsk {
        let mut ports = worker.ports.iter();
        let port = ports.find(|port| port.transmits && port.interface == interface)?;
        return places.place(plan, port).map(LeavesBy::Port);
    }
    let mut tx_sockets = worker.tx_sockets.iter();
    let tx_socket = tx_sockets.position(|&at| at == interface)?;
    let joins = tx_method == TxMethod::Segmented;
    Some(LeavesBy::TxSocket { tx_socket, joins })
}
