//! A rule file as far as it could be read: [`super::tables`] fills it, [`super::cross_checks`]
//! checks it.
//!
//! A part that could not be read is `None` here, and its mistake is already recorded.

use std::{collections::HashSet, sync::Arc};

use super::{
    InterfacePlaces, MetricsPlace, OutputPlaces, Place, Places, RulePlaces,
    rules::{
        Health, Input, InterfaceOptions, Limit, Metrics, Offloads, Output, Rule, Rules, Transmit,
    },
};

/// A value and its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

/// A file as far as it could be read.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) rules: Vec<RuleDraft>,
    pub(super) interfaces: Vec<InterfaceDraft>,
    pub(super) metrics: Option<At<Metrics>>,
    /// Every interface name in a rule, even if the rest of the rule is wrong.
    pub(super) used: HashSet<String>,
    /// The interface of at least one rule could not be read, so `used` is not complete.
    pub(super) used_incomplete: bool,
}

/// A rule as far as it could be read.
#[derive(Debug)]
pub(super) struct RuleDraft {
    pub(super) place: Place,
    /// What mistakes call this rule: its name, or its number if it has none.
    pub(super) label: String,
    pub(super) name: Option<At<String>>,
    pub(super) enabled: bool,
    pub(super) input: Option<(At<Input>, Place)>,
    pub(super) limit: Option<Limit>,
    pub(super) health: Health,
    pub(super) outputs: Vec<(At<Output>, Place)>,
}

/// An `[[interfaces]]` table as far as it could be read.
#[derive(Debug)]
pub(super) struct InterfaceDraft {
    pub(super) name: Option<At<String>>,
    pub(super) queues: Option<Vec<At<u32>>>,
    pub(super) cpus: Option<Vec<At<u32>>>,
    pub(super) transmit: Option<At<Transmit>>,
    pub(super) offloads: Option<At<Offloads>>,
}

impl Draft {
    /// The rules and their places in `file`. It leaves out incomplete rules and tables, so call it
    /// only when there are no mistakes.
    pub(super) fn finish(self, file: &Arc<str>) -> (Rules, Places) {
        let mut rules = Vec::new();
        let mut interfaces = Vec::new();
        let mut places = Places::default();
        for draft in self.rules {
            let (Some(name), Some((input, input_interface))) = (draft.name, draft.input) else {
                continue;
            };
            let output_places = |(output, interface): &(At<Output>, Place)| OutputPlaces {
                output: output.place,
                interface: *interface,
            };
            places.rules.push(RulePlaces {
                file: Arc::clone(file),
                rule: draft.place,
                input: input.place,
                input_interface,
                outputs: draft.outputs.iter().map(output_places).collect(),
            });
            let outputs = draft
                .outputs
                .into_iter()
                .map(|(output, _)| output.value)
                .collect();
            rules.push(Rule {
                name: name.value,
                enabled: draft.enabled,
                input: input.value,
                limit: draft.limit,
                health: draft.health,
                outputs,
            });
        }
        for draft in self.interfaces {
            let Some(name) = draft.name else { continue };
            let mut queues = draft.queues;
            if let Some(list) = &mut queues {
                list.sort_by_key(|queue| queue.value);
            }
            let places_of = |list: &Option<Vec<At<u32>>>| -> Vec<Place> {
                list.iter().flatten().map(|entry| entry.place).collect()
            };
            let values_of = |list: &Option<Vec<At<u32>>>| -> Option<Vec<u32>> {
                list.as_ref()
                    .map(|list| list.iter().map(|entry| entry.value).collect())
            };
            places.interfaces.push(InterfacePlaces {
                file: Arc::clone(file),
                name: name.place,
                queues: places_of(&queues),
                cpus: places_of(&draft.cpus),
                transmit: draft.transmit.as_ref().map(|transmit| transmit.place),
                offloads: draft.offloads.as_ref().map(|offloads| offloads.place),
            });
            interfaces.push(InterfaceOptions {
                name: name.value,
                queues: values_of(&queues),
                cpus: values_of(&draft.cpus),
                transmit: draft
                    .transmit
                    .map_or(Transmit::Auto, |transmit| transmit.value),
                offloads: draft
                    .offloads
                    .map_or(Offloads::Keep, |offloads| offloads.value),
            });
        }
        places.metrics = self.metrics.as_ref().map(|metrics| MetricsPlace {
            file: Arc::clone(file),
            table: metrics.place,
        });
        let rules = Rules {
            rules,
            interfaces,
            metrics: self.metrics.map(|metrics| metrics.value),
        };
        (rules, places)
    }
}
