//! Which worker receives from which interface on io_uring.
//!
//! A packet socket sees the frames of all queues of its interface, and sends without a queue of its
//! own. So workers follow the input interfaces: one per input, or as many as `cpus` names, which
//! share its flows.

use std::collections::BTreeSet;

use super::{
    backend::Backend,
    connected_interfaces::Connected,
    ids::{FlowId, InterfaceId, List},
    model::{Flow, WorkerPlan},
    named_interfaces::options_of,
    used_interface::Use,
};
use crate::config::Document;

/// Appends the workers of connected interfaces on io_uring.
pub(super) fn workers(
    document: &Document,
    group: &Connected,
    flows: &List<FlowId, Flow>,
    uses: &List<InterfaceId, Use<'_>>,
    workers: &mut Vec<WorkerPlan>,
    notes: &mut Vec<String>,
) {
    for &interface in &group.interfaces {
        let Some(used) = uses.get(interface) else {
            continue;
        };
        let options = options_of(document, &used.facts.name);
        let cpus = options.and_then(|(options, _)| options.cpus.as_deref());
        if !used.is_input {
            if cpus.is_some() {
                notes.push(format!(
                    "The `cpus` of {0} are not used: workers belong to inputs, and {0} is only an output.",
                    used.facts.name
                ));
            }
            continue;
        }
        let my_flows: Vec<FlowId> = group
            .flows
            .iter()
            .copied()
            .filter(|&flow| flows.get(flow).is_some_and(|f| f.interface == interface))
            .collect();
        let outputs = my_flows.iter().filter_map(|&flow| flows.get(flow));
        let outputs = outputs.flat_map(|flow| &flow.outputs);
        let tx_sockets: BTreeSet<InterfaceId> = outputs.map(|output| output.interface).collect();
        let worker = WorkerPlan {
            backend: Backend::IoUring,
            cpu: None,
            ports: Vec::new(),
            input: Some(interface),
            tx_sockets: tx_sockets.into_iter().collect(),
            flows: my_flows,
        };
        match cpus {
            None | Some([]) => workers.push(worker),
            Some(cpus) => workers.extend(cpus.iter().map(|&cpu| WorkerPlan {
                cpu: Some(cpu),
                ..worker.clone()
            })),
        }
    }
}
