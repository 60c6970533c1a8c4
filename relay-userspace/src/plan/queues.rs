//! Which worker owns which queue.
//!
//! Connected interfaces have as many workers as can each have an RX queue to read, and a TX queue
//! of its own on every output interface whose copies leave through TX rings. So no two workers ever
//! share a queue, and one thread receives a frame and sends its copies. On io_uring there are no
//! queues to own: [`super::io_uring_workers`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    backend::Backend,
    connected_interfaces::Connected,
    ids::{FlowId, InterfaceId, List},
    io_uring_workers,
    model::{Flow, Port, TxMethod, WorkerPlan},
    used_interface::Use,
    wording::{abridged, counted, list, spans},
};
use crate::config::Document;

/// The workers of all interfaces; `groups` are the connected ones.
pub(super) fn workers(
    document: &Document,
    groups: &[Connected],
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
    notes: &mut Vec<String>,
) -> Vec<WorkerPlan> {
    let mut workers = Vec::new();
    for group in groups {
        let first = group.interfaces.first().and_then(|at| uses.get(*at));
        if first.is_some_and(|used| used.backend == Backend::IoUring) {
            io_uring_workers::workers(document, group, flows, uses, &mut workers, notes);
            continue;
        }
        let members = || {
            group
                .interfaces
                .iter()
                .filter_map(|position| uses.get(*position))
        };
        let narrowest = members()
            .filter(|used| used.tx_method == Some(TxMethod::Xsk))
            .min_by_key(|used| used.tx.len());
        let most_rx = members().map(|used| used.rx.len()).max().unwrap_or(0);
        let count = narrowest.map_or(most_rx, |used| used.tx.len().min(most_rx));
        let first = workers.len();
        for worker in 0..count {
            workers.push(self::worker(worker, count, group, flows, uses));
        }
        pin(
            document,
            group,
            uses,
            workers.get_mut(first..).unwrap_or_default(),
            notes,
        );
        queue_notes(first, count, narrowest, members(), notes);
    }
    shared_cpu_notes(&workers, notes);
    workers
}

/// Worker `number` of the `count` that connected interfaces have, with what it owns.
fn worker(
    number: usize,
    count: usize,
    group: &Connected,
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
) -> WorkerPlan {
    let mut ports: BTreeMap<(InterfaceId, u32), Port> = BTreeMap::new();
    fn port(
        ports: &mut BTreeMap<(InterfaceId, u32), Port>,
        interface: InterfaceId,
        queue: u32,
    ) -> &mut Port {
        let unused = Port {
            interface,
            queue,
            receives: false,
            transmits: false,
        };
        ports.entry((interface, queue)).or_insert(unused)
    }
    let mut inputs = BTreeSet::new();
    for &interface in &group.interfaces {
        let rx = uses.get(interface).map_or(&[][..], |used| &used.rx);
        for &queue in rx.iter().skip(number).step_by(count.max(1)) {
            port(&mut ports, interface, queue).receives = true;
            inputs.insert(interface);
        }
    }
    let mine = |flow: &FlowId| {
        flows
            .get(*flow)
            .is_some_and(|flow| inputs.contains(&flow.interface))
    };
    let my_flows: Vec<FlowId> = group.flows.iter().copied().filter(mine).collect();
    let outputs = my_flows
        .iter()
        .filter_map(|flow| flows.get(*flow))
        .flat_map(|flow| &flow.outputs);
    let mut tx_sockets = Vec::new();
    for interface in outputs
        .map(|output| output.interface)
        .collect::<BTreeSet<_>>()
    {
        let Some(used) = uses.get(interface) else {
            continue;
        };
        if used.tx_method != Some(TxMethod::Xsk) {
            tx_sockets.push(interface);
        } else if let Some(&queue) = used.tx.get(number) {
            port(&mut ports, interface, queue).transmits = true;
        }
    }
    WorkerPlan {
        backend: Backend::Xdp,
        cpu: None,
        ports: ports.into_values().collect(),
        input: None,
        tx_sockets,
        flows: my_flows,
    }
}

/// Pins the workers of connected interfaces to the CPUs of the first input interface that names
/// some.
fn pin(
    document: &Document,
    group: &Connected,
    uses: &List<InterfaceId, Use<'_>>,
    workers: &mut [WorkerPlan],
    notes: &mut Vec<String>,
) {
    let members: HashMap<&str, &Use<'_>> = group
        .interfaces
        .iter()
        .filter_map(|position| uses.get(*position))
        .map(|used| (used.facts.name.as_str(), used))
        .collect();
    let mut chosen: Option<&str> = None;
    for options in &document.rules.interfaces {
        let (name, Some(cpus)) = (options.name.as_str(), &options.cpus) else {
            continue;
        };
        let Some(used) = members.get(name) else {
            continue;
        };
        if let Some(chosen) = chosen {
            notes.push(format!(
                "The `cpus` of {name} are not used: its workers are pinned by those of {chosen}."
            ));
        } else if used.is_input {
            chosen = Some(name);
            for (worker, cpu) in workers.iter_mut().zip(cpus) {
                worker.cpu = Some(*cpu);
            }
            let (cpus, workers) = (cpus.len(), workers.len());
            if cpus > workers {
                notes.push(format!(
                    "{name} names {} for {}; the last {} not used.",
                    counted(cpus, "CPU"),
                    counted(workers, "worker"),
                    if cpus - workers == 1 {
                        "is".into()
                    } else {
                        format!("{} are", cpus - workers)
                    }
                ));
            } else if cpus < workers {
                notes.push(format!(
                    "{name} names {} for {}; the last {} not pinned.",
                    counted(cpus, "CPU"),
                    counted(workers, "worker"),
                    if workers - cpus == 1 {
                        "is".into()
                    } else {
                        format!("{} are", workers - cpus)
                    }
                ));
            }
        } else {
            notes.push(format!(
                "The `cpus` of {name} are not used: workers follow the queues of an input, and {name} \
                 is only an output."
            ));
        }
    }
}

/// Adds notes about which queues are used where queues and workers are not as many.
fn queue_notes<'a>(
    first: usize,
    count: usize,
    narrowest: Option<&Use<'_>>,
    members: impl Iterator<Item = &'a Use<'a>>,
    notes: &mut Vec<String>,
) {
    for used in members {
        let name = &used.facts.name;
        let (rx, tx) = (used.rx.len(), used.tx.len());
        if rx > count
            && let Some(narrowest) = narrowest
        {
            let owners = (0..count).map(|worker| {
                let own: Vec<u32> = used
                    .rx
                    .iter()
                    .copied()
                    .skip(worker)
                    .step_by(count)
                    .collect();
                format!("worker {} reads {}", first + worker, list(&own))
            });
            notes.push(format!(
                "{name} has {} and {}, because {} has {}: {}.",
                counted(rx, "RX queue"),
                counted(count, "worker"),
                narrowest.facts.name,
                counted(narrowest.tx.len(), "TX queue"),
                abridged(owners)
            ));
        } else if used.is_input && rx < count {
            notes.push(format!(
                "{name} has {} for {}: only {} from it.",
                counted(rx, "RX queue"),
                counted(count, "worker"),
                if rx == 1 {
                    format!("worker {first} reads")
                } else {
                    format!("workers {first} to {} read", first + rx - 1)
                }
            ));
        }
        if tx > count && used.tx_method == Some(TxMethod::Xsk) {
            notes.push(format!(
                "{name} has {} for {}: {} used.",
                counted(tx, "TX queue"),
                counted(count, "worker"),
                match used.tx.get(..count) {
                    Some([only]) => format!("queue {only} is"),
                    some => format!("{} are", list(some.unwrap_or_default())),
                }
            ));
        }
    }
}

fn shared_cpu_notes(workers: &[WorkerPlan], notes: &mut Vec<String>) {
    let mut of_cpu: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (number, worker) in (0..).zip(workers) {
        if let Some(cpu) = worker.cpu {
            of_cpu.entry(cpu).or_default().push(number);
        }
    }
    for (cpu, workers) in of_cpu.iter().filter(|(_, workers)| workers.len() > 1) {
        notes.push(format!(
            "Workers {} are pinned to the same CPU {cpu} and take turns on it.",
            spans(workers)
        ));
    }
}
