//! One worker's thread, and what control knows of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use log::{debug, warn};

use crate::{
    daemon::{
        affinity::Home,
        error::RunError,
        privileges::give_up::{self, Asked},
    },
    datapath::{Bound, Remote, Worker, socket_drops::SocketCounter},
    host::socket_options,
    plan::{Backend, Mode, PortKey, WorkerKey},
};

/// A worker's thread, and what control knows of it.
pub struct RunningWorker {
    /// Counted from 0 over all workers that the relay ever started.
    pub number: usize,
    /// What tells it from other workers of its plan, and finds it in the next plan.
    pub key: WorkerKey,
    /// The indices of interfaces that its sockets were bound to and that have gone.
    pub gone: BTreeSet<u32>,
    /// The mode of its AF_XDP sockets, as the kernel reports it.
    pub mode: Option<Mode>,
    /// Its flow table and counters.
    pub remote: Remote,
    /// Frames that the kernel dropped in front of it.
    pub drops: SocketCounter,
    /// The log says already that it ended because of a defect.
    pub reported_dead: bool,
    halt: Arc<AtomicBool>,
    /// Returns the worker, so that its sockets stay open until the counters are read.
    handle: JoinHandle<Worker>,
}

impl RunningWorker {
    /// Starts the thread of a worker.
    ///
    /// # Errors
    ///
    /// The kernel refuses a thread.
    pub fn start(
        number: usize,
        key: WorkerKey,
        bound: Bound,
        home: Option<Home>,
    ) -> Result<Self, RunError> {
        let Bound {
            mut worker,
            remote,
            mode,
        } = bound;
        let drops = SocketCounter::new(worker.packet_socket());
        let halt = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&halt);
        let handle = thread::Builder::new()
            .name(format!("relay-worker-{number}"))
            .spawn(move || {
                give_up_privileges(mode);
                if let Some(home) = home {
                    home.settle(number);
                }
                worker.run(&stop, home.is_some_and(Home::is_own));
                worker
            })
            .map_err(|error| RunError::System {
                what: "start a worker's thread",
                error,
            })?;
        let mut started = Self {
            number,
            key,
            gone: BTreeSet::new(),
            mode,
            remote,
            drops,
            reported_dead: false,
            halt,
            handle,
        };
        started.count_drops();
        Ok(started)
    }

    /// Whether its thread has ended: by itself it does so only by a defect.
    pub fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// The indices of the interfaces that it receives from.
    pub fn inputs(&self) -> impl Iterator<Item = u32> {
        let ports = self.key.ports.iter().filter(|port| port.receives);
        ports.map(|port| port.interface).chain(self.key.input)
    }

    /// Whether it has a port on an interface, given by its index.
    pub fn has_port_on(&self, interface: u32) -> bool {
        self.key
            .ports
            .iter()
            .any(|port| port.interface == interface)
    }

    /// The ports that it cannot have as a worker with the key `next`, or that have gone: the
    /// kernel's interface index, and the queue.
    pub fn loses(&self, next: &WorkerKey) -> Vec<(u32, u32)> {
        let ports = self.key.ports.iter().map(PortKey::queue);
        let lost = ports.filter(|port| self.gone.contains(&port.0) || !next.has(*port));
        lost.collect()
    }

    /// The indices of interfaces that it receives from: those that it goes on to receive from as a
    /// worker with the key `next`, if it is kept, and those with a queue that it loses.
    pub fn inputs_after(&self, next: Option<&WorkerKey>) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let Some(next) = next else {
            return (BTreeSet::new(), self.inputs().collect());
        };
        let lost = self.loses(next);
        let receiving = self.key.ports.iter().filter(|port| port.receives);
        let (goes, stays): (Vec<_>, Vec<_>) =
            receiving.partition(|port| lost.contains(&port.queue()));
        let index = |port: &PortKey| port.interface;
        let stays = stays.into_iter().map(index).chain(self.key.input);
        (stays.collect(), goes.into_iter().map(index).collect())
    }

    /// Whether it only sends through one of its ports, and the interface needs no program for that.
    pub fn only_sends(&self, queue: (u32, u32)) -> bool {
        let mut ports = self.key.ports.iter();
        let port = ports.find(|port| port.queue() == queue);
        self.mode == Some(Mode::Copy)
            && !self.gone.contains(&queue.0)
            && port.is_some_and(|port| !port.receives)
    }

    /// It has taken a table without these ports, which it still has to hand back.
    pub fn has_lost(&mut self, lost: &[(u32, u32)]) {
        self.key.ports.retain(|port| !lost.contains(&port.queue()));
        self.gone.clear();
        self.count_drops();
    }

    /// Reads the drops in front of its sockets, and from now on those of the ones that it has now.
    pub fn count_drops(&mut self) {
        let now: Vec<_> = self.remote.receiving_sockets().map(|one| one.fd).collect();
        self.drops.follow(&now);
    }

    /// What it can still do: its key without the ports of interfaces that have gone. `None` if
    /// nothing is left.
    pub fn key_now(&self) -> Option<WorkerKey> {
        if self
            .key
            .input
            .is_some_and(|input| self.gone.contains(&input))
        {
            return None;
        }
        let mut key = self.key.clone();
        key.ports
            .retain(|port| !self.gone.contains(&port.interface));
        let is_xdp = key.backend == Backend::Xdp;
        (!is_xdp || key.ports.iter().any(|port| port.receives)).then_some(key)
    }

    /// Asks it to end, after the frames that have arrived.
    pub fn halt(&self) {
        self.halt.store(true, Relaxed);
        self.remote.wake();
    }

    /// Waits for its end.
    pub fn join(self) -> Joined {
        let Self {
            key,
            remote,
            mut drops,
            handle,
            ..
        } = self;
        let worker = handle.join().ok();
        if worker.is_some() {
            drops.read();
        }
        Joined {
            key,
            remote,
            drops,
            worker,
        }
    }
}

/// A worker whose thread has ended.
pub struct Joined {
    /// As in [`RunningWorker`].
    pub key: WorkerKey,
    /// As in [`RunningWorker`].
    pub remote: Remote,
    /// Its last numbers.
    pub drops: SocketCounter,
    /// Dropping it closes its sockets. `None` after a panic, which closed them.
    pub worker: Option<Worker>,
}

impl Joined {
    /// What was redirected to its AF_XDP sockets and is accounted for: the index of the interface,
    /// and frames. After a panic only of those that were closed before.
    pub fn accounted(&mut self) -> Vec<(u32, u64)> {
        self.remote.close_ports();
        let mut all = self.remote.take_accounted();
        if let Some(Worker::Xdp(worker)) = &self.worker {
            all.extend(worker.accounted());
        }
        all
    }
}

/// Gives up the capabilities that this thread, a worker with AF_XDP sockets in `mode`, does not
/// need. A refusal is only logged.
fn give_up_privileges(mode: Option<Mode>) {
    let asked = match mode {
        Some(Mode::ZeroCopy) => vec![Asked::busy_polling(&socket_options::may_busy_poll)],
        _ => Vec::new(),
    };
    match give_up::give_up(&asked) {
        Ok(kept) if kept.is_empty() => debug!("this worker gave up all capabilities"),
        Ok(kept) => debug!("this worker kept {}", kept.join(", ")),
        Err(error) => warn!(
            "cannot give up capabilities that a worker does not need: {error}; a sandbox must allow \
             capset() and prctl()"
        ),
    }
}
