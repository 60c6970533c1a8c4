//! Chooses the CPU that a worker stays on.
//!
//! A packet socket sends through the TX queue of the CPU that its worker runs on
//! (`packet_pick_tx_queue`, net/packet/af_packet.c), and the queues of a device do not wait for
//! each other. If the scheduler moved a worker, its later frames could overtake the earlier ones.
//! So where a device has several TX queues, a worker that sends through packet sockets stays on one
//! CPU, even without `cpus` in the rule file.

use log::{info, warn};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::plan::{self, Plan};

/// A CPU for a worker to stay on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    cpu: usize,
    /// The rule file gives the CPU to this worker.
    named: bool,
}

impl Home {
    /// Whether the worker need not share the CPU.
    pub fn is_own(self) -> bool {
        self.named
    }

    /// Keeps this thread, worker `number`, on the CPU. A refusal costs speed or order, not frames,
    /// so it is only logged.
    pub fn settle(self, number: usize) {
        let Self { cpu, named } = self;
        let mut set = CpuSet::new();
        let settled = set
            .set(cpu)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
        match (settled, named) {
            (Ok(()), true) => info!("worker {number} runs on CPU {cpu}"),
            (Ok(()), false) => info!(
                "worker {number} stays on CPU {cpu}: an output has several TX queues, and the CPU chooses the queue"
            ),
            (Err(error), true) => warn!(
                "cannot pin worker {number} to CPU {cpu}: {error}; it runs unpinned. `cpus` must name CPUs this process \
                 may use"
            ),
            (Err(error), false) => warn!(
                "cannot keep worker {number} on CPU {cpu}: {error}; when it moves, datagrams may leave out of order \
                 through outputs with several TX queues. Name CPUs in `cpus` that this process may use"
            ),
        }
    }
}

/// The CPU of each worker of `plan`; `None` if the scheduler may move the worker.
pub fn homes(plan: &Plan) -> Vec<Option<Home>> {
    choose(plan, &allowed())
}

/// The CPUs that this process may use.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let may = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
    (0..CpuSet::count()).filter(may).collect()
}

/// Workers without a CPU of their own share the `allowed` CPUs that no other worker owns.
fn choose(plan: &Plan, allowed: &[usize]) -> Vec<Option<Home>> {
    let named = |cpu: usize| plan.workers.iter().any(|one| one.cpu == Some(cpu as u32));
    let mut free: Vec<usize> = allowed.to_vec();
    free.retain(|&cpu| !named(cpu));
    if free.is_empty() {
        free = allowed.to_vec();
    }
    let mut next = free.into_iter().cycle();
    let home = |worker: &plan::WorkerPlan| match worker.cpu {
        Some(cpu) => Some(Home {
            cpu: cpu as usize,
            named: true,
        }),
        None if chooses_queues(plan, worker) => next.next().map(|cpu| Home { cpu, named: false }),
        None => None,
    };
    plan.workers.iter().map(home).collect()
}

/// Whether the CPU of `worker` decides through which TX queue of a device its copies leave.
fn chooses_queues(plan: &Plan, worker: &plan::WorkerPlan) -> bool {
    let mut interfaces = worker
        .tx_sockets
        .iter()
        .filter_map(|&at| plan.interfaces.get(at));
    interfaces.any(|interface| interface.tx_queues > 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        host::{HostFacts, InterfaceFacts, fixture::igb},
        plan::{Backend, Constraints},
    };

    /// Three inputs on io_uring, one worker each, that send through one output with `tx_queues`.
    fn plan(tx_queues: u32, cpus: &str) -> Plan {
        let rule = |n: usize| {
            format!(
                "[[rules]]\nname = \"r{n}\"\n\
                 input = {{ interface = \"in{n}\", group = \"239.1.1.1\", port = 5001 }}\n\
                 outputs = [{{ interface = \"out0\", group = \"239.2.1.{n}\", port = 5002 }}]\n"
            )
        };
        let text: String = (1..=3).map(rule).collect::<String>() + cpus;
        let names = ["in1", "in2", "in3", "out0"];
        let facts = names
            .into_iter()
            .zip(1..)
            .map(|(name, index)| InterfaceFacts {
                tx_queues,
                ..igb(name, index)
            });
        let host_facts = HostFacts {
            interfaces: facts.map(|facts| (facts.name.clone(), facts)).collect(),
            cpus: 8,
            gso_packets: true,
            ..HostFacts::default()
        };
        let constraints = Constraints {
            forced: Some(Backend::IoUring),
            ..Constraints::default()
        };
        let document = config::parse("relay.toml", &text).unwrap();
        plan::build(&document, &host_facts, &constraints).unwrap()
    }

    fn cpus(plan: &Plan, allowed: &[usize]) -> Vec<Option<(usize, bool)>> {
        let homes = choose(plan, allowed).into_iter();
        homes
            .map(|home| home.map(|home| (home.cpu, home.named)))
            .collect()
    }

    #[test]
    fn with_one_tx_queue_the_scheduler_moves_workers_as_it_likes() {
        assert_eq!(cpus(&plan(1, ""), &[0, 1]), [None, None, None]);
    }

    #[test]
    fn with_several_tx_queues_workers_share_out_the_cpus_that_no_other_worker_has() {
        let own = |cpu| Some((cpu, true));
        let shared = |cpu| Some((cpu, false));
        assert_eq!(
            cpus(&plan(2, ""), &[3, 5]),
            [shared(3), shared(5), shared(3)]
        );
        let named = plan(2, "[[interfaces]]\nname = \"in2\"\ncpus = [3]\n");
        assert_eq!(cpus(&named, &[3, 5]), [shared(5), own(3), shared(5)]);
        assert_eq!(cpus(&named, &[3]), [shared(3), own(3), shared(3)]);
        assert_eq!(cpus(&named, &[]), [None, own(3), None]);
    }
}
