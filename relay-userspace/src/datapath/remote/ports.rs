//! The AF_XDP ports of a worker, and its way back to the Linux stack, from control's side.

use super::{Prepared, Remote};
use crate::{
    datapath::{
        error::SetupError,
        xdp::{ReceivingSocket, Sockets},
    },
    plan::{self, Plan},
};

impl Remote {
    /// Binds the ports that `prepared`, of the same `plan`, needs and the worker does not have.
    ///
    /// # Errors
    ///
    /// The first refusal.
    pub fn bind_missing(&self, plan: &Plan, prepared: &mut Prepared) -> Result<(), SetupError> {
        let change = prepared.change.ports.as_mut();
        match (&self.sockets, &mut prepared.ports, change) {
            (Some(sockets), Some(ports), Some(change)) => sockets.bind_missing(plan, ports, change),
            _ => Ok(()),
        }
    }

    /// Flows with `local` of the next table need the local device with this index.
    pub fn use_local_device(&mut self, index: Option<u32>) {
        self.local_device = index;
    }

    /// Whether the worker's UMEM has chunks enough for the ports of `worker`.
    #[must_use]
    pub fn has_room_for(&self, worker: &plan::WorkerPlan) -> bool {
        let mut sockets = self.sockets.iter();
        sockets.all(|sockets| sockets.has_room_for(worker))
    }

    /// The AF_XDP sockets that receive.
    pub fn receiving_sockets(&self) -> impl Iterator<Item = ReceivingSocket> + '_ {
        self.sockets.iter().flat_map(Sockets::receiving)
    }

    /// What was redirected to ports that are closed now and is accounted for, each once: the
    /// kernel's index of the interface, and frames.
    pub fn take_accounted(&mut self) -> Vec<(u32, u64)> {
        let sockets = self.sockets.as_mut();
        sockets.map_or_else(Vec::new, Sockets::take_accounted)
    }

    /// Whether the worker has handed back all ports that it has lost.
    #[must_use]
    pub fn has_all_ports_back(&self) -> bool {
        self.sockets.as_ref().is_none_or(Sockets::has_all_back)
    }

    /// Closes the ports that the worker has handed back since a table without them, and lets it
    /// free what they had. Returns whether all of them are closed.
    pub fn close_ports(&mut self) -> bool {
        let Some(sockets) = &mut self.sockets else {
            return true;
        };
        self.exchange.closed(sockets.close(self.exchange.gone()));
        !sockets.has_leaving()
    }
}
