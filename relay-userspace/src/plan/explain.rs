//! Which rule takes a datagram, or why none does: the verdict first, then why.
//!
//! The usual question is "why does nothing arrive?", and the usual answer a rule that nearly takes
//! it. So where none does, those that miss it by one of their three values are named, each with the
//! value.

use std::{fmt, net::Ipv4Addr, sync::Arc};

use super::arrange::Arrangement;
use crate::config::{
    Document, quoted,
    rules::{Input, Rule},
};

/// The most rules of one kind that are named.
const NAMED: usize = 4;

/// A datagram as it would arrive: IPv4 and UDP, not a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The interface that it arrives on.
    pub interface: &'a str,
    /// Its destination address.
    pub group: Ipv4Addr,
    /// Its destination port.
    pub port: u16,
    /// The VLAN of its tag; `None` if it has none.
    pub vlan: Option<u16>,
}

/// What becomes of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A rule takes it.
    Taken {
        /// The rule's name.
        rule: String,
    },
    /// A rule would take it, but cannot run now.
    Pending {
        /// The rule's name.
        rule: String,
        /// Why, and what to do.
        reason: Arc<str>,
    },
    /// A rule would take it, but is disabled.
    Disabled {
        /// The rule's name.
        rule: String,
    },
    /// No rule takes it: it goes on to the host's own stack.
    NotTaken,
}

/// What becomes of a datagram, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why, and what else there is to know: one text each. Where no rule takes it, the nearest
    /// misses first.
    pub why: Vec<String>,
}

/// Says which rule of `document` takes `datagram`, or why none does. With an `arrangement` of the
/// same document, as it is on this host now; without one, as the rules alone say.
#[must_use]
pub fn explain(
    document: &Document,
    arrangement: Option<&Arrangement>,
    datagram: &Datagram<'_>,
) -> Explanation {
    let rules = &document.rules.rules;
    let matching = rules.iter().find(|rule| datagram.is_of(&rule.input));
    let mut why = Vec::new();
    let verdict = match matching {
        Some(rule) if !datagram.has_vlan() => verdict(rule, arrangement, &mut why),
        _ => {
            misses(rules, datagram, &mut why);
            Verdict::NotTaken
        }
    };
    Explanation { verdict, why }
}

/// The verdict on a datagram that `rule` matches.
fn verdict(rule: &Rule, arrangement: Option<&Arrangement>, why: &mut Vec<String>) -> Verdict {
    let name = rule.name.clone();
    let pending = arrangement.and_then(|arrangement| {
        let mut pending = arrangement.pending_rules.iter();
        pending.find(|(rule, _)| *rule == name)
    });
    if !rule.enabled {
        let name = quoted(&name);
        why.push(format!("`relay enable {name}` lets it run"));
    } else if let Some((_, reason)) = pending {
        why.push(reason.to_string());
    }
    why.push(format!("its input is {}", rule.input));
    let waiting = |position| {
        let mut pending = arrangement.into_iter().flat_map(|a| &a.pending_outputs);
        let found = pending.find(|(rule, at, _)| *rule == name && *at == position);
        found.map(|(_, _, reason)| Arc::clone(reason))
    };
    for (position, output) in rule.outputs.iter().enumerate() {
        let destination = output.destination();
        why.push(match waiting(position) {
            Some(reason) => format!("it does not leave for {destination}: {reason}"),
            None => format!("it leaves for {destination}, ttl {}", output.ttl),
        });
    }
    if let Some(limit) = rule.limit {
        let (rate, burst) = (limit.packets_per_second, limit.burst);
        why.push(format!(
            "its limit is {rate} per second and {burst} at once: what exceeds it is counted as \
             over_limit"
        ));
    }
    match pending {
        _ if !rule.enabled => Verdict::Disabled { rule: name },
        Some((_, reason)) => Verdict::Pending {
            rule: name,
            reason: Arc::clone(reason),
        },
        None => Verdict::Taken { rule: name },
    }
}

/// Why no rule takes a datagram, the nearest misses first.
fn misses(rules: &[Rule], datagram: &Datagram<'_>, why: &mut Vec<String>) {
    let Datagram {
        interface,
        group,
        port,
        vlan,
    } = *datagram;
    if let Some(vlan) = vlan.filter(|&vlan| vlan != 0) {
        why.push(format!(
            "it has a tag of VLAN {vlan}: rules take untagged datagrams, and those of VLAN 0; it is \
             counted as vlan"
        ));
        let untagged = rules.iter().filter(|rule| datagram.is_of(&rule.input));
        let untagged =
            untagged.map(|rule| format!("{} would take it without the tag", label(rule)));
        why.extend(untagged);
        return;
    }
    if !group.is_multicast() {
        why.push(format!(
            "{group} is no multicast group, and only multicast is relayed"
        ));
        return;
    }
    // RFC 5771, section 4.
    if matches!(group.octets(), [224, 0, 0, _]) {
        why.push(format!(
            "{group} is a link-local control group (224.0.0.0/24), which no rule can have as input"
        ));
        return;
    }
    let before = why.len();
    let other_port = |rule: &&Rule| rule.input.interface == interface && rule.input.group == group;
    near(rules, other_port, why, |input| {
        format!("port {}, not {port}", input.port)
    });
    let elsewhere = |rule: &&Rule| rule.input.group == group && rule.input.port == port;
    near(rules, elsewhere, why, |input| {
        format!("it on {}, not on {interface}", input.interface)
    });
    let other_group = |rule: &&Rule| rule.input.interface == interface && rule.input.port == port;
    near(rules, other_group, why, |input| {
        format!("group {}, not {group}", input.group)
    });
    if why.len() == before {
        let same_group = |rule: &&Rule| rule.input.group == group;
        near(rules, same_group, why, |input| format!("{input}"));
    }
    let inputs = rules.iter().map(|rule| rule.input.interface.as_str());
    if !inputs.clone().any(|input| input == interface) {
        why.push(format!(
            "no rule has {interface} as input: {}",
            listed(inputs)
        ));
    } else if !rules.iter().any(|rule| rule.input.group == group) {
        why.push(format!("no rule has the group {group}"));
    }
    let sends = |rule: &&Rule| {
        let mut outputs = rule.outputs.iter();
        outputs.any(|o| o.interface == interface && o.group == group && o.port == port)
    };
    if let Some(rule) = rules.iter().find(sends) {
        why.push(format!(
            "{} sends it through {interface}; where its own copies come back, they are counted as \
             own_frame",
            label(rule)
        ));
    }
    why.push("it goes on to the host's own stack, and is counted as no_rule".to_owned());
}

/// Adds the first rules that `is_near` finds, each with what it takes instead.
fn near(
    rules: &[Rule],
    is_near: impl Fn(&&Rule) -> bool,
    why: &mut Vec<String>,
    takes: impl Fn(&Input) -> String,
) {
    let all = || rules.iter().filter(&is_near);
    let first = all().take(NAMED);
    why.extend(first.map(|rule| format!("{} takes {}", label(rule), takes(&rule.input))));
    if let Some(more @ 1..) = all().count().checked_sub(NAMED) {
        why.push(format!("and {more} more"));
    }
}

/// "rule `feed-a`", with a word if it is disabled.
fn label(rule: &Rule) -> String {
    let disabled = if rule.enabled { "" } else { " (disabled)" };
    format!("rule `{}`{disabled}", quoted(&rule.name))
}

/// "in0, in1 and 3 more are", each once.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(NAMED);
    let be = if names.len() == 1 { "is" } else { "are" };
    names.truncate(NAMED);
    match (names.join(", "), more) {
        (none, _) if none.is_empty() => "there are no rules".to_owned(),
        (names, 0) => format!("{names} {be}"),
        (names, more) => format!("{names} and {more} more are"),
    }
}

impl Datagram<'_> {
    /// Whether an input matches it, apart from its tag.
    fn is_of(&self, input: &Input) -> bool {
        input.interface == self.interface && input.group == self.group && input.port == self.port
    }

    /// Whether it is in a VLAN; a priority tag (VLAN 0) does not count.
    fn has_vlan(&self) -> bool {
        self.vlan.is_some_and(|vlan| vlan != 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { rule } => write!(f, "rule `{}` takes it", quoted(rule)),
            Self::Pending { rule, .. } => write!(
                f,
                "not taken now: rule `{}` would take it, and is pending",
                quoted(rule)
            ),
            Self::Disabled { rule } => write!(
                f,
                "not taken: rule `{}` would take it, and is disabled",
                quoted(rule)
            ),
            Self::NotTaken => f.write_str("no rule takes it"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        for line in &self.why {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}
