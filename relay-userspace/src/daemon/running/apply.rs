//! From what runs to what a plan wants.
//!
//! The order keeps every frame of a rule that does not change: programs are loaded, groups joined
//! and sockets opened first; then the kernel stops matching what no rule wants any more, and the
//! workers deal with what had been matched; then kept workers lose the ports that they no longer
//! need; then new workers and new ports are bound, and the kept workers get their new tables; and
//! only then the kernel matches what is new ([`super::flows`]). Groups of an interface that gets
//! the XDP program are joined when it has it, because that resets some NICs. A step that the kernel
//! refuses ends the change with an error. What runs is then something between both plans, and the
//! next call goes all the way from there, to the former plan or to another one: claims, groups,
//! programs and limits that only the refused plan wanted are given back then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use log::error;

use super::{
    Applied, Running, drain, ending, matched::Matched, ports::Losing, worker::RunningWorker,
};
use crate::{
    daemon::{
        affinity, descriptors,
        error::RunError,
        memberships::{self, Membership},
        privileges,
        signals::Signals,
    },
    datapath::{self, Bound, Fanouts, Prepared, Worker, uring},
    kernel::OwnSource,
    plan::{self, Backend, Interface, Plan, WorkerKey},
};

/// How long leaving groups may take at once. The rest is left later, a second's work at a time.
const LEAVING: Duration = Duration::from_millis(200);

impl Running {
    /// Makes `next` run, with the least disturbance of what runs already.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn apply(&mut self, next: &Arc<Plan>, signals: &Signals) -> Result<Applied, RunError> {
        self.culprit = None;
        self.torn |= self.memberships.forget_ended();
        let keys = plan::worker_keys(next);
        let matched = self.matched(next, &keys);
        let all_kept = matched.ended.is_empty() && !matched.kept.contains(&None);
        let whole = self.open.len() == next.key_count()
            && self.is_attached_for(next)
            && (local_input(next).is_none() || self.kernel.local_device().is_some());
        if !self.torn && all_kept && whole && next.runs_as(&self.plan) {
            return Ok(Applied {
                kept: self.workers.len(),
                ..Applied::default()
            });
        }
        privileges::check(next)?;
        let more = descriptors::needed(next).saturating_sub(descriptors::needed(&self.plan));
        descriptors::check("running these rules", more)?;
        if next.is_on(Backend::IoUring) && matched.kept.contains(&None) {
            probe(next)?;
        }
        self.torn = true;
        // That takes a while, so nothing waits for it: no rule pauses yet, and where another relay
        // still holds an input, the programs are there when it ends.
        self.kernel.expect_limits(next.limits());
        for backend in [Backend::Xdp, Backend::IoUring] {
            if next.is_on(backend) {
                self.kernel.load(backend)?;
            }
        }
        for interface in next.interfaces.iter().filter(|one| one.is_input) {
            self.claims.claim(&interface.name, interface.index)?;
        }
        let groups = memberships::wanted(next);
        let new: BTreeSet<u32> = self.to_attach(next).map(|one| one.index).collect();
        let now = groups.iter().filter(|one| !new.contains(&one.interface));
        let now: BTreeSet<Membership> = now.copied().collect();
        self.memberships
            .join_missing(&now, |index| name_of(next, index))?;
        let sinks = next.sinks();
        self.sinks.hold(&sinks);
        self.open_local_device(next)?;
        self.next_hops.want(next);
        let (losing_first, losing_last) = self.losing(&matched, &keys);
        let mut prepared = self.prepare(next, &matched, &losing_first)?;

        let mut applied = Applied {
            changed: true,
            kept: matched.kept.iter().flatten().count(),
            ..Applied::default()
        };
        let pausing = self.pausing(&matched, &keys);
        let names = pausing.iter().map(|&index| name_of(&self.plan, index));
        self.pause.begin(Vec::from_iter(names), Instant::now());
        self.close_flows(next, &pausing, &matched.ended);
        applied.ended = self.end_workers(&matched.ended);
        self.take_ports(next, &matched, &losing_first)?;
        self.account_for_gone();
        self.attach(next)?;
        self.carriers.wait(signals);
        self.serve(next)?;
        let bound = self.bind(next, &matched)?;
        self.bind_ports(next, &matched, &mut prepared)?;
        self.carriers.are_bound();
        self.carriers.wait(signals);
        // A NIC that is reset loses the reports that tell the network about groups.
        let later = self.carriers.settle();
        let now = groups.iter().filter(|one| !later.contains(&one.interface));
        let now: BTreeSet<Membership> = now.copied().collect();
        self.memberships
            .join_missing(&now, |index| name_of(next, index))?;
        applied.started = bound.len();
        self.start(next, &keys, bound)?;
        self.hand_over(prepared)?;
        self.use_ports(&matched, &keys, &losing_last)?;
        self.open_flows(next)?;
        self.close_rest(next);
        self.take_ports(next, &matched, &losing_last)?;
        let names = next.interfaces.iter().filter(|one| one.is_input);
        let names = names.map(|one| one.name.as_str()).collect();
        (applied.paused, applied.pause) = self.pause.end(&names, Instant::now());

        self.kernel.set_own_sources(&OwnSource::of(next))?;
        self.leave_groups(&groups);
        self.next_hops.release(next);
        self.sinks.release_others(&sinks);
        self.offloads.give_back_others(next, &self.claims);
        self.release_claims(next);
        if local_input(next).is_none() {
            self.kernel.close_local_device();
        }
        self.settle();
        self.paths = self.paths_of(next, &keys);
        self.plan = Arc::clone(next);
        // What their carriers hold up is still to be done.
        self.torn = !later.is_empty();
        Ok(applied)
    }

    /// Whether the XDP program is attached wherever `plan` needs it.
    fn is_attached_for(&self, plan: &Plan) -> bool {
        self.to_attach(plan).next().is_none()
    }

    /// The interfaces of `plan` that the XDP program is not attached to, and must be.
    fn to_attach<'a>(&self, plan: &'a Plan) -> impl Iterator<Item = &'a Interface> {
        let needs = plan.interfaces.iter().filter(|one| one.needs_program());
        needs.filter(|one| !self.kernel.is_attached(one.index))
    }

    /// The interfaces whose rules would pause if `next` ran, each with why.
    #[must_use]
    pub fn would_pause(&self, next: &Plan) -> Vec<String> {
        let keys = plan::worker_keys(next);
        let matched = self.matched(next, &keys);
        let stay = inputs(next);
        let pausing = self.pausing(&matched, &keys).into_iter();
        pausing
            .filter(|index| stay.contains(index))
            .map(|index| {
                format!(
                    "the rules of {} would pause: its queues, mode, chunks or workers change",
                    name_of(&self.plan, index)
                )
            })
            .collect()
    }

    /// Makes the local device if `next` needs it, and tells the workers.
    fn open_local_device(&mut self, next: &Plan) -> Result<(), RunError> {
        if let Some(interface) = local_input(next) {
            self.kernel.open_local_device(&interface.name)?;
        }
        let index = self.kernel.local_device();
        for worker in &mut self.workers {
            worker.remote.use_local_device(index);
        }
        Ok(())
    }

    /// Opens what kept workers need in addition, and makes their tables; not for those that must
    /// lose ports first. By the worker's number.
    fn prepare(
        &mut self,
        next: &Plan,
        matched: &Matched,
        losing: &Losing,
    ) -> Result<BTreeMap<usize, Prepared>, RunError> {
        let mut prepared = BTreeMap::new();
        for (place, worker) in matched.kept_workers(&mut self.workers) {
            if let Some(planned) = next.workers.get(place)
                && !losing.contains_key(&worker.number)
            {
                prepared.insert(worker.number, worker.remote.prepare(next, planned)?);
            }
        }
        Ok(prepared)
    }

    /// The indices of the interfaces that a worker receives from and loses, and that no kept one
    /// goes on to receive from.
    fn pausing(&self, matched: &Matched, keys: &[WorkerKey]) -> BTreeSet<u32> {
        let (mut staying, mut going) = (BTreeSet::new(), BTreeSet::new());
        for worker in &self.workers {
            let place = matched.place_of(worker.number);
            let (stays, goes) = worker.inputs_after(place.and_then(|place| keys.get(place)));
            staying.extend(stays);
            going.extend(goes);
        }
        &going - &staying
    }

    /// Ends some of the workers, by number, and keeps their counts. Returns how many.
    fn end_workers(&mut self, ended: &BTreeSet<usize>) -> usize {
        let all = std::mem::take(&mut self.workers);
        let (ending, staying): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|worker| ended.contains(&worker.number));
        self.workers = staying;
        // What the kernel goes on to match, for others on the same inputs, must not end in a ring
        // that nobody reads any more.
        let sockets = ending.iter().flat_map(|one| one.remote.receiving_sockets());
        let sockets: Vec<_> = sockets.collect();
        for socket in &sockets {
            self.kernel.clear_socket(socket.interface, socket.queue);
        }
        if !sockets.is_empty() {
            drain::frames_in_sockets();
        }
        ending.iter().for_each(RunningWorker::halt);
        let joined: Vec<_> = ending.into_iter().map(RunningWorker::join).collect();
        self.defects += joined.iter().filter(|one| one.worker.is_none()).count();
        let count = joined.len();
        // Closes their sockets.
        self.totals.end(joined, &self.kernel);
        count
    }

    /// Detaches the XDP program where `next` does not need it, and attaches it where it does.
    fn attach(&mut self, next: &Plan) -> Result<(), RunError> {
        let needs = next.interfaces.iter().filter(|one| one.needs_program());
        let wanted: BTreeSet<u32> = needs.map(|one| one.index).collect();
        for &index in self.kernel.served().difference(&inputs(next)) {
            self.kernel.unserve(index);
        }
        let leaving = &self.kernel.attached() - &wanted;
        self.kernel.detach(&Vec::from_iter(leaving));
        // One that another process detached by force is attached anew.
        let new: Vec<_> = self.to_attach(next).collect();
        self.carriers.before_attaching(&new);
        self.offloads.switch(next)?;
        for interface in new {
            self.kernel.attach(interface)?;
        }
        Ok(())
    }

    /// Makes the kernel programs know the inputs and the relay's own sources, those of the tables
    /// that kept workers still have included.
    fn serve(&mut self, next: &Plan) -> Result<(), RunError> {
        for interface in next.interfaces.iter().filter(|one| one.is_input) {
            self.kernel.serve(interface)?;
        }
        let own = &OwnSource::of(&self.plan) | &OwnSource::of(next);
        Ok(self.kernel.set_own_sources(&own)?)
    }

    /// Binds the sockets of new workers, by their positions.
    fn bind(&mut self, next: &Plan, matched: &Matched) -> Result<Vec<(usize, Bound)>, RunError> {
        let mut fanouts = Fanouts::default();
        let next_hops = &self.next_hops.table;
        let mut all = Vec::new();
        for (position, planned) in next.workers.iter().enumerate() {
            if matched.kept.get(position).is_some_and(Option::is_some) {
                continue;
            }
            let ports = planned.ports.iter().map(|port| port.interface);
            let interface = planned.input.or(ports.into_iter().next());
            let interface = interface.and_then(|id| next.interfaces.get(id));
            self.culprit = interface.map(|interface| interface.name.clone());
            let mut bound = datapath::bind(next, planned, &self.kernel, &mut fanouts, next_hops)?;
            if let Worker::Xdp(worker) = &mut bound.worker {
                worker.fill().map_err(|error| RunError::System {
                    what: "fill the FILL rings",
                    error,
                })?;
                for socket in bound.remote.receiving_sockets() {
                    self.kernel
                        .set_socket(socket.interface, socket.queue, socket.fd)?;
                }
            }
            all.push((position, bound));
        }
        self.culprit = None;
        Ok(all)
    }

    /// Starts the threads of new workers.
    fn start(
        &mut self,
        next: &Plan,
        keys: &[WorkerKey],
        bound: Vec<(usize, Bound)>,
    ) -> Result<(), RunError> {
        let homes = affinity::homes(next);
        for (position, bound) in bound {
            let Some(key) = keys.get(position) else {
                continue;
            };
            let home = homes.get(position).copied().flatten();
            let worker = RunningWorker::start(self.next_number, key.clone(), bound, home)?;
            self.workers.push(worker);
            self.next_number += 1;
        }
        Ok(())
    }

    /// Hands the prepared tables to the kept workers, and waits until they have taken them.
    fn hand_over(&mut self, mut prepared: BTreeMap<usize, Prepared>) -> Result<(), RunError> {
        for worker in &mut self.workers {
            if let Some(change) = prepared.remove(&worker.number) {
                worker.remote.send(change);
            }
        }
        match drain::tables_taken(&mut self.workers) {
            Some(number) => Err(RunError::Untaken(number)),
            None => Ok(()),
        }
    }

    /// Leaves the groups that nobody wants, as far as that is quick.
    pub(super) fn leave_groups(&mut self, wanted: &BTreeSet<Membership>) {
        let deadline = Instant::now() + LEAVING;
        self.leaves = !self.memberships.leave_others(wanted, deadline);
    }

    fn release_claims(&mut self, next: &Plan) {
        let claimed: BTreeSet<u32> = self.claims.indices().collect();
        for &index in claimed.difference(&inputs(next)) {
            self.claims.release(index);
        }
    }

    /// Ends everything that forwards, and keeps its counts. The kernel programs stay, with their
    /// counters, until this is dropped. Returns the numbers of workers that hang: their threads go
    /// on, with their sockets, until the process ends.
    pub fn end(&mut self) -> BTreeSet<usize> {
        // The flows stay in maps that go with the process: to remove each would take longer.
        self.kernel.match_nothing();
        drain::frames_in_sockets();
        let hanging = ending::hanging(&self.workers);
        let all: BTreeSet<_> = self.workers.iter().map(|worker| worker.number).collect();
        let ended = &all - &hanging;
        let workers = self.workers.iter();
        let workers = workers.filter(|worker| ended.contains(&worker.number));
        let stats = workers.map(|worker| Arc::clone(worker.remote.stats()));
        self.last.extend(stats);
        self.end_workers(&ended);
        self.account_for_gone();
        self.next_hops.release(&Plan::default());
        hanging
    }
}

/// Whether io_uring can be used, which interfaces of `plan` need. Says why they do if it cannot.
fn probe(plan: &Plan) -> Result<(), RunError> {
    uring::probe().inspect_err(|_| {
        let interfaces = plan.interfaces.iter();
        for interface in interfaces.filter(|interface| interface.backend == Backend::IoUring) {
            error!("{} needs io_uring: {}", interface.name, interface.reason);
        }
    })?;
    Ok(())
}

/// An input of `plan` whose frames go back to this host's stack.
fn local_input(plan: &Plan) -> Option<&Interface> {
    let mut workers = plan.workers.iter();
    let input = workers.find_map(|worker| plan.local_inputs(worker).into_iter().next());
    input.and_then(|input| plan.interfaces.get(input))
}

/// The indices of the interfaces that `plan` receives from.
fn inputs(plan: &Plan) -> BTreeSet<u32> {
    let inputs = plan.interfaces.iter().filter(|one| one.is_input);
    inputs.map(|one| one.index).collect()
}

fn name_of(plan: &Plan, index: u32) -> String {
    let mut interfaces = plan.interfaces.iter();
    let found = interfaces.find(|interface| interface.index == index);
    found.map_or_else(String::new, |interface| interface.name.clone())
}
