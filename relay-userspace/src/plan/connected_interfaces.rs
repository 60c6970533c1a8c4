//! Connected interfaces: one worker receives a frame and sends its copies, so interfaces that rules
//! connect share workers and a backend.

use std::collections::{BTreeMap, HashMap};

use super::ids::{FlowId, InterfaceId};
use crate::config::Document;

/// Interfaces that rules connect, directly or through others, and the flows of these rules.
pub(super) struct Connected {
    /// Ascending.
    pub(super) interfaces: Vec<InterfaceId>,
    /// Ascending.
    pub(super) flows: Vec<FlowId>,
}

/// The connected components of the interfaces, in the order of their first interface. `links` has
/// the input and the outputs of every flow.
pub(super) fn connected(
    interfaces: usize,
    links: &[(InterfaceId, Vec<InterfaceId>)],
) -> Vec<Connected> {
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
            let (a, b) = (
                root(&parent, input.position()),
                root(&parent, output.position()),
            );
            if let Some(higher) = parent.get_mut(a.max(b)) {
                *higher = a.min(b);
            }
        }
    }
    let mut connected: BTreeMap<usize, Connected> = BTreeMap::new();
    let empty = || Connected {
        interfaces: Vec::new(),
        flows: Vec::new(),
    };
    for position in 0..interfaces {
        connected
            .entry(root(&parent, position))
            .or_insert_with(empty)
            .interfaces
            .push(InterfaceId::new(position));
    }
    for (position, (input, _)) in links.iter().enumerate() {
        connected
            .entry(root(&parent, input.position()))
            .or_insert_with(empty)
            .flows
            .push(FlowId::new(position));
    }
    connected.into_values().collect()
}

/// The input and the outputs of every rule.
pub(super) fn links(
    document: &Document,
    ids: &HashMap<&str, InterfaceId>,
) -> Vec<(InterfaceId, Vec<InterfaceId>)> {
    let at = |name: &str| ids.get(name).copied();
    let rules = document.rules.rules.iter();
    rules
        .filter_map(|rule| {
            let outputs = rule.outputs.iter();
            let outputs = outputs
                .filter_map(|output| at(output.interface.as_deref()?))
                .collect();
            Some((at(&rule.input.interface)?, outputs))
        })
        .collect()
}
