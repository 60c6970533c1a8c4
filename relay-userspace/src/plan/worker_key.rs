//! What a worker is set up with.
//!
//! Two workers of two plans with the same key are the same worker: it can go on with other flows
//! and other TX sockets. And a worker with AF_XDP sockets can get and lose ports while it runs
//! ([`WorkerKey::can_become`]); the rest cannot change. Ids are positions in one plan, so a key has
//! the kernel's interface indices.

use std::collections::HashMap;

use super::{
    backend::Backend,
    ids::InterfaceId,
    model::{Mode, Plan, WorkerPlan},
};

/// Everything of a worker but its flows and its TX sockets. Unique in its plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerKey {
    /// What moves its frames.
    pub backend: Backend,
    /// The CPU that it is pinned to.
    pub cpu: Option<u32>,
    /// The queues that it has an AF_XDP socket on, ascending; empty on io_uring.
    pub ports: Vec<PortKey>,
    /// On io_uring, the index of the interface that it receives from.
    pub input: Option<u32>,
    /// The mode of its AF_XDP sockets; `None` on io_uring.
    pub mode: Option<Mode>,
    /// Bytes per chunk of its UMEM; 0 on io_uring.
    pub chunk_size: u32,
    /// On io_uring, how many workers share the flows of its input, itself among them; 0 on XDP.
    pub fanout: u32,
}

impl WorkerKey {
    /// Whether a worker with this key can become one with the key `next` while it runs: the ports
    /// may be others, but it goes on to receive somewhere. Returns how many queues it goes on to
    /// receive from.
    #[must_use]
    pub fn can_become(&self, next: &Self) -> Option<usize> {
        let same = self.backend == Backend::Xdp
            && self.backend == next.backend
            && self.cpu == next.cpu
            && self.mode == next.mode
            && self.chunk_size == next.chunk_size;
        let stays = |port: &&PortKey| port.receives && next.receives_from(port.queue());
        let staying = self.ports.iter().filter(stays).count();
        (same && staying > 0).then_some(staying)
    }

    /// Whether it has a port on a queue of an interface.
    #[must_use]
    pub fn has(&self, queue: (u32, u32)) -> bool {
        self.ports.iter().any(|port| port.queue() == queue)
    }

    /// Whether it receives from a queue of an interface.
    #[must_use]
    pub fn receives_from(&self, queue: (u32, u32)) -> bool {
        let mut ports = self.ports.iter();
        ports.any(|port| port.receives && port.queue() == queue)
    }
}

impl PortKey {
    /// The kernel's interface index, and the queue.
    #[must_use]
    pub const fn queue(&self) -> (u32, u32) {
        (self.interface, self.queue)
    }
}

/// One (interface, queue) pair of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// The kernel's interface index.
    pub interface: u32,
    /// The queue.
    pub queue: u32,
    /// Matching frames of this queue are received here.
    pub receives: bool,
    /// Copies leave through this queue.
    pub transmits: bool,
}

/// The keys of all workers, in the order of [`Plan::workers`].
#[must_use]
pub fn worker_keys(plan: &Plan) -> Vec<WorkerKey> {
    let mut sharing: HashMap<InterfaceId, u32> = HashMap::new();
    for input in plan.workers.iter().filter_map(|worker| worker.input) {
        *sharing.entry(input).or_default() += 1;
    }
    let fanout = |worker: &WorkerPlan| {
        let sharing = worker.input.and_then(|input| sharing.get(&input));
        sharing.copied().unwrap_or(0)
    };
    let workers = plan.workers.iter();
    workers
        .map(|worker| key(plan, worker, fanout(worker)))
        .collect()
}

fn key(plan: &Plan, worker: &WorkerPlan, fanout: u32) -> WorkerKey {
    let index = |id| {
        let interface = plan.interfaces.get(id);
        interface.map_or(0, |interface| interface.index)
    };
    let ports = worker.ports.iter();
    let mut ports: Vec<PortKey> = ports
        .map(|port| PortKey {
            interface: index(port.interface),
            queue: port.queue,
            receives: port.receives,
            transmits: port.transmits,
        })
        .collect();
    // The plan has them in the order of its ids, which are others in another plan.
    ports.sort_unstable();
    let mode = match worker.backend {
        Backend::Xdp => Some(worker.mode(plan)),
        Backend::IoUring => None,
    };
    WorkerKey {
        backend: worker.backend,
        cpu: worker.cpu,
        ports,
        input: worker.input.map(index),
        mode,
        chunk_size: mode.map_or(0, |mode| worker.chunk_size(plan, mode)),
        fanout,
    }
}
