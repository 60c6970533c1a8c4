//! Where the ports of a plan are in a worker: a worker that has been changed has its ports in
//! another order than its plan.

use crate::plan::{self, Plan};

/// The ports of a worker, in its order, which is not that of the plan.
#[derive(Debug, Clone, Default)]
pub struct Ports(Vec<(u32, u32)>);

impl Ports {
    /// With these ports: the kernel's index of the interface, and the queue.
    #[must_use]
    pub fn of(ports: impl IntoIterator<Item = (u32, u32)>) -> Self {
        Self(ports.into_iter().collect())
    }

    /// The ports of `worker` of `plan` in the plan's order.
    #[must_use]
    pub fn planned(plan: &Plan, worker: &plan::WorkerPlan) -> Self {
        let ports = worker.ports.iter();
        let place =
            |port: &plan::Port| Some((plan.interfaces.get(port.interface)?.index, port.queue));
        Self(ports.filter_map(place).collect())
    }

    /// Where the worker has a port of another plan.
    pub(super) fn place(&self, plan: &Plan, port: &plan::Port) -> Option<usize> {
        let index = plan.interfaces.get(port.interface)?.index;
        let mut ports = self.0.iter();
        ports.position(|one| *one == (index, port.queue))
    }
}
