//! Ports that kept workers lose and get in a change.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Running, drain, matched::Matched};
use crate::{
    daemon::error::RunError,
    datapath::Prepared,
    plan::{Plan, WorkerKey},
};

impl Running {
    /// Takes away the ports that kept workers must lose, and closes them.
    pub(super) fn take_ports(
        &mut self,
        next: &Plan,
        matched: &Matched,
        keys: &[WorkerKey],
    ) -> Result<(), RunError> {
        let mut losing = BTreeMap::new();
        for (place, worker) in matched.kept_workers(&mut self.workers) {
            let (Some(planned), Some(key)) = (next.workers.get(place), keys.get(place)) else {
                continue;
            };
            let lost = worker.loses(key);
            if lost.is_empty() {
                continue;
            }
            for (interface, queue) in lost.iter().filter(|port| !worker.gone.contains(&port.0)) {
                self.kernel.clear_socket(*interface, *queue);
            }
            let prepared = worker.remote.prepare_without(next, planned, &lost)?;
            worker.remote.send(prepared);
            losing.insert(worker.number, lost);
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

    /// Sends matching frames to the sockets that kept workers have got.
    pub(super) fn use_ports(
        &mut self,
        matched: &Matched,
        keys: &[WorkerKey],
    ) -> Result<(), RunError> {
        for (place, worker) in matched.kept_workers(&mut self.workers) {
            let Some(key) = keys.get(place) else {
                continue;
            };
            let was = std::mem::replace(&mut worker.key, key.clone());
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
