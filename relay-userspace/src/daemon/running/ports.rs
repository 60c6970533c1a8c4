//! Ports that kept workers lose and get in a change.
//!
//! A port that only sends and that no worker of the next plan has is taken at the end: meanwhile
//! copies leave through it, until the next table has them leave elsewhere. So a route that moves to
//! another interface costs no copy. Others are taken first, since their queues may go to other
//! workers, and their programs may go.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Running, drain, matched::Matched};
use crate::{
    daemon::error::RunError,
    datapath::Prepared,
    plan::{Plan, WorkerKey},
};

/// The ports that kept workers lose, by the worker's number: the kernel's index of the interface,
/// and the queue.
pub(super) type Losing = BTreeMap<usize, Vec<(u32, u32)>>;

impl Running {
    /// The ports that kept workers must lose before they get others, and those that they lose after
    /// that.
    pub(super) fn losing(&mut self, matched: &Matched, keys: &[WorkerKey]) -> (Losing, Losing) {
        let (mut first, mut last) = (Losing::new(), Losing::new());
        for (place, worker) in matched.kept_workers(&mut self.workers) {
            let Some(key) = keys.get(place) else { continue };
            let lost = worker.loses(key);
            let of_others = |port: &(u32, u32)| keys.iter().any(|key| key.has(*port));
            let can_wait = |port: &(u32, u32)| worker.only_sends(*port) && !of_others(port);
            if lost.is_empty() {
                continue;
            }
            match lost.iter().all(can_wait) {
                true => last.insert(worker.number, lost),
                false => first.insert(worker.number, lost),
            };
        }
        (first, last)
    }

    /// Takes away the ports that kept workers lose, and closes them.
    pub(super) fn take_ports(
        &mut self,
        next: &Plan,
        matched: &Matched,
        losing: &Losing,
    ) -> Result<(), RunError> {
        for (place, worker) in matched.kept_workers(&mut self.workers) {
            let lost = losing.get(&worker.number);
            let (Some(planned), Some(lost)) = (next.workers.get(place), lost) else {
                continue;
            };
            for (interface, queue) in lost.iter().filter(|port| !worker.gone.contains(&port.0)) {
                self.kernel.clear_socket(*interface, *queue);
            }
            let prepared = worker.remote.prepare_without(next, planned, lost)?;
            worker.remote.send(prepared);
        }
        if losing.is_empty() {
            return Ok(());
        }
        if let Some(number) = drain::tables_taken(&mut self.workers) {
            return Err(RunError::Untaken(number));
        }
        for worker in &mut self.workers {
            if let Some(lost) = losing.get(&worker.number) {
                worker.has_lost(lost);
            }
        }
        drain::ports_closed(&mut self.workers);
        Ok(())
    }

    /// Counts the frames of interfaces that have gone which reached no worker: the kernel unbinds
    /// an interface's sockets, and where it is back before control has closed its flows, the XDP
    /// program goes on to redirect to them.
    pub(super) fn account_for_gone(&mut self) {
        if self.gone.is_empty() {
            return;
        }
        drain::frames_in_sockets();
        self.take_accounted();
        if !self
            .workers
            .iter()
            .all(|one| one.remote.has_all_ports_back())
        {
            return;
        }
        for index in std::mem::take(&mut self.gone) {
            if !self.workers.iter().any(|one| one.has_port_on(index)) {
                self.totals.account_for_rest(index, &self.kernel);
            }
        }
    }

    /// Takes the numbers of the ports that are closed.
    pub(super) fn take_accounted(&mut self) {
        for worker in &mut self.workers {
            self.totals.account(worker.remote.take_accounted());
        }
    }

    /// Binds the ports that kept workers lack, and makes the tables that are not made yet.
    pub(super) fn bind_ports(
        &mut self,
        next: &Plan,
        matched: &Matched,
        prepared: &mut BTreeMap<usize, Prepared>,
    ) -> Result<(), RunError> {
        for (place, worker) in matched.kept_workers(&mut self.workers) {
            let Some(planned) = next.workers.get(place) else {
                continue;
            };
            let prepared = match prepared.entry(worker.number) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(worker.remote.prepare(next, planned)?),
            };
            worker.remote.bind_missing(next, prepared)?;
        }
        Ok(())
    }

    /// Sends matching frames to the sockets that kept workers have got. They still have those that
    /// they are `losing`.
    pub(super) fn use_ports(
        &mut self,
        matched: &Matched,
        keys: &[WorkerKey],
        losing: &Losing,
    ) -> Result<(), RunError> {
        for (place, worker) in matched.kept_workers(&mut self.workers) {
            let Some(key) = keys.get(place) else {
                continue;
            };
            let was = std::mem::replace(&mut worker.key, key.clone());
            let lost = losing.get(&worker.number).map_or(&[][..], Vec::as_slice);
            let still = was.ports.iter().filter(|port| lost.contains(&port.queue()));
            worker.key.ports.extend(still.copied());
            // All that were tied to such interfaces are lost, or bound anew.
            worker.gone.clear();
            worker.count_drops();
            for socket in worker.remote.receiving_sockets() {
                if !was.receives_from((socket.interface, socket.queue)) {
                    self.kernel
                        .set_socket(socket.interface, socket.queue, socket.fd)?;
                }
            }
        }
        Ok(())
    }
}
