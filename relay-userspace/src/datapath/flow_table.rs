//! The flows of a worker, flat in memory, and the look-up. `layout` makes them from a plan.
//!
//! A flow's outputs are ring outputs or socket outputs. A [`RingOutput`] leaves through an AF_XDP
//! TX ring; those with identical frames are one [`RingCopies`]. A [`SocketOutput`] leaves through a
//! packet socket, in GSO packets where the interface takes them. Each kind is a range of one array
//! per worker, so that the loop walks memory in order.
//!
//! A flow's number is the slot of its counters, so it stays the same when another table replaces
//! this one.

mod followed_hops;
mod layout;
mod ports;

use std::{ops::Range, sync::Arc};

use relay_common::wire::{Datagram, Tag};

use self::followed_hops::FollowedHops;
pub(super) use self::layout::can_leave;
pub use self::ports::Ports;
use super::{
    monitor::FlowMonitor,
    output_link::{Link, State},
    stats::{Dropped, WorkerStats},
    waiting::Waiting,
    xdp::local_frames::LocalFrames,
};
use crate::{
    matching::Table,
    packet::{Keeping, Kept, Template},
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
    /// By slot, the monitors of flows that have one; empty if none has.
    monitors: Box<[Option<Arc<FlowMonitor>>]>,
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
    /// The table with outputs that wait.
    #[must_use]
    pub(super) fn with_waiting(mut self, waiting: Arc<Waiting>) -> Self {
        self.waiting = waiting;
        self
    }

    /// The table with monitors, by slot.
    #[must_use]
    pub(super) fn with_monitors(mut self, monitors: Box<[Option<Arc<FlowMonitor>>]>) -> Self {
        self.monitors = monitors;
        self
    }

    /// Whether any flow has a monitor.
    #[inline]
    #[must_use]
    pub const fn have_monitors(&self) -> bool {
        !self.monitors.is_empty()
    }

    /// The monitor of a flow, if it has one.
    #[inline]
    #[must_use]
    pub fn monitor(&self, flow: u32) -> Option<&FlowMonitor> {
        self.monitors.get(flow as usize)?.as_deref()
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

    /// Counts the copies of a frame of `flow` that are not made any more, because the worker ends.
    #[cold]
    pub(super) fn count_unsent(&self, flow: u32, stats: &WorkerStats) {
        let copies = self.ring_copies(flow).iter();
        let ring_outputs = copies.flat_map(|copies| self.ring_outputs(copies));
        let ring_outputs = ring_outputs.map(|one| one.output);
        let socket_outputs = self.socket_outputs(flow).iter().map(|one| one.output);
        for output in ring_outputs.chain(socket_outputs) {
            if let Some(output) = stats.outputs.get(output as usize) {
                output.drops.add(Dropped::UnsentAtExit, 1);
            }
        }
    }
}

/// The longest payload of a copy that a chunk with `room` for a frame holds.
fn most_in(room: usize, template: &Template) -> u16 {
    let most = room.saturating_sub(template.headers_len());
    u16::try_from(most).unwrap_or(u16::MAX)
}
