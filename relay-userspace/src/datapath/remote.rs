//! A worker from control's side: replaces its flow table while it runs, and reads its counters.
//!
//! ```text
//!   prepare ---> Prepared ---> send ---> is_taken ---> (what was in flight has left) ---> retired
//!   may fail,     dropping     cannot    the worker          slots of what is gone        its last
//!   costs time    undoes it    fail      has the new one     may be given to others       numbers
//! ```
//!
//! One change is under way at a time: from `send` until `is_taken`. Flows and outputs that stay
//! keep their counters, TX sockets that stay keep what waits in them.

mod counters;
mod ports;
pub mod taps;

use std::{collections::HashMap, os::fd::RawFd, sync::Arc, thread, time::Duration};

pub use self::counters::{FlowCounters, OutputCounters, Retired};
use super::{
    change::{Change, Exchange, Inbox, NewTxSockets},
    error::SetupError,
    flow_table::{Flows, Ports, can_leave},
    monitor::{FlowMonitor, Health},
    next_hops::NextHops,
    open_runs::OpenRuns,
    output_link::{Link, Links},
    slots::{Assigned, Book, Entry, Leaving, OutputIdentity, Slots},
    stats::{Count, Dropped, WorkerStats},
    tx_socket::{self, TxSocket},
    uring::send_slots::SendSlots,
    waiting::Waiting,
    xdp::{
        Sockets,
        local_frames::{LocalFrames, LocalSockets},
        sockets,
    },
};
use crate::plan::{self, Backend, Plan, WaitsFor};

/// How often to try to read a monitor that is being written, and how long to wait in between.
const READ_TRIES: u32 = 100;
const READ_AGAIN: Duration = Duration::from_micros(200);

/// When every frame that was in a worker's rings or socket has been dealt with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holds {
    /// After so many rounds over its rings, whatever else arrives.
    Rounds(u64),
    /// After so many arrivals: frames, or GSO packets of many datagrams.
    Arrivals(u64),
}

/// The control-side handle of one worker. Make it with the worker, see
/// [`bind`](crate::datapath::bind).
#[derive(Debug)]
pub struct Remote {
    stats: Arc<WorkerStats>,
    exchange: Arc<Exchange>,
    holds: Holds,
    backend: Backend,
    /// On XDP the sockets of its ports.
    sockets: Option<Sockets>,
    book: Book,
    links: Links,
    /// The outputs of the last table that wait.
    waiting: Arc<Waiting>,
    /// Those of the table before, which the worker has until it takes the last one.
    waiting_before: Arc<Waiting>,
    /// The worker's TX sockets, in its order.
    tx_sockets: Vec<Opened>,
    /// The index of the local device, if there is one.
    local_device: Option<u32>,
    /// The sockets of its table for local frames.
    local: LocalSockets,
    /// The generation of the last change that was sent.
    sent: u64,
    /// The monitors of its flows, by rule. A flow that stays keeps its own.
    monitors: Monitors,
    /// What the worker may still count for, with the generation that ended it.
    leaving: Vec<(u64, Leaving, Option<Arc<FlowMonitor>>)>,
    retired: Vec<Retired>,
    taps: Vec<taps::Begun>,
}

/// Monitors of flows, by rule.
type Monitors = HashMap<String, Arc<FlowMonitor>>;

/// A TX socket that a worker has.
#[derive(Debug, Clone, Copy)]
struct Opened {
    /// The kernel's index of the interface.
    index: u32,
    /// Open as long as it is in the list: the worker closes none, but when it ends.
    fd: RawFd,
}

/// A change that is ready to be sent. Dropping it undoes it.
#[derive(Debug)]
pub struct Prepared {
    change: Box<Change>,
    assigned: Assigned,
    links: Links,
    waiting: Arc<Waiting>,
    tx_sockets: Vec<Opened>,
    local: LocalSockets,
    monitors: Monitors,
    ports: Option<sockets::Prepared>,
}

/// How far a worker had come at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    rounds: u64,
    empty_rounds: u64,
    arrivals: u64,
}

/// What a worker begins with.
pub(super) struct First {
    pub flows: Flows,
    pub open: OpenRuns,
    pub tx_sockets: Vec<TxSocket>,
    pub inbox: Inbox,
    pub stats: Arc<WorkerStats>,
}

impl Remote {
    /// A handle, and what its worker begins with: `worker` of `plan`. Opens the TX sockets.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub(super) fn new(
        plan: &Plan,
        worker: &plan::WorkerPlan,
        holds: Holds,
        sockets: Option<Sockets>,
        local_device: Option<u32>,
        next_hops: &Arc<NextHops>,
    ) -> Result<(Self, First), SetupError> {
        let stats = WorkerStats::new(0, 0).map_err(SetupError::Counters)?;
        let exchange = Exchange::new().map_err(SetupError::Bell)?;
        let mut remote = Self {
            stats: Arc::new(stats),
            exchange: Arc::new(exchange),
            holds,
            backend: worker.backend,
            sockets,
            book: Book::default(),
            links: Links::with(next_hops),
            waiting: Arc::default(),
            waiting_before: Arc::default(),
            tx_sockets: Vec::new(),
            local_device,
            local: LocalSockets::default(),
            sent: 0,
            monitors: Monitors::new(),
            leaving: Vec::new(),
            retired: Vec::new(),
            taps: Vec::new(),
        };
        let prepared = remote.prepare(plan, worker)?;
        let change = remote.commit(prepared);
        let first = First {
            flows: change.flows,
            open: change.open,
            tx_sockets: change.tx_sockets.into_first(),
            inbox: Inbox::new(Arc::clone(&remote.exchange)),
            stats: Arc::clone(&remote.stats),
        };
        Ok((remote, first))
    }

    /// Makes ready that the worker forwards what `worker` of `plan` says, which must have the
    /// worker's input: opens TX sockets that are missing, and builds the table. For the worker
    /// nothing changes. Ports that are missing are bound by [`Self::bind_missing`]; ports that
    /// `worker` does not have must be gone, see [`Self::prepare_without`].
    ///
    /// # Errors
    ///
    /// The kernel refuses a socket or memory, or the worker has not taken the last change yet.
    /// Nothing stays open.
    pub fn prepare(
        &mut self,
        plan: &Plan,
        worker: &plan::WorkerPlan,
    ) -> Result<Prepared, SetupError> {
        self.prepare_without(plan, worker, &[])
    }

    /// The same with the ports that the worker has, but for `lost`, which are some of them: the
    /// kernel's index of the interface, and the queue. Copies of outputs that have no port yet do
    /// not leave.
    ///
    /// # Errors
    ///
    /// As [`Self::prepare`].
    pub fn prepare_without(
        &mut self,
        plan: &Plan,
        worker: &plan::WorkerPlan,
        lost: &[(u32, u32)],
    ) -> Result<Prepared, SetupError> {
        if !self.is_taken() {
            return Err(SetupError::Untaken);
        }
        let assigned = self.book.assign(plan, worker);
        let (flows, outputs) = assigned.ends();
        let grown = self.stats.flows.grow(flows);
        grown
            .and_then(|()| self.stats.local_failed.grow(flows))
            .and_then(|()| self.stats.outputs.grow(outputs))
            .map_err(SetupError::Counters)?;
        let links = Links::of(plan, worker, &self.links);
        let mut kept = vec![None; self.tx_sockets.len()];
        let (mut tx_places, mut tx_sockets) = (Vec::new(), Vec::new());
        for interface in worker.tx_sockets.iter() {
            let Some(interface) = plan.interfaces.get(*interface) else {
                continue;
            };
            if let Some((at, opened)) = self.open_on(interface.index) {
                if let Some(place) = kept.get_mut(at) {
                    *place = Some(tx_places.len());
                }
                tx_places.push(None);
                tx_sockets.push(opened);
                continue;
            }
            let link = links.get(interface.index);
            let link = link.unwrap_or_else(|| Arc::new(Link::new(interface)));
            let tx_socket = TxSocket::open(interface, link)?;
            tx_sockets.push(Opened {
                index: interface.index,
                fd: tx_socket.fd(),
            });
            tx_places.push(Some(tx_socket));
        }
        let ports = self.sockets.as_ref();
        let (ports, port_change) = ports
            .map(|sockets| sockets.prepare(plan, worker, lost))
            .unzip();
        let places = match &ports {
            Some(ports) => Ports::of(ports.keys()),
            None => Ports::planned(plan, worker),
        };
        let waiting = assigned.slots.iter().flat_map(|slots| {
            let outputs = slots.waiting.iter();
            outputs.map(|&(output, waits_for)| (slots.flow, output, reason(waits_for)))
        });
        // Until the next table, where its port is not bound yet.
        let planned = worker.flows.iter().filter_map(|&at| plan.flows.get(at));
        let held_up = planned
            .zip(assigned.slots.iter())
            .flat_map(|(flow, slots)| {
                let outputs = flow.outputs.iter().zip(&slots.outputs);
                let held_up =
                    outputs.filter(|(one, _)| !can_leave(plan, worker, one.interface, &places));
                held_up.map(|(_, &output)| (slots.flow, output, Dropped::Pending))
            });
        let waiting = Arc::new(Waiting::new(waiting.chain(held_up), &self.stats));
        let flows = Flows::new(plan, worker, &assigned.slots, &links, &places);
        let local = self.local.for_worker(plan, worker, self.local_device)?;
        let local_frames = LocalFrames::new(plan, worker, &assigned.slots, local.clone());
        let flows = flows.with_waiting(Arc::clone(&waiting));
        let flows = flows.with_local(local_frames);
        let (monitors, by_slot) = self.monitors(plan, worker, &assigned.slots);
        let flows = flows.with_monitors(by_slot);
        let more_slots =
            self.backend == Backend::IoUring && tx_sockets.len() != self.tx_sockets.len();
        let change = Change {
            generation: self.sent + 1,
            open: OpenRuns::new(flows.len()),
            flows,
            send_slots: more_slots.then(|| SendSlots::new(tx_sockets.len())),
            tx_sockets: NewTxSockets::new(kept.into(), tx_places),
            ports: port_change,
        };
        Ok(Prepared {
            change: Box::new(change),
            assigned,
            links,
            waiting,
            tx_sockets,
            local,
            monitors,
            ports,
        })
    }

    /// The monitors that a table for `worker` of `plan` has, by rule and by slot.
    fn monitors(
        &self,
        plan: &Plan,
        worker: &plan::WorkerPlan,
        slots: &Slots,
    ) -> (Monitors, Box<[Option<Arc<FlowMonitor>>]>) {
        let (mut by_rule, mut by_slot) = (Monitors::new(), Vec::new());
        let flows = worker.flows.iter().filter_map(|&at| plan.flows.get(at));
        for (flow, slots) in flows.zip(slots.iter()) {
            let Some(wanted) = flow.monitor else { continue };
            let known = self.monitors.get(&flow.rule);
            let known = known.filter(|known| known.kind() == wanted);
            let monitor = known.map_or_else(|| Arc::new(FlowMonitor::new(wanted)), Arc::clone);
            let slot = slots.flow as usize;
            if by_slot.len() <= slot {
                by_slot.resize(slot + 1, None);
            }
            if let Some(place) = by_slot.get_mut(slot) {
                *place = Some(Arc::clone(&monitor));
            }
            by_rule.insert(flow.rule.clone(), monitor);
        }
        (by_rule, by_slot.into())
    }

    /// Wakes the worker, so that it sees that it shall stop.
    pub fn wake(&self) {
        self.exchange.wake();
    }

    /// The worker's TX socket on the interface with this index, with its position, unless the
    /// kernel has unbound it.
    fn open_on(&self, index: u32) -> Option<(usize, Opened)> {
        let mut opened = self.tx_sockets.iter().copied().enumerate();
        opened.find(|(_, opened)| {
            opened.index == index && tx_socket::is_bound(opened.fd, opened.index)
        })
    }

    /// Hands a change over. The worker takes it at the end of its batch, or when it wakes. Returns
    /// false, and undoes it, if another change was sent after this one was prepared.
    pub fn send(&mut self, prepared: Prepared) -> bool {
        if prepared.change.generation != self.sent + 1 {
            return false;
        }
        let change = self.commit(prepared);
        self.sent = change.generation;
        self.exchange.send(change);
        true
    }

    /// Makes a change what control knows of the worker.
    fn commit(&mut self, prepared: Prepared) -> Box<Change> {
        let generation = prepared.change.generation;
        let leaving = self.book.commit(prepared.assigned).into_iter();
        self.end_changed_taps();
        let monitors = std::mem::replace(&mut self.monitors, prepared.monitors);
        self.leaving.extend(leaving.map(|gone| {
            let monitor = gone.flow.and_then(|_| monitors.get(&gone.rule).cloned());
            (generation, gone, monitor)
        }));
        self.links = prepared.links;
        self.waiting_before = std::mem::replace(&mut self.waiting, prepared.waiting);
        self.tx_sockets = prepared.tx_sockets;
        self.local = prepared.local;
        if let (Some(sockets), Some(ports)) = (&mut self.sockets, prepared.ports) {
            sockets.commit(ports);
        }
        prepared.change
    }

    /// The outputs that wait of the table that the worker has.
    fn waiting(&self) -> &Waiting {
        match self.exchange.taken() < self.sent {
            true => &self.waiting_before,
            false => &self.waiting,
        }
    }

    /// Whether the worker has taken the last change that was sent. Frees what it gave back: closes
    /// the TX sockets that are gone, whose waiting copies it has counted as unsent.
    pub fn is_taken(&mut self) -> bool {
        if self.exchange.taken() < self.sent {
            return false;
        }
        drop(self.exchange.back());
        self.settle(self.exchange.settled());
        true
    }

    /// Reads the last numbers of what is gone since a generation up to `settled`, and makes its
    /// slots ready for others.
    fn settle(&mut self, settled: u64) {
        let leaving = std::mem::take(&mut self.leaving);
        for (generation, gone, monitor) in leaving {
            if generation > settled {
                self.leaving.push((generation, gone, monitor));
                continue;
            }
            let failed = gone.flow.map(|slot| self.local_failed(slot));
            self.retired.push(Retired {
                matched: gone.flow.map(|slot| self.matched(slot)),
                bytes: gone.flow.map_or(0, |slot| self.bytes(slot)),
                local_failed: failed.unwrap_or(0),
                health: monitor.as_deref().and_then(read),
                outputs: self.outputs(&gone.outputs),
                rule: gone.rule.clone(),
            });
            if let Some(slot) = gone.flow {
                if let Some(flow) = self.stats.flows.get(slot as usize) {
                    flow.reset();
                }
                if let Some(failed) = self.stats.local_failed.get(slot as usize) {
                    failed.set(0);
                }
            }
            for &(_, slot) in &gone.outputs {
                if let Some(output) = self.stats.outputs.get(slot as usize) {
                    output.reset();
                }
            }
            self.book.release(&gone);
        }
    }

    /// The last numbers of rules and outputs that are gone, each once, as soon as nothing that
    /// counts for them is in flight any more. From then on the worker's counters do not contain
    /// them.
    pub fn retired(&mut self) -> Vec<Retired> {
        self.settle(self.exchange.settled());
        std::mem::take(&mut self.retired)
    }

    /// Whether slots of something that is gone are still counted for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.exchange.settled() >= self.sent
    }

    /// The last numbers of everything. The worker must have ended, whether it has taken the last
    /// change or not.
    #[must_use]
    pub fn into_last(mut self) -> Vec<Retired> {
        self.waiting().end(&self.stats);
        self.settle(u64::MAX);
        let mut last = std::mem::take(&mut self.retired);
        last.extend(self.book.iter().map(|(rule, entry)| Retired {
            rule: rule.to_owned(),
            matched: Some(self.matched(entry.flow)),
            bytes: self.bytes(entry.flow),
            local_failed: self.local_failed(entry.flow),
            health: self.health(rule),
            outputs: self.outputs(&entry.outputs),
        }));
        last
    }

    /// How far the worker has come, for [`Remote::drained`].
    #[must_use]
    pub fn mark(&self) -> Mark {
        let progress = &self.stats.progress;
        Mark {
            rounds: progress.rounds.get(),
            empty_rounds: progress.empty_rounds.get(),
            arrivals: progress.arrivals.get(),
        }
    }

    /// Whether the worker has dealt with every frame that was in its RX rings, or its RX socket, at
    /// the moment of `mark`: a round that began later has found nothing, or the worker has taken as
    /// much as they hold.
    #[must_use]
    pub fn drained(&self, mark: &Mark) -> bool {
        let now = self.mark();
        // The first round that ends after the mark may have begun before it.
        if now.empty_rounds.wrapping_sub(mark.empty_rounds) >= 2 {
            return true;
        }
        match self.holds {
            Holds::Rounds(rounds) => now.rounds.wrapping_sub(mark.rounds) > rounds,
            Holds::Arrivals(most) => now.arrivals.wrapping_sub(mark.arrivals) >= most,
        }
    }

    /// The counters of a rule's flow; `None` if the worker does not have it.
    #[must_use]
    pub fn flow(&self, rule: &str) -> Option<FlowCounters> {
        let entry = self.book.get(rule)?;
        Some(self.counters(rule, entry))
    }

    /// The counters of all flows, with their rules' names, in any order.
    pub fn flows(&self) -> impl Iterator<Item = (&str, FlowCounters)> {
        let entries = self.book.iter();
        entries.map(|(rule, entry)| (rule, self.counters(rule, entry)))
    }

    fn counters(&self, rule: &str, entry: &Entry) -> FlowCounters {
        FlowCounters {
            matched: self.matched(entry.flow),
            bytes: self.bytes(entry.flow),
            local_failed: self.local_failed(entry.flow),
            health: self.health(rule),
            outputs: self.outputs(&entry.outputs),
        }
    }

    /// What the monitor of a rule knows, if it has one.
    fn health(&self, rule: &str) -> Option<Health> {
        self.monitors.get(rule).and_then(|monitor| read(monitor))
    }

    fn matched(&self, slot: u32) -> u64 {
        let flow = self.stats.flows.get(slot as usize);
        flow.map_or(0, |flow| flow.matched.get())
    }

    fn bytes(&self, slot: u32) -> u64 {
        let flow = self.stats.flows.get(slot as usize);
        flow.map_or(0, |flow| flow.bytes.get())
    }

    fn local_failed(&self, slot: u32) -> u64 {
        let failed = self.stats.local_failed.get(slot as usize);
        failed.map_or(0, Count::get)
    }

    fn outputs(&self, outputs: &[(OutputIdentity, u32)]) -> Vec<OutputCounters> {
        let waiting = self.waiting();
        let counters = |(output, slot): &(OutputIdentity, u32)| {
            let mut counters = OutputCounters::read(&self.stats, output, *slot);
            if !waiting.is_empty()
                && let Some((reason, missed)) = waiting.missed(*slot, &self.stats)
            {
                counters.drops[reason as usize] += missed;
            }
            counters
        };
        outputs.iter().map(counters).collect()
    }

    /// The slot of a rule's flow in the worker's counters; `None` if the worker does not have it.
    #[must_use]
    pub fn flow_slot(&self, rule: &str) -> Option<u32> {
        self.book.get(rule).map(|entry| entry.flow)
    }

    /// The slots of all flows and their outputs, with their rules' names, in any order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.book.iter()
    }

    /// Frames that outputs which wait miss so far, beyond what is counted, one by one.
    pub fn missed(&self) -> impl Iterator<Item = (Dropped, u64)> {
        self.waiting().all_missed(&self.stats)
    }

    /// The counters, which stay readable after the worker ended.
    #[must_use]
    pub fn stats(&self) -> &Arc<WorkerStats> {
        &self.stats
    }

    /// What the worker knows about the links that copies leave through, one per interface. A link
    /// stays the same over changes for as long as an output uses it.
    pub fn links(&self) -> impl Iterator<Item = Arc<Link>> + '_ {
        self.links.iter().cloned()
    }
}

/// What a monitor knows. A worker that was interrupted in the middle of a datagram goes on soon.
fn read(monitor: &FlowMonitor) -> Option<Health> {
    for _ in 0..READ_TRIES {
        if let Some(health) = monitor.read() {
            return Some(health);
        }
        thread::sleep(READ_AGAIN);
    }
    monitor.read()
}

/// Under what frames count that an output misses.
fn reason(waits_for: WaitsFor) -> Dropped {
    match waits_for {
        WaitsFor::Interface => Dropped::Pending,
        WaitsFor::Route => Dropped::NoRoute,
    }
}

#[cfg(test)]
mod tests;
