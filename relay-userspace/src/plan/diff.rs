//! What is different between two sets of rules, for an operator to read before and after a change.
//!
//! Rules are told apart by their names, and the outputs of a rule by where they go. The order of
//! rules, of outputs and of tables in a file says nothing.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use serde::Serialize;

use crate::config::{
    Document, quoted,
    rules::{
        Destination, Header, Input, InterfaceOptions, Limit, Metrics, Offloads, Output, Rule,
        Transmit, Written,
    },
};

/// The most rules of one kind, and the most changes of one rule, that are printed.
const SHOWN: usize = 20;

/// What is different between two documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The names of rules that only the new one has, in its order.
    pub added: Vec<String>,
    /// The names of rules that only the old one has, in its order.
    pub removed: Vec<String>,
    /// The rules that both have and that are not the same, in the new one's order: the name, and
    /// what changed, at least one text each.
    pub changed: Vec<(String, Vec<String>)>,
    /// How many rules are the same.
    pub unchanged: usize,
    /// The interfaces whose `[[interfaces]]` options changed: the name, and what changed, at least
    /// one text each.
    pub interfaces: Vec<(String, Vec<String>)>,
    /// What changed of the `[metrics]` table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// What is different in `new`, compared with `old`.
#[must_use]
pub fn diff(old: &Document, new: &Document) -> Difference {
    let mut difference = Difference::default();
    let old_rules: HashMap<&str, &Rule> = by_name(&old.rules.rules, |rule| &rule.name);
    let new_names: HashSet<&str> = new.rules.rules.iter().map(|r| r.name.as_str()).collect();
    for rule in &new.rules.rules {
        match old_rules.get(rule.name.as_str()) {
            None => difference.added.push(rule.name.clone()),
            Some(&old) => match of_rule(old, rule) {
                changes if changes.is_empty() => difference.unchanged += 1,
                changes => difference.changed.push((rule.name.clone(), changes)),
            },
        }
    }
    let removed = old.rules.rules.iter().map(|rule| rule.name.as_str());
    let removed = removed.filter(|name| !new_names.contains(name));
    difference.removed = removed.map(str::to_owned).collect();
    difference.interfaces = of_interfaces(&old.rules.interfaces, &new.rules.interfaces);
    let (was, is) = (&old.rules.metrics, &new.rules.metrics);
    difference.metrics =
        (was != is).then(|| format!("{} -> {}", metrics(was.as_ref()), metrics(is.as_ref())));
    difference
}

fn by_name<T>(all: &[T], name: impl Fn(&T) -> &str) -> HashMap<&str, &T> {
    all.iter().map(|one| (name(one), one)).collect()
}

/// What changed of a rule; empty if nothing.
fn of_rule(old: &Rule, new: &Rule) -> Vec<String> {
    let mut changes = Vec::new();
    if old.enabled != new.enabled {
        let now = if new.enabled { "enabled" } else { "disabled" };
        changes.push(now.to_owned());
    }
    if old.input != new.input {
        of_input(&old.input, &new.input, &mut changes);
    }
    if old.limit != new.limit {
        let (old, new) = (limit(old.limit), limit(new.limit));
        changes.push(format!("limit {old} -> {new}"));
    }
    for (key, old, new) in [
        ("silence", silence(old), silence(new)),
        ("monitor", monitor(old), monitor(new)),
    ] {
        if old != new {
            changes.push(format!("{key} {old} -> {new}"));
        }
    }
    if old.outputs != new.outputs {
        of_outputs(&old.outputs, &new.outputs, &mut changes);
    }
    changes
}

/// The value of `silence`, or what is without it.
fn silence(rule: &Rule) -> String {
    let silence = rule.health.silence;
    silence.map_or_else(|| "none".into(), |time| Written(time).to_string())
}

/// The value of `monitor`, or what is without it.
fn monitor(rule: &Rule) -> String {
    let monitor = rule.health.monitor;
    monitor.map_or_else(|| "none".into(), |monitor| monitor.to_string())
}

fn of_input(old: &Input, new: &Input, changes: &mut Vec<String>) {
    let (was, is) = (old.to_string(), new.to_string());
    if was != is {
        changes.push(format!("input {was} -> {is}"));
    } else if old.matches != new.matches {
        // Of many sources a text names the first only.
        let (old, new) = (&old.matches.sources, &new.matches.sources);
        let added = new.iter().filter(|source| !old.contains(source));
        changes.extend(added.map(|source| format!("source {source} added")));
        let removed = old.iter().filter(|source| !new.contains(source));
        changes.extend(removed.map(|source| format!("source {source} removed")));
    }
    // An address of this host is never joined.
    let both_join = !old.matches.is_unicast() && !new.matches.is_unicast();
    for (key, old, new) in [
        ("join", old.join || !both_join, new.join || !both_join),
        ("local", old.local, new.local),
    ] {
        if old != new {
            changes.push(format!("{key} {old} -> {new}"));
        }
    }
}

fn of_outputs(old: &[Output], new: &[Output], changes: &mut Vec<String>) {
    let mut gone: HashMap<Destination<'_>, &Output> = old
        .iter()
        .map(|output| (output.destination(), output))
        .collect();
    for output in new {
        let destination = output.destination();
        let Some(old) = gone.remove(&destination) else {
            changes.push(format!("output {destination} added"));
            continue;
        };
        let changed = set_by(old).into_iter().zip(set_by(output));
        for ((key, old), (_, new)) in changed.filter(|(old, new)| old != new) {
            changes.push(format!("output {destination}: {key} {old} -> {new}"));
        }
    }
    let old = old.iter().map(Output::destination);
    let removed = old.filter(|output| gone.contains_key(output));
    changes.extend(removed.map(|output| format!("output {output} removed")));
}

/// What an output sets, beside where its copies go: key and value.
fn set_by(output: &Output) -> [(&'static str, String); 6] {
    let Header {
        ttl,
        source_port,
        dscp,
        vlan: _,
        pcp,
    } = output.header;
    let or = |number: Option<u32>, default: &str| {
        number.map_or_else(|| default.to_owned(), |number| number.to_string())
    };
    [
        ("ttl", ttl.to_string()),
        ("dscp", or(dscp.map(Into::into), "keep")),
        ("pcp", or(pcp.map(Into::into), "kept")),
        ("source", output.source.to_string()),
        ("source_port", or(source_port.map(Into::into), "keep")),
        ("mark", or(output.mark, "none")),
    ]
}

fn limit(limit: Option<Limit>) -> String {
    limit.map_or_else(
        || "none".to_owned(),
        |limit| {
            let (rate, burst) = (limit.packets_per_second, limit.burst);
            format!("{rate} per second and {burst} at once")
        },
    )
}

/// What a `[metrics]` table says, or what is without it.
fn metrics(metrics: Option<&Metrics>) -> String {
    match metrics {
        None => "none".into(),
        Some(Metrics { listen, outputs }) => {
            let outputs = if *outputs { "" } else { ", without outputs" };
            format!("on {listen}{outputs}")
        }
    }
}

/// The interfaces whose options changed; a missing table is one with the defaults.
fn of_interfaces(old: &[InterfaceOptions], new: &[InterfaceOptions]) -> Vec<(String, Vec<String>)> {
    let old_tables = by_name(old, |options| &options.name);
    let new_tables = by_name(new, |options| &options.name);
    let gone = old.iter().map(|options| options.name.as_str());
    let gone = gone.filter(|name| !new_tables.contains_key(name));
    let names = new.iter().map(|options| options.name.as_str()).chain(gone);
    let changes = names.map(|name| {
        let (old, new) = (old_tables.get(name).copied(), new_tables.get(name).copied());
        (name.to_owned(), of_interface(old, new))
    });
    changes.filter(|(_, changes)| !changes.is_empty()).collect()
}

fn of_interface(old: Option<&InterfaceOptions>, new: Option<&InterfaceOptions>) -> Vec<String> {
    let queues = |options: Option<&InterfaceOptions>| numbers(options?.queues.as_deref());
    let cpus = |options: Option<&InterfaceOptions>| numbers(options?.cpus.as_deref());
    let transmit = |options: Option<&InterfaceOptions>| {
        let transmit = options.map_or(Transmit::Auto, |options| options.transmit);
        Some(transmit.to_string())
    };
    let offloads = |options: Option<&InterfaceOptions>| {
        let offloads = options.map_or(Offloads::Keep, |options| options.offloads);
        Some(offloads.to_string())
    };
    let mut changes = Vec::new();
    let mut compare = |what: &str, default: &str, old: Option<String>, new: Option<String>| {
        if old != new {
            let (old, new) = (old.as_deref(), new.as_deref());
            let (old, new) = (old.unwrap_or(default), new.unwrap_or(default));
            changes.push(format!("{what} {old} -> {new}"));
        }
    };
    compare("queues", "all", queues(old), queues(new));
    compare("cpus", "not pinned", cpus(old), cpus(new));
    compare("transmit", "auto", transmit(old), transmit(new));
    compare("offloads", "keep", offloads(old), offloads(new));
    changes
}

fn numbers(list: Option<&[u32]>) -> Option<String> {
    list.map(|list| format!("{list:?}"))
}

impl Difference {
    /// Whether the two documents say the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.interfaces.is_empty()
            && self.metrics.is_none()
    }
}

impl fmt::Display for Difference {
    /// First how many, then which, then what of each:
    ///
    /// ```text
    /// rules: 1 added, 1 removed, 1 changed, 7 as before
    ///   + feed-d
    ///   - feed-c
    ///   ~ feed-a
    ///       limit none -> 1000 per second and 100 at once
    ///       output 239.2.2.2:5002 on out0 removed
    /// interface in0
    ///   queues all -> [0, 1]
    /// ```
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "nothing changes: {} rules as before", self.unchanged);
        }
        write!(
            f,
            "rules: {} added, {} removed, {} changed, {} as before",
            self.added.len(),
            self.removed.len(),
            self.changed.len(),
            self.unchanged
        )?;
        for (sign, names) in [('+', &self.added), ('-', &self.removed)] {
            for name in names.iter().take(SHOWN) {
                write!(f, "\n  {sign} {}", quoted(name))?;
            }
            more(f, "  ", sign, names.len())?;
        }
        for (name, changes) in self.changed.iter().take(SHOWN) {
            write!(f, "\n  ~ {}", quoted(name))?;
            for change in changes.iter().take(SHOWN) {
                write!(f, "\n      {change}")?;
            }
            more(f, "      ", "and", changes.len())?;
        }
        more(f, "  ", '~', self.changed.len())?;
        for (name, changes) in self.interfaces.iter().take(SHOWN) {
            write!(f, "\ninterface {name}")?;
            for change in changes {
                write!(f, "\n  {change}")?;
            }
        }
        more(f, "", "and", self.interfaces.len())?;
        match &self.metrics {
            Some(metrics) => write!(f, "\nmetrics {metrics}"),
            None => Ok(()),
        }
    }
}

/// A line that says how many are not shown, if there are any.
fn more(
    f: &mut fmt::Formatter<'_>,
    indent: &str,
    sign: impl fmt::Display,
    count: usize,
) -> fmt::Result {
    match count.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => write!(f, "\n{indent}{sign} {more} more"),
    }
}
