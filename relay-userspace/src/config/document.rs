//! A rule file without mistakes: its rules, and the place of each.
//!
//! Rules may come from several files: one that was loaded, and fragments that were merged into it
//! ([`super::merge`]). So every rule and every `[[interfaces]]` table knows its own file, and a
//! mistake that is found later points into the right one.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use super::{
    Mistake, Place,
    rules::{Rule, Rules},
};

/// A rule file without mistakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The file that was loaded, as the user named it. After a merge it is the first one.
    pub file: Arc<str>,
    /// The file's content.
    pub rules: Rules,
    /// Where in the file each part of `rules` is.
    pub places: Places,
}

/// Where everything in a [`Document`] is; same order and lengths as in its [`Rules`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// One entry per rule.
    pub rules: Vec<RulePlaces>,
    /// One entry per `[[interfaces]]` table.
    pub interfaces: Vec<InterfacePlaces>,
    /// The `[metrics]` table, if there is one.
    pub metrics: Option<MetricsPlace>,
}

/// Where the `[metrics]` table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsPlace {
    /// The file that it comes from.
    pub file: Arc<str>,
    /// The table.
    pub table: Place,
}

/// Where one rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePlaces {
    /// The file that it comes from.
    pub file: Arc<str>,
    /// The rule.
    pub rule: Place,
    /// Its `input` table.
    pub input: Place,
    /// The interface in its `input`.
    pub input_interface: Place,
    /// One entry per output.
    pub outputs: Vec<OutputPlaces>,
}

/// Where one output is in the file of its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputPlaces {
    /// The output's table.
    pub output: Place,
    /// The interface in it; where it names none, the output's table.
    pub interface: Place,
}

/// Where one `[[interfaces]]` table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacePlaces {
    /// The file that it comes from.
    pub file: Arc<str>,
    /// The name.
    pub name: Place,
    /// One entry per queue, in the order of [`super::rules::InterfaceOptions::queues`].
    pub queues: Vec<Place>,
    /// One entry per CPU.
    pub cpus: Vec<Place>,
    /// The value of `transmit`.
    pub transmit: Option<Place>,
    /// The value of `offloads`.
    pub offloads: Option<Place>,
}

/// A place, and the file that it is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot<'d> {
    pub(crate) file: &'d Arc<str>,
    pub(crate) place: Place,
}

impl Spot<'_> {
    /// A mistake here.
    pub(crate) fn mistake(self, cause: String, remedy: String) -> Mistake {
        Mistake {
            file: Arc::clone(self.file),
            place: Some(self.place),
            cause,
            remedy,
        }
    }
}

impl RulePlaces {
    /// A place of this rule.
    pub(crate) fn spot(&self, place: Place) -> Spot<'_> {
        Spot {
            file: &self.file,
            place,
        }
    }
}

impl MetricsPlace {
    /// The place of the table.
    pub(crate) fn spot(&self) -> Spot<'_> {
        Spot {
            file: &self.file,
            place: self.table,
        }
    }
}

impl InterfacePlaces {
    /// A place of this table.
    pub(crate) fn spot(&self, place: Place) -> Spot<'_> {
        Spot {
            file: &self.file,
            place,
        }
    }
}

impl Document {
    /// The rule with this name.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.rules.iter().find(|rule| rule.name == name)
    }

    /// This document without the rule `name`, and without the `[[interfaces]]` tables that no rule
    /// uses any more; `None` if there is no such rule.
    #[must_use]
    pub fn without(&self, name: &str) -> Option<Self> {
        self.rule(name)?;
        let others = self.with_places().filter(|(rule, _)| rule.name != name);
        let mut left = self.with_rules(others.map(|(rule, places)| (rule.clone(), places.clone())));
        let used: HashSet<&str> = left.rules.interfaces_used().collect();
        // A route may lead through any interface.
        let mut outputs = left.rules.rules.iter().flat_map(|rule| &rule.outputs);
        let any_routed = outputs.any(|output| output.interface.is_none());
        let tables = self.rules.interfaces.iter().zip(&self.places.interfaces);
        (left.rules.interfaces, left.places.interfaces) = tables
            .filter(|(options, _)| any_routed || used.contains(options.name.as_str()))
            .map(|(options, places)| (options.clone(), places.clone()))
            .unzip();
        Some(left)
    }

    /// Enables or disables the rule `name`; false if there is no such rule.
    #[must_use]
    pub fn set_enabled(&mut self, name: &str, enabled: bool) -> bool {
        let mut rules = self.rules.rules.iter_mut();
        let rule = rules.find(|rule| rule.name == name);
        rule.map(|rule| rule.enabled = enabled).is_some()
    }

    /// The document with the enabled rules only: what shall run.
    #[must_use]
    pub fn enabled(&self) -> Cow<'_, Self> {
        if self.rules.rules.iter().all(|rule| rule.enabled) {
            return Cow::Borrowed(self);
        }
        let enabled = self.with_places().filter(|(rule, _)| rule.enabled);
        let enabled = enabled.map(|(rule, places)| (rule.clone(), places.clone()));
        Cow::Owned(self.with_rules(enabled))
    }

    /// Every rule with its places.
    pub(crate) fn with_places(&self) -> impl Iterator<Item = (&Rule, &RulePlaces)> {
        self.rules.rules.iter().zip(&self.places.rules)
    }

    /// The same document with other rules.
    pub(crate) fn with_rules(&self, rules: impl Iterator<Item = (Rule, RulePlaces)>) -> Self {
        let (rules, places) = rules.unzip();
        Self {
            file: Arc::clone(&self.file),
            rules: Rules {
                rules,
                interfaces: self.rules.interfaces.clone(),
                metrics: self.rules.metrics.clone(),
            },
            places: Places {
                rules: places,
                interfaces: self.places.interfaces.clone(),
                metrics: self.places.metrics.clone(),
            },
        }
    }
}

impl Rules {
    /// The interface of every input, and of every output that names one, as often as it is named.
    pub fn interfaces_used(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().flat_map(|rule| {
            let outputs = rule.outputs.iter();
            let outputs = outputs.filter_map(|output| output.interface.as_deref());
            std::iter::once(rule.input.interface.as_str()).chain(outputs)
        })
    }
}
