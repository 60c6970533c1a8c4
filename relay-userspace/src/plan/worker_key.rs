//! What a worker is set up with, and cannot change while it runs.
//!
//! Two workers of two plans with the same key are the same worker: it can go on with other flows and
//! other TX sockets. Ids are positions in one plan, so a key has the kernel's interface indices.

use std::collections::HashMap;

use super::{
    backend::Backend,
    ids::InterfaceId,
    model::{Mode, Plan, WorkerPlan},
};

/// Everything of a worker that cannot change while it runs. Unique in its plan.
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
