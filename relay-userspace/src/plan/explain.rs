//! Which rule takes a datagram, or why none does: the verdict first, then why.
//!
//! The usual question is "why does nothing arrive?", and the usual answer a rule that nearly takes
//! it. So where none does, those that miss it by one of their values are named, each with the
//! value.

use std::{fmt, net::IpAddr, sync::Arc};

use relay_common::wire::Addresses;

use super::{arrange::Arrangement, header_text::HeaderText, model::Plan};
use crate::config::{
    Document, quoted,
    rules::{Input, PortMatch, Prefix, Rule, Vlan},
};

/// The most rules of one kind that are named.
const NAMED: usize = 4;

/// A UDP datagram as it would arrive, not a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The interface that it arrives on.
    pub interface: &'a str,
    /// Its destination address.
    pub group: IpAddr,
    /// Its destination port.
    pub port: u16,
    /// Its source address; `None` is one that no rule names.
    pub source: Option<IpAddr>,
    /// Its tags.
    pub vlan: Vlan,
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
    let mut takers: Vec<&Rule> = rules
        .iter()
        .filter(|rule| datagram.misses(&rule.input).is_none())
        .collect();
    takers.sort_by_key(|rule| std::cmp::Reverse(rule.input.matches.specificity()));
    if let Some(why) = datagram.impossible(&takers) {
        let verdict = Verdict::NotTaken;
        return Explanation { verdict, why };
    }
    let runs = |rule: &&Rule| rule.enabled && pending(rule, arrangement).is_none();
    let running = takers.iter().position(runs);
    let enabled = || takers.iter().position(|rule| rule.enabled);
    let chosen = running.or_else(enabled).unwrap_or(0);
    let mut why = Vec::new();
    let verdict = match takers.get(chosen) {
        Some(rule) if running.is_some() && datagram.is_own(arrangement) => {
            why.push(format!(
                "{} would take it, but copies of the relay have this source: it is taken for one \
                 that came back",
                label(rule)
            ));
            why.push(passed_as("own_frame"));
            Verdict::NotTaken
        }
        Some(rule) => {
            let verdict = verdict(rule, datagram, arrangement, &mut why);
            rivals(&takers, chosen, arrangement, &mut why);
            if datagram.source.is_none() {
                let sources = |rule: &&Rule| datagram.misses(&rule.input) == Some(Miss::Source);
                near(rules, sources, &mut why, |input| {
                    Miss::Source.text(datagram, input)
                });
            }
            verdict
        }
        None => {
            misses(rules, datagram, &mut why);
            Verdict::NotTaken
        }
    };
    Explanation { verdict, why }
}

/// Why a rule is pending, if it is.
fn pending<'a>(rule: &Rule, arrangement: Option<&'a Arrangement>) -> Option<&'a Arc<str>> {
    let mut pending = arrangement?.pending_rules.iter();
    let found = pending.find(|(name, _)| *name == rule.name);
    found.map(|(_, reason)| reason)
}

/// The verdict on a datagram that `rule` takes.
fn verdict(
    rule: &Rule,
    datagram: &Datagram<'_>,
    arrangement: Option<&Arrangement>,
    why: &mut Vec<String>,
) -> Verdict {
    let name = rule.name.clone();
    let pending = pending(rule, arrangement);
    if !rule.enabled {
        let name = quoted(&name);
        why.push(format!("`relay enable {name}` lets it run"));
    } else if let Some(reason) = pending {
        why.push(reason.to_string());
    }
    why.push(format!("its input is {}", rule.input));
    if !rule.input.join && !rule.input.matches.is_unicast() {
        why.push(
            "the relay does not join its groups (`join = false`): the network has to deliver them \
             by itself"
                .to_owned(),
        );
    }
    let waiting = |position| {
        let mut pending = arrangement.into_iter().flat_map(|a| &a.pending_outputs);
        let found = pending.find(|(rule, at, _)| *rule == name && *at == position);
        found.map(|(_, _, reason)| Arc::clone(reason))
    };
    let matches = &rule.input.matches;
    for (position, output) in rule.outputs.iter().enumerate() {
        let mut destination = output.destination();
        destination.group = Prefix::from(output.group.map(&matches.group, datagram.group));
        destination.port = PortMatch::One(output.port.map(matches.ports, datagram.port));
        destination.vlan = output.header.vlan.of_copy(datagram.vlan).into();
        why.push(match waiting(position) {
            Some(reason) => format!("it does not leave for {destination}: {reason}"),
            None => {
                let plan = arrangement.map(|arrangement| &*arrangement.plan);
                let planned = plan.and_then(|plan| planned(plan, &name, position, datagram.vlan));
                let (headers, by) = planned.unwrap_or_else(|| {
                    let wanted = HeaderText::wanted(output, datagram.vlan);
                    (wanted, String::new())
                });
                let headers = headers.of_copy(destination, datagram.source);
                format!("it leaves for {destination}{by}: {headers}")
            }
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
        Some(reason) => Verdict::Pending {
            rule: name,
            reason: Arc::clone(reason),
        },
        None => Verdict::Taken { rule: name },
    }
}

/// The headers of an output of a rule that runs, and " by out0" where routing has chosen that.
fn planned(
    plan: &Plan,
    rule: &str,
    position: usize,
    arrived: Vlan,
) -> Option<(HeaderText, String)> {
    let flow = plan.flows.iter().find(|flow| flow.rule == rule)?;
    let mut outputs = flow.outputs.iter();
    let output = outputs.find(|output| output.position == position)?;
    let interface = plan.interfaces.get(output.interface);
    let by = interface.filter(|_| output.is_routed);
    let by = by.map_or_else(String::new, |interface| format!(" by {}", interface.name));
    Some((HeaderText::planned(plan, output, arrived), by))
}

/// Names the other rules that match a datagram: those that are more specific than the one at
/// `chosen`, and do not run, and those that are less specific.
fn rivals(
    takers: &[&Rule],
    chosen: usize,
    arrangement: Option<&Arrangement>,
    why: &mut Vec<String>,
) {
    let (before, from) = takers.split_at(chosen.min(takers.len()));
    for rule in before.iter().take(NAMED) {
        let state = match pending(rule, arrangement) {
            Some(_) if rule.enabled => "pending",
            _ => "disabled",
        };
        let name = quoted(&rule.name);
        why.push(format!(
            "rule `{name}` is more specific and would take it, but is {state}"
        ));
    }
    let after = from.get(1..).unwrap_or_default();
    for rule in after.iter().take(NAMED) {
        why.push(format!(
            "{} does not get it: it matches as well, and is less specific",
            label(rule)
        ));
    }
    if let Some(more @ 1..) = after.len().checked_sub(NAMED) {
        why.push(format!("and {more} more"));
    }
}

/// Why no rule takes a datagram, the nearest misses first.
fn misses(rules: &[Rule], datagram: &Datagram<'_>, why: &mut Vec<String>) {
    let Datagram {
        interface,
        group,
        port,
        ..
    } = *datagram;
    // RFC 5771, section 4, and RFC 4291, section 2.7.1.
    let control = match group {
        IpAddr::V4(group) => matches!(group.octets(), [224, 0, 0, _]).then_some("224.0.0.0/24"),
        IpAddr::V6(group) => matches!(group.octets(), [0xff, 2, ..]).then_some("ff02::/16"),
    };
    if let Some(control) = control {
        why.push(format!(
            "{group} is a link-local control group ({control}), which no rule can have as input"
        ));
        return;
    }
    let before = why.len();
    for miss in [
        Miss::Source,
        Miss::Vlan,
        Miss::Port,
        Miss::Interface,
        Miss::Group,
    ] {
        let misses = |rule: &&Rule| datagram.misses(&rule.input) == Some(miss);
        near(rules, misses, why, |input| miss.text(datagram, input));
    }
    let has_group = |rule: &&Rule| rule.input.matches.group.contains(group);
    if why.len() == before {
        near(rules, has_group, why, |input| format!("{input}"));
    }
    let inputs = rules.iter().map(|rule| rule.input.interface.as_str());
    if !inputs.clone().any(|input| input == interface) {
        why.push(format!(
            "no rule has {interface} as input: {}",
            listed(inputs)
        ));
    } else if !rules.iter().any(|rule| has_group(&rule)) {
        why.push(format!("no rule has the {} {group}", noun(group)));
    }
    let sends = |rule: &&Rule| {
        let mut outputs = rule.outputs.iter();
        outputs.any(|o| {
            o.interface.as_deref() == Some(interface)
                && o.group.contains(group)
                && o.port.contains(port)
                && o.header.vlan.of_copy(rule.input.matches.vlan) == datagram.vlan
        })
    };
    if let Some(rule) = rules.iter().find(sends) {
        why.push(format!(
            "{} sends it through {interface}; where its own copies come back, they are counted as \
             own_frame",
            label(rule)
        ));
    }
    let counted = match datagram.vlan {
        _ if !group.is_multicast() => "not_multicast",
        Vlan::Untagged => "no_rule",
        Vlan::Tag(_) | Vlan::Double(..) => "vlan",
    };
    why.push(passed_as(counted));
}

/// What becomes of a frame that the kernel programs do not take.
fn passed_as(counted: &str) -> String {
    format!("it goes on to the host's own stack, and is counted as {counted}")
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

/// What rules call a destination.
fn noun(destination: IpAddr) -> &'static str {
    match destination.is_multicast() {
        true => "group",
        false => "address",
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
    match names.len() {
        0 => "there are no rules".to_owned(),
        1 => abridged(names, " is"),
        _ => abridged(names, " are"),
    }
}

/// "a, b, c, d and 3 more", and then `end`.
fn abridged(names: Vec<impl AsRef<str>>, end: &str) -> String {
    let more = names.len().saturating_sub(NAMED);
    let names: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    let names = names.join(", ");
    match more {
        0 => format!("{names}{end}"),
        more => format!("{names} and {more} more{end}"),
    }
}

/// By what an input misses a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Miss {
    Source,
    Vlan,
    Port,
    Interface,
    Group,
    /// By several.
    Several,
}

impl Datagram<'_> {
    /// Why no host can have sent it, whatever the rules say; `None` if one can. `takers` are the
    /// rules that it matches: to hosts, sources are looked at only where a rule names one.
    fn impossible(&self, takers: &[&Rule]) -> Option<Vec<String>> {
        let (source, group) = (self.source?, self.group);
        let Some(addresses) = Addresses::between(source, group) else {
            return Some(vec![format!(
                "there is no such datagram: {source} and {group} are of different versions of IP"
            )]);
        };
        let is_looked_at = group.is_multicast() || !takers.is_empty();
        if !is_looked_at || !addresses.is_martian(group.is_multicast()) {
            return None;
        }
        let mut why = vec![format!("no host can send from {source} to {group}")];
        why.extend(takers.first().map(|rule| {
            let label = label(rule);
            format!("{label} takes it from a source that a host can have")
        }));
        why.push(passed_as("martian"));
        Some(why)
    }

    /// Whether copies of the relay leave with its source now.
    fn is_own(&self, arrangement: Option<&Arrangement>) -> bool {
        let own = arrangement.map(|now| &now.plan.own_sources);
        own.zip(self.source)
            .is_some_and(|(own, source)| own.contains(&source))
    }

    /// By what an input misses it; `None` if it takes it.
    fn misses(&self, input: &Input) -> Option<Miss> {
        let matches = &input.matches;
        let kind = |address: IpAddr| (address.is_ipv4(), address.is_multicast());
        if kind(matches.group.address()) != kind(self.group) {
            return Some(Miss::Several);
        }
        let wrong = [
            (Miss::Source, !matches.takes_source(self.source)),
            (Miss::Vlan, matches.vlan != self.vlan),
            (Miss::Port, !matches.ports.contains(self.port)),
            (Miss::Interface, input.interface != self.interface),
            (Miss::Group, !matches.group.contains(self.group)),
        ];
        let mut wrong = wrong.iter().filter(|(_, wrong)| *wrong);
        match (wrong.next(), wrong.next()) {
            (None, _) => None,
            (Some((miss, _)), None) => Some(*miss),
            (Some(_), Some(_)) => Some(Miss::Several),
        }
    }
}

impl Miss {
    /// What an input takes instead.
    fn text(self, datagram: &Datagram<'_>, input: &Input) -> String {
        let Datagram {
            interface,
            group,
            port,
            source,
            vlan,
        } = datagram;
        let matches = &input.matches;
        match self {
            Self::Source => {
                let sources = matches.sources.iter().map(ToString::to_string);
                let sources = abridged(sources.collect(), "");
                match source {
                    Some(source) => format!("it from {sources}, not from {source}"),
                    None => format!("it from {sources}"),
                }
            }
            Self::Vlan => {
                let tagged = |vlan: Vlan| match vlan {
                    Vlan::Untagged => "without a tag".to_owned(),
                    Vlan::Tag(_) | Vlan::Double(..) => format!("in {vlan}"),
                };
                format!("it {}, not {}", tagged(matches.vlan), tagged(*vlan))
            }
            Self::Port => {
                let ports = matches.ports;
                let plural = if ports.one().is_some() { "" } else { "s" };
                format!("port{plural} {ports}, not {port}")
            }
            Self::Interface => format!("it on {}, not on {interface}", input.interface),
            Self::Group => {
                let plural = if matches.group.is_one() { "" } else { "s" };
                format!("{}{plural} {}, not {group}", noun(*group), matches.group)
            }
            Self::Several => format!("{input}"),
        }
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
