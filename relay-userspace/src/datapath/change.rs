//! What control hands to a worker that runs: a new flow table, and what goes with it.
//!
//! A worker never shares its table. Control builds another one, whole, and hands it over as one
//! [`Change`]; the worker swaps the two between two batches, when it holds no frame, and hands the
//! old one back, for control to free. So no batch ever sees two tables, and nothing ever sees half
//! of one.
//!
//! Per round the worker looks at one flag. A worker that sleeps is woken by a [`Bell`]. It takes
//! the lock behind the flag only when the flag is set, and only if it need not wait: control holds
//! the lock for a few instructions, and not at all between handing a change over and getting the
//! old table back.
//!
//! Frames that left the batch before the swap still count for outputs of the old table: those that
//! wait in a TX ring or a backlog. The worker reports a change as settled when all of these have
//! left or are given up, whatever came behind them.

use std::{
    io,
    sync::{
        Arc, PoisonError, TryLockError,
        atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::{Duration, Instant},
};

use super::{
    batch::Batch,
    flow_table::Flows,
    open_runs::OpenRuns,
    stats::{Outputs, WorkerStats},
    sync::{AtomicBool, AtomicU64, Mutex, MutexGuard},
    tx_socket::{self, TxSocket},
    uring::send_slots::SendSlots,
    xdp::{
        Chunks, Closed, Port,
        port_change::{PortChange, PortMail},
    },
};
use crate::host::Bell;

/// What a worker swaps at once. After the swap it holds what the worker had before.
#[derive(Debug)]
pub struct Change {
    /// Counts the changes of a worker, from 1 on.
    pub generation: u64,
    /// The flow table.
    pub flows: Flows,
    /// The open runs of a batch for as many flows.
    pub open: OpenRuns,
    /// The TX sockets that the table refers to.
    pub tx_sockets: NewTxSockets,
    /// On XDP the ports that the table refers to.
    pub ports: Option<PortChange>,
    /// On io_uring the send slots, if there must be more or fewer of them.
    pub send_slots: Option<SendSlots>,
}

impl Change {
    /// Swaps the worker's flow table, and what goes with it in the batch, which must be empty.
    pub fn swap_table<P>(&mut self, flows: &mut Flows, batch: &mut Batch<P>, stats: &WorkerStats) {
        self.flows.take_over_from(flows, stats);
        std::mem::swap(flows, &mut self.flows);
        batch.resize(&mut self.open);
    }
}

/// The TX sockets of a table: those that the worker has already, and new ones.
#[derive(Debug)]
pub struct NewTxSockets {
    /// For each that the worker has, its place among the new ones.
    kept: Box<[Option<usize>]>,
    /// By place: the new ones, and room for those that are kept.
    places: Vec<Option<TxSocket>>,
    /// Empty, with room for all; after the swap, what the worker had, empty.
    other: Vec<TxSocket>,
    /// Empty, with room for all that are not kept; after the swap, those.
    closed: Vec<TxSocket>,
}

impl NewTxSockets {
    /// The sockets in `places`, and in each place that is `None` one that the worker has: `kept`
    /// gives the place for each of those, or `None` for one that is to be closed.
    pub fn new(kept: Box<[Option<usize>]>, places: Vec<Option<TxSocket>>) -> Self {
        Self {
            other: Vec::with_capacity(places.len()),
            closed: Vec::with_capacity(kept.iter().filter(|place| place.is_none()).count()),
            kept,
            places,
        }
    }

    /// Replaces the worker's TX sockets. Counts what waits in those that are to be closed. Nothing
    /// in flight may refer to any of them by its position.
    pub fn swap(&mut self, tx_sockets: &mut Vec<TxSocket>, outputs: &Outputs) {
        for (at, tx_socket) in tx_sockets.drain(..).enumerate() {
            let place = self.kept.get(at).copied().flatten();
            match place.and_then(|place| self.places.get_mut(place)) {
                Some(place) => *place = Some(tx_socket),
                None => self.closed.push(tx_socket),
            }
        }
        tx_socket::abandon_all(&mut self.closed, outputs);
        self.other.extend(self.places.drain(..).flatten());
        std::mem::swap(tx_sockets, &mut self.other);
    }

    /// All of them, for a worker that has none yet.
    pub fn into_first(self) -> Vec<TxSocket> {
        self.places.into_iter().flatten().collect()
    }
}

/// What control and a worker share.
#[derive(Debug)]
#[repr(align(128))]
pub struct Exchange {
    /// The worker must look: there is a change, or one that has not settled.
    calls: AtomicBool,
    /// The generation of the last change that the worker has taken.
    taken: AtomicU64,
    /// The generation of the last change that has settled.
    settled: AtomicU64,
    mail: Mutex<Mail>,
    /// Wakes the worker.
    bell: Bell,
}

#[derive(Debug, Default)]
struct Mail {
    /// From control to the worker.
    change: Option<Box<Change>>,
    /// Back from the worker.
    back: Option<Box<Change>>,
    ports: PortMail,
}

impl Exchange {
    /// With nothing in it.
    ///
    /// # Errors
    ///
    /// The kernel refuses an eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            calls: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            mail: Mutex::default(),
            bell: Bell::new()?,
        })
    }

    /// Hands a change over. Every earlier one must have come back.
    pub fn send(&self, change: Box<Change>) {
        self.lock().change = Some(change);
        self.call();
    }

    /// Makes the worker look, and wakes it.
    fn call(&self) {
        self.calls.store(true, Release);
        self.bell.ring();
    }

    /// Wakes the worker.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// The generation of the last change that the worker has taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Acquire)
    }

    /// The generation of the last change that has settled.
    pub fn settled(&self) -> u64 {
        self.settled.load(Acquire)
    }

    /// What the worker has handed back.
    pub fn back(&self) -> Option<Box<Change>> {
        self.lock().back.take()
    }

    /// The ports that the worker has handed back, to be closed.
    pub fn gone(&self) -> Vec<Port> {
        std::mem::take(&mut self.lock().ports.gone)
    }

    /// Tells the worker what closed ports had.
    pub fn closed(&self, closed: Vec<Closed>) {
        if closed.is_empty() {
            return;
        }
        let mut mail = self.lock();
        let ports = &mut mail.ports;
        let reclaimed = if ports.is_reclaimed {
            std::mem::take(&mut ports.closed)
        } else {
            Vec::new()
        };
        ports.closed.extend(closed);
        ports.is_reclaimed = false;
        drop(mail);
        self.call();
        drop(reclaimed);
    }

    #[cfg(test)]
    pub fn while_locked(&self, act: impl FnOnce()) {
        let _locked = self.lock();
        act();
    }

    /// The worker's way to the mail. `None` if control is at it just now: then the worker is called
    /// again in the next round.
    #[cold]
    fn try_lock(&self) -> Option<MutexGuard<'_, Mail>> {
        match self.mail.try_lock() {
            Ok(mail) => Some(mail),
            Err(TryLockError::Poisoned(mail)) => Some(mail.into_inner()),
            Err(TryLockError::WouldBlock) => {
                self.calls.store(true, Relaxed);
                None
            }
        }
    }

    /// A worker that panicked with the lock left the mail whole: every change of it is one step.
    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's end of the exchange.
#[derive(Debug)]
pub struct Inbox {
    exchange: Arc<Exchange>,
    /// The change that has not settled: its generation, and when it was taken.
    unsettled: Option<(u64, Instant)>,
}

impl Inbox {
    /// The end of `exchange` for its one worker.
    pub fn new(exchange: Arc<Exchange>) -> Self {
        Self {
            exchange,
            unsettled: None,
        }
    }

    /// Rings when there may be something in the inbox, or when the worker shall stop.
    pub fn bell(&self) -> &Bell {
        &self.exchange.bell
    }

    /// Whether the worker must look: [`Inbox::take`], and then [`Inbox::settle`].
    #[inline]
    pub fn calls(&self) -> bool {
        self.exchange.calls.load(Relaxed)
    }

    /// Takes the change, if there is one: `swap` puts it into effect, between two batches. If
    /// control holds the lock just now, the next round takes it.
    ///
    /// Frees in `chunks`, on XDP, what closed ports had: ports that come with the change may be
    /// known by their tags.
    #[cold]
    pub fn take(&mut self, chunks: Option<&mut Chunks>, swap: impl FnOnce(&mut Change)) {
        // Before the mail is looked at: what control hands over from now on calls anew.
        self.exchange.calls.swap(false, AcqRel);
        let Some(mut mail) = self.exchange.try_lock() else {
            return;
        };
        if let Some(chunks) = chunks {
            mail.ports.reclaim(chunks);
        }
        let Some(mut change) = mail.change.take() else {
            return;
        };
        swap(&mut change);
        let generation = change.generation;
        self.unsettled = Some((generation, Instant::now()));
        mail.back = Some(change);
        drop(mail);
        self.exchange.taken.store(generation, Release);
    }

    /// Hands back the ports that have `gone`. Whatever is left to do calls the worker again.
    #[cold]
    pub fn hand_back(&mut self, gone: &mut Vec<Port>) {
        let Some(mut mail) = self.exchange.try_lock() else {
            return;
        };
        if mail.ports.hand_back(gone) {
            self.exchange.calls.store(true, Relaxed);
        }
    }

    /// How long ago the last change was taken, if it has not settled.
    pub fn unsettled_for(&self) -> Option<Duration> {
        self.unsettled.map(|(_, taken)| taken.elapsed())
    }

    /// Reports the last change as settled if `is_settled` says that nothing is in flight from
    /// before the moment it is given; otherwise calls the worker again in the next round.
    #[cold]
    pub fn settle(&mut self, is_settled: impl FnOnce(Instant) -> bool) {
        let Some((generation, taken)) = self.unsettled else {
            return;
        };
        if is_settled(taken) {
            self.unsettled = None;
            self.exchange.settled.store(generation, Release);
        } else {
            self.exchange.calls.store(true, Relaxed);
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests;
