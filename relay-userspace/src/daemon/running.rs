//! What runs now: kernel programs, workers, memberships and claims.
//!
//! There is one way from any state to any plan ([`Running::apply`]), and the start, a reload, an
//! interface that comes back and a command all take it. Workers that both plans have are kept: they
//! get a new flow table between two batches and lose nothing, and ports come to them and go from
//! them. Only what all their sockets share (mode, size of the chunks, CPU, all inputs), or a UMEM
//! without room for more, costs workers their lives.

mod apply;
mod drain;
pub mod ending;
mod flows;
mod matched;
mod pause;
mod plan_paths;
mod ports;
pub mod worker;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use self::{pause::Pause, worker::RunningWorker};
use super::{
    carrier::Carriers,
    claim::Claims,
    memberships::{self, Memberships},
    next_hops::Resolution,
    offloads::Offloads,
    sinks::Sinks,
    totals::Totals,
    watcher,
};
use crate::{
    config::rules::Limit,
    datapath::stats::WorkerStats,
    kernel::Kernel,
    observe::report::FramePath,
    plan::{Backend, FlowKey, InterfaceId, List, Plan},
};

/// What runs now.
pub struct Running {
    /// The plan that runs.
    pub plan: Arc<Plan>,
    /// A change began and did not end: what runs is not quite what the plan says.
    torn: bool,
    /// What pauses for it.
    pause: Pause,
    /// The paths of its interfaces.
    pub paths: List<InterfaceId, FramePath>,
    /// In the order in which they were started. Their sockets must be closed before `kernel` is
    /// dropped.
    pub workers: Vec<RunningWorker>,
    pub kernel: Kernel,
    memberships: Memberships,
    pub next_hops: Resolution,
    /// UDP ports that the kernel must not answer for.
    sinks: Sinks,
    /// Groups that nobody wants any more are still to be left.
    leaves: bool,
    claims: Claims,
    /// What the relay has switched off.
    pub offloads: Offloads,
    /// The numbers of everything that has ended.
    pub totals: Totals,
    /// What matches in the kernel.
    open: HashMap<FlowKey, Open>,
    /// The indices of interfaces that have gone and whose sockets may not all be closed.
    gone: BTreeSet<u32>,
    /// The interfaces that were reset and whose carriers are waited for.
    pub carriers: Carriers,
    next_number: usize,
    /// Workers that ended by a defect.
    defects: usize,
    /// The counters of the workers that ran to the end of the relay.
    pub last: Vec<Arc<WorkerStats>>,
    /// The interface of the worker that could not be set up, if its error names none.
    culprit: Option<String>,
}

/// A flow that matches in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    backend: Backend,
    rule: String,
    limit: Option<Limit>,
}

/// What a change did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Whether anything was done.
    pub changed: bool,
    /// Workers that went on, with a new flow table if anything changed.
    pub kept: usize,
    /// Workers that were started.
    pub started: usize,
    /// Workers that ended.
    pub ended: usize,
    /// Interfaces whose rules paused, for this attempt or for one before that did not succeed.
    pub paused: BTreeSet<String>,
    /// How long they paused at most.
    pub pause: Duration,
}

impl Applied {
    /// What paused and for how long, one sentence each.
    #[must_use]
    pub fn pauses(&self) -> Vec<String> {
        let milliseconds = self.pause.as_millis();
        let paused = self.paused.iter();
        paused
            .map(|interface| format!("the rules of {interface} paused for {milliseconds} ms"))
            .collect()
    }
}

impl Running {
    /// Nothing runs.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            plan: Arc::default(),
            torn: false,
            pause: Pause::default(),
            paths: List::from(Vec::new()),
            workers: Vec::new(),
            kernel: Kernel::new(),
            memberships: Memberships::default(),
            next_hops: Resolution::default(),
            sinks: Sinks::default(),
            leaves: false,
            claims: Claims::default(),
            offloads: Offloads::default(),
            totals: Totals::default(),
            open: HashMap::new(),
            gone: BTreeSet::new(),
            carriers: Carriers::default(),
            next_number: 0,
            defects: 0,
            last: Vec::new(),
            culprit: None,
        }
    }

    /// Names and indices of the interfaces in use.
    #[must_use]
    pub fn in_use(&self) -> BTreeSet<(String, u32)> {
        let interfaces = self.plan.interfaces.iter();
        interfaces
            .map(|interface| (interface.name.clone(), interface.index))
            .collect()
    }

    /// The interface index and the group of each socket that has joined one for the relay.
    pub fn joined(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.memberships.sockets()
    }

    /// The UDP ports that the relay holds.
    pub fn held_ports(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.sinks.held()
    }

    /// The interface of the worker that could not be set up, once.
    pub fn take_culprit(&mut self) -> Option<String> {
        self.culprit.take()
    }

    /// How many workers have ended by a defect of the relay so far.
    #[must_use]
    pub fn defects(&self) -> usize {
        self.defects
    }

    /// Forgets what was tied to interfaces that have gone, given by their indices: a new interface
    /// may have the same one.
    pub fn forget_interfaces(&mut self, gone: &BTreeSet<u32>) {
        let of_gone = self.open.iter();
        let of_gone = of_gone.filter(|(key, _)| gone.contains(&key.interface));
        self.close(of_gone.map(|(key, _)| *key).collect());
        // The kernel has unbound sockets that workers still have, also of one that is back already,
        // with which the next plan is the one that runs.
        self.torn |= !gone.is_empty();
        for &index in gone {
            for worker in &mut self.workers {
                worker.gone.insert(index);
            }
            self.memberships.forget(index);
            self.gone.insert(index);
            self.carriers.forget(index);
            self.offloads.forget(index);
            self.kernel.unserve(index);
        }
        // Of all at once: where zero copy was, a detach waits.
        self.kernel.detach(&Vec::from_iter(gone.iter().copied()));
    }

    /// Makes the kernel stop matching some of what it matches.
    fn close(&mut self, keys: Vec<FlowKey>) {
        for key in keys {
            if let Some(open) = self.open.remove(&key) {
                let over_limit = self.kernel.close(&key, open.backend);
                self.totals.add_over_limit(&open.rule, over_limit);
            }
        }
    }

    /// What the watcher follows: every interface in use, with the links of it that workers read.
    #[must_use]
    pub fn followed(&self) -> Vec<watcher::Followed> {
        let links: Vec<_> = self
            .workers
            .iter()
            .flat_map(|worker| worker.remote.links())
            .collect();
        let interfaces = self.plan.interfaces.iter();
        interfaces
            .map(|interface| watcher::Followed {
                facts: interface.clone(),
                program: self.kernel.program_on(interface.index),
                links: links
                    .iter()
                    .filter(|link| link.index() == interface.index)
                    .cloned()
                    .collect(),
            })
            .collect()
    }

    /// Switches on again what the relay has switched off.
    pub fn give_back_offloads(&mut self) {
        self.offloads.give_back_all(&self.claims);
    }

    /// Takes the last numbers of what workers no longer have, goes on to leave groups, and tries
    /// again to hold UDP ports.
    pub fn settle(&mut self) {
        self.sinks.try_again();
        if self.leaves {
            self.leave_groups(&memberships::wanted(&self.plan));
        }
        for worker in &mut self.workers {
            worker.remote.close_ports();
            for retired in worker.remote.retired() {
                self.totals.retire(retired);
            }
        }
        self.take_accounted();
    }
}

impl Drop for Running {
    /// Takes everything down, the sockets before the programs.
    fn drop(&mut self) {
        let _ = self.end();
        // Some drivers reset the NIC for either: first without the program, then as it was.
        let attached = Vec::from_iter(self.kernel.attached());
        self.kernel.detach(&attached);
        self.give_back_offloads();
    }
}
