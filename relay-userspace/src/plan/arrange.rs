//! What of the rules can run on this host as it is now, and what has to wait.
//!
//! [`super::build`] refuses all rules for one interface that is missing. A running relay goes on
//! without it instead: the interface is taken out of the rules, as input, or as output of a version
//! of IP, and with it whatever needs it, which is then pending with the reason. The rest is checked
//! anew, because connected interfaces share a backend: without one of them the others may be on
//! another. Every such pass takes at least one interface out of one of its roles, so there are few.
//!
//! A unicast output that has no route waits as well, but its rule runs, even without any other
//! output: routes come and go, and what the rule misses meanwhile is counted.

use std::{borrow::Cow, collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    build::{self, Checked},
    constraints::Constraints,
    finding::{self, Finding, Hindrance, Role},
    ids::InterfaceId,
    model::{PendingOutput, Plan, WaitsFor},
    named_interfaces::Named,
    own_addresses,
    routes::Routed,
    shapes,
};
use crate::{
    config::{
        Document, Mistakes, RulePlaces, quoted,
        rules::{Output, Rule, Source},
    },
    host::HostFacts,
};

/// The most reasons of outputs that the reason of their rule has.
const SHOWN: usize = 3;

/// What runs now, and what waits for this host to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrangement {
    /// What can run. It has no flow for a rule that is pending or disabled, and flows without the
    /// outputs that are pending, see [`super::Output::position`].
    pub plan: Arc<Plan>,
    /// The rules that cannot run now: their names, and for each a sentence that says why and what
    /// to do. In the document's order. Disabled rules are not among them.
    pub pending_rules: Vec<(String, Arc<str>)>,
    /// The outputs that copies cannot leave through now: the name of the rule, which of its outputs
    /// it is, from 0, and the reason. In the document's order, with the outputs of pending rules.
    pub pending_outputs: Vec<(String, usize, Arc<str>)>,
}

/// Plans as much of the enabled rules of `document` as can run on this host now.
///
/// An interface that cannot be used makes the rules pending whose input it is, and the outputs that
/// leave through it. A rule whose input is an address that this host does not have is pending as
/// well. A rule with such outputs runs with its others; without any other it is pending. An
/// interface that is down is among them unless [`Constraints::in_use`] has it.
///
/// # Errors
///
/// Mistakes that no change of an interface cures: more interfaces than one relay serves, and
/// `--backend io-uring` on a kernel that is too old for it.
pub fn arrange(
    document: &Document,
    host_facts: &HostFacts,
    constraints: &Constraints,
) -> Result<Arrangement, Mistakes> {
    let document = document.enabled();
    shapes::check(&document)?;
    let routed = Routed::new(&document, host_facts);
    let mut hindered = Hindered {
        interfaces: HashMap::new(),
        addresses: own_addresses::missing(&document, host_facts),
    };
    let plan = loop {
        let rest = hindered.leave_out(&routed);
        let mut checked = build::check(&rest, host_facts, constraints);
        let findings = std::mem::take(&mut checked.findings).into_iter();
        let (wrong, found): (Vec<Finding>, Vec<Finding>) =
            findings.partition(|found| found.hindrance.is_none());
        if !wrong.is_empty() {
            return Err(finding::mistakes(wrong));
        }
        let mut hindrances: Vec<Hindrance> = found
            .into_iter()
            .filter_map(|found| found.hindrance)
            .collect();
        hindrances.extend(of_now(&checked, host_facts, constraints));
        // A mistake in the options of an interface hinders a role that it may not even have.
        hindrances.retain(|hindrance| concerns(&checked, hindrance));
        if hindrances.is_empty() {
            break build::finish(&rest, host_facts, checked, &routed);
        }
        for hindrance in hindrances {
            hindered.add(hindrance);
        }
    };
    Ok(hindered.arrangement(&document, &routed, plan))
}

/// Completes a strict plan with the outputs that have no route, and notes them.
pub(super) fn without_routes(plan: &mut Plan, document: &Document, routed: &Routed<'_>) {
    /// The most outputs that are noted one by one.
    const NOTED: usize = 10;
    let whole = std::mem::take(plan);
    let arrangement = Hindered::default().arrangement(document, routed, whole);
    *plan = Arc::unwrap_or_clone(arrangement.plan);
    let waiting = arrangement.pending_outputs;
    let notes = waiting.iter().take(NOTED).map(|(rule, position, reason)| {
        format!(
            "output {} of rule {} waits: {reason}",
            position + 1,
            quoted(rule)
        )
    });
    plan.notes.extend(notes);
    if let more @ 1.. = waiting.len().saturating_sub(NOTED) {
        plan.notes.push(format!("and {more} more outputs wait"));
    }
}

/// Whether the rules that are left use the interface in a role that it cannot have.
fn concerns(checked: &Checked<'_>, hindrance: &Hindrance) -> bool {
    let id = checked.ids.get(hindrance.interface.as_str());
    let named = id.and_then(|&id: &InterfaceId| checked.named.get(id));
    named.is_some_and(|named| {
        hindrance.roles.iter().any(|role| match role {
            Role::Input => named.input.is_some(),
            Role::Ipv4Output => named.ipv4_output.is_some(),
            Role::Ipv6Output => named.ipv6_output.is_some(),
            Role::Ipv4Source => named.ipv4_source.is_some(),
            Role::Ipv6Source => named.ipv6_source.is_some(),
        })
    })
}

/// What hinders interfaces only now: those that are unavailable, and those that are down.
fn of_now(
    checked: &Checked<'_>,
    host_facts: &HostFacts,
    constraints: &Constraints,
) -> Vec<Hindrance> {
    let unavailable: HashMap<&str, &str> = constraints
        .unavailable
        .iter()
        .map(|refusal| (refusal.interface.as_str(), refusal.reason.as_str()))
        .collect();
    let down = |named: &Named<'_>| {
        let facts = host_facts.interfaces.get(named.name)?;
        let in_use = || {
            let key = (facts.name.clone(), facts.index);
            constraints.in_use.contains(&key)
        };
        (!facts.is_up && !in_use())
            .then(|| format!("{0} is down; `ip link set {0} up`", named.name))
    };
    let mut found = Vec::new();
    for named in &checked.named {
        let refusal = unavailable.get(named.name).map(|&reason| reason.to_owned());
        for reason in refusal.into_iter().chain(down(named)) {
            found.push(Hindrance {
                interface: named.name.to_owned(),
                roles: &Role::ALL,
                reason,
            });
        }
    }
    found
}

/// Why an interface cannot be used, for each of its roles.
#[derive(Default)]
struct Reasons {
    input: Option<Arc<str>>,
    ipv4_output: Option<Arc<str>>,
    ipv6_output: Option<Arc<str>>,
    ipv4_source: Option<Arc<str>>,
    ipv6_source: Option<Arc<str>>,
}

impl Reasons {
    fn of(&mut self, role: Role) -> &mut Option<Arc<str>> {
        match role {
            Role::Input => &mut self.input,
            Role::Ipv4Output => &mut self.ipv4_output,
            Role::Ipv6Output => &mut self.ipv6_output,
            Role::Ipv4Source => &mut self.ipv4_source,
            Role::Ipv6Source => &mut self.ipv6_source,
        }
    }
}

/// The interfaces that cannot be used, and the addresses that this host does not have.
#[derive(Default)]
struct Hindered {
    interfaces: HashMap<String, Reasons>,
    addresses: HashMap<IpAddr, Arc<str>>,
}

impl Hindered {
    /// Adds a reason to those that the interface has already.
    fn add(&mut self, hindrance: Hindrance) {
        let reasons = self.interfaces.entry(hindrance.interface).or_default();
        for role in hindrance.roles {
            let slot = reasons.of(*role);
            let all = match slot.take() {
                Some(others) if others.contains(&hindrance.reason) => others,
                Some(others) => format!("{others}. {}", hindrance.reason).into(),
                None => hindrance.reason.as_str().into(),
            };
            *slot = Some(all);
        }
    }

    fn is_empty(&self) -> bool {
        self.interfaces.is_empty() && self.addresses.is_empty()
    }

    fn input(&self, rule: &Rule) -> Option<&Arc<str>> {
        let interface = self.interfaces.get(&rule.input.interface);
        let of_interface = interface.and_then(|reasons| reasons.input.as_ref());
        of_interface.or_else(|| self.addresses.get(&rule.input.matches.group.address()))
    }

    fn output(&self, output: &Output) -> Option<&Arc<str>> {
        let reasons = self.interfaces.get(output.interface.as_ref()?)?;
        let (all, own_source) = match output.group.address() {
            IpAddr::V4(_) => (&reasons.ipv4_output, &reasons.ipv4_source),
            IpAddr::V6(_) => (&reasons.ipv6_output, &reasons.ipv6_source),
        };
        let own_source = own_source.as_ref();
        let own_source = own_source.filter(|_| output.source == Source::Interface);
        all.as_ref().or(own_source)
    }

    /// The positions of the outputs of `rule` that can run; `None` if the rule cannot run,
    /// which waiting for a route alone does not keep it from.
    fn left(&self, rule: &Rule) -> Option<Vec<usize>> {
        if self.input(rule).is_some() {
            return None;
        }
        let outputs = rule.outputs.iter().enumerate();
        let left = outputs.filter(|(_, output)| has_way(output) && self.output(output).is_none());
        let left: Vec<usize> = left.map(|(position, _)| position).collect();
        let runs = !left.is_empty() || !rule.outputs.iter().all(has_way);
        runs.then_some(left)
    }

    /// The rules and outputs of `document` that need none of these interfaces.
    fn leave_out<'r>(&self, routed: &'r Routed<'_>) -> Cow<'r, Document> {
        let document = &*routed.document;
        if self.is_empty() {
            return Cow::Borrowed(document);
        }
        let left = document.with_places().filter_map(|(rule, places)| {
            let left = self.left(rule)?;
            let outputs = left.iter().filter_map(|&at| rule.outputs.get(at).cloned());
            let rule = Rule {
                outputs: outputs.collect(),
                ..rule_without_outputs(rule)
            };
            let outputs = left
                .iter()
                .filter_map(|&at| places.outputs.get(at).copied());
            let places = RulePlaces {
                outputs: outputs.collect(),
                file: Arc::clone(&places.file),
                ..*places
            };
            Some((rule, places))
        });
        Cow::Owned(document.with_rules(left))
    }

    /// The plan of the rules that are left, and the reasons for the others.
    fn arrangement(&self, document: &Document, routed: &Routed<'_>, mut plan: Plan) -> Arrangement {
        let mut pending_rules = Vec::new();
        let mut pending_outputs = Vec::new();
        if self.is_empty() && routed.all_have_ways() {
            return Arrangement {
                plan: Arc::new(plan),
                pending_rules,
                pending_outputs,
            };
        }
        let mut flows = plan.flows.iter_mut();
        let rules = document
            .rules
            .rules
            .iter()
            .zip(routed.document.with_places());
        for (wanted, (rule, places)) in rules {
            let mut pending = Vec::new();
            let outputs = rule.outputs.iter().zip(&places.outputs);
            for (position, (wanted, (output, at))) in wanted.outputs.iter().zip(outputs).enumerate()
            {
                let without = routed.without(&rule.name, at.output);
                let (reason, waits_for) = match (without, self.output(output)) {
                    (Some(reason), _) => (reason, WaitsFor::Route),
                    (None, Some(reason)) => (Arc::clone(reason), WaitsFor::Interface),
                    (None, None) => continue,
                };
                let one = PendingOutput {
                    position,
                    interface: wanted.interface.clone(),
                    group: output.group,
                    port: output.port,
                    waits_for,
                    vlan: output.header.vlan,
                };
                pending.push((one, reason));
            }
            let reasons = pending.iter();
            let reasons = reasons.map(|(one, reason)| {
                let reason = Arc::clone(reason);
                (rule.name.clone(), one.position, reason)
            });
            pending_outputs.extend(reasons);
            if let Some(reason) = self.input(rule) {
                pending_rules.push((rule.name.clone(), Arc::clone(reason)));
                continue;
            }
            let Some(left) = self.left(rule) else {
                let reasons = pending.into_iter().map(|(_, reason)| reason);
                pending_rules.push((rule.name.clone(), together(reasons.collect())));
                continue;
            };
            // The plan has one flow for each rule that is left, in the same order.
            let Some(flow) = flows.next() else { continue };
            for (output, position) in flow.outputs.iter_mut().zip(left) {
                output.position = position;
            }
            flow.pending = pending.into_iter().map(|(one, _)| one).collect();
        }
        Arrangement {
            plan: Arc::new(plan),
            pending_rules,
            pending_outputs,
        }
    }
}

/// Whether the kernel's routing knows where to send the copies, if it is asked.
fn has_way(output: &Output) -> bool {
    !output.is_unicast() || output.interface.is_some()
}

fn rule_without_outputs(rule: &Rule) -> Rule {
    Rule {
        name: rule.name.clone(),
        enabled: rule.enabled,
        input: rule.input.clone(),
        limit: rule.limit,
        health: rule.health,
        outputs: Vec::new(),
    }
}

/// The reasons of all outputs of a rule as the one of the rule.
fn together(mut reasons: Vec<Arc<str>>) -> Arc<str> {
    reasons.sort_unstable();
    reasons.dedup();
    let more = match reasons.len().saturating_sub(SHOWN) {
        0 => String::new(),
        1 => ". And 1 more reason".to_owned(),
        more => format!(". And {more} more reasons"),
    };
    match reasons.as_slice() {
        [one] => Arc::clone(one),
        _ => {
            reasons.truncate(SHOWN);
            format!("{}{more}", reasons.join(". ")).into()
        }
    }
}
