//! Which worker owns which queue.
//!
//! Interfaces that rules connect form a group, and a group has as many workers as every worker can
//! have an RX queue to read, and a TX queue of its own on every output interface whose copies leave by TX
//! rings. So no two workers ever share a queue, and a frame is received and sent by one thread. On io_uring
//! there are no queues to own: [`super::packets`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Backend, Engine, Flow, Port, Worker, build::Use, packets};
use crate::config::Document;

/// Interfaces that rules connect, directly or through others.
pub(super) struct Group {
    /// Positions in the plan's interfaces, ascending.
    pub(super) interfaces: Vec<usize>,
    /// Positions in the plan's flows, ascending.
    pub(super) flows: Vec<usize>,
}

/// The connected components of the interfaces, in the order of their first interface. `links` has the input and the
/// outputs of every flow.
pub(super) fn groups(interfaces: usize, links: &[(usize, Vec<usize>)]) -> Vec<Group> {
    // Union-find; a root is its own parent, and always the lowest position of its component.
    let mut parent: Vec<usize> = (0..interfaces).collect();
    fn root(parent: &[usize], mut position: usize) -> usize {
        while let Some(&up) = parent.get(position)
            && up != position
        {
            position = up;
        }
        position
    }
    for (input, outputs) in links {
        for output in outputs {
            let (a, b) = (root(&parent, *input), root(&parent, *output));
            if let Some(higher) = parent.get_mut(a.max(b)) {
                *higher = a.min(b);
            }
        }
    }
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    let empty = || Group {
        interfaces: Vec::new(),
        flows: Vec::new(),
    };
    for position in 0..interfaces {
        groups
            .entry(root(&parent, position))
            .or_insert_with(empty)
            .interfaces
            .push(position);
    }
    for (position, (input, _)) in links.iter().enumerate() {
        groups
            .entry(root(&parent, *input))
            .or_insert_with(empty)
            .flows
            .push(position);
    }
    groups.into_values().collect()
}

/// The workers of all groups.
pub(super) fn workers(
    document: &Document,
    groups: &[Group],
    flows: &[Flow],
    uses: &[Use<'_>],
    notes: &mut Vec<String>,
) -> Vec<Worker> {
    let mut workers = Vec::new();
    for group in groups {
        let first = group.interfaces.first().and_then(|at| uses.get(*at));
        if first.is_some_and(|used| used.backend == Backend::IoUring) {
            packets::workers(document, group, flows, uses, &mut workers, notes);
            continue;
        }
        let members = || {
            group
                .interfaces
                .iter()
                .filter_map(|position| uses.get(*position))
        };
        let narrowest = members()
            .filter(|used| used.engine == Some(Engine::Xsk))
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

/// What worker `number` of the `count` of a group owns.
fn worker(number: usize, count: usize, group: &Group, flows: &[Flow], uses: &[Use<'_>]) -> Worker {
    let mut ports: BTreeMap<(usize, u32), Port> = BTreeMap::new();
    fn port(ports: &mut BTreeMap<(usize, u32), Port>, interface: usize, queue: u32) -> &mut Port {
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
    let mine = |flow: &usize| {
        flows
            .get(*flow)
            .is_some_and(|flow| inputs.contains(&flow.interface))
    };
    let my_flows: Vec<usize> = group.flows.iter().copied().filter(mine).collect();
    let outputs = my_flows
        .iter()
        .filter_map(|flow| flows.get(*flow))
        .flat_map(|flow| &flow.outputs);
    let mut senders = Vec::new();
    for interface in outputs
        .map(|output| output.interface)
        .collect::<BTreeSet<_>>()
    {
        let Some(used) = uses.get(interface) else {
            continue;
        };
        if used.engine != Some(Engine::Xsk) {
            senders.push(interface);
        } else if let Some(&queue) = used.tx.get(number) {
            port(&mut ports, interface, queue).transmits = true;
        }
    }
    Worker {
        backend: Backend::Xdp,
        cpu: None,
        ports: ports.into_values().collect(),
        input: None,
        senders,
        flows: my_flows,
    }
}

/// Pins the workers of a group to the CPUs of its first input interface that names some.
fn pin(
    document: &Document,
    group: &Group,
    uses: &[Use<'_>],
    workers: &mut [Worker],
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

/// Says what is used where queues and workers are not as many.
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
        if tx > count && used.engine == Some(Engine::Xsk) {
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

fn shared_cpu_notes(workers: &[Worker], notes: &mut Vec<String>) {
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

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// At most eight of `parts`.
fn abridged(parts: impl ExactSizeIterator<Item = String>) -> String {
    let hidden = parts.len().saturating_sub(8);
    let mut shown = parts.take(8).collect::<Vec<_>>().join(", ");
    if hidden > 0 {
        shown += &format!(", and so on for {hidden} more");
    }
    shown
}

/// "queue 3" or "queues 0-3, 7".
pub(super) fn list(queues: &[u32]) -> String {
    format!(
        "{} {}",
        if queues.len() == 1 { "queue" } else { "queues" },
        spans(queues)
    )
}

/// Ascending numbers, runs of three and more joined: "0-3, 7".
pub(super) fn spans(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let shown = runs.iter().map(|&(from, to)| match to - from {
        0 => from.to_string(),
        1 => format!("{from}, {to}"),
        _ => format!("{from}-{to}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The names of some interfaces.
pub(super) fn names(positions: &[usize], uses: &[Use<'_>]) -> String {
    let names = positions.iter().filter_map(|position| uses.get(*position));
    names
        .map(|used| used.facts.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}
