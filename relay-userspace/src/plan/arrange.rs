//! What of the rules can run on this host as it is now, and what has to wait.
//!
//! [`super::build`] refuses all rules for one interface that is missing. A running relay goes on
//! without it instead: the interface is taken out of the rules, as input, or as output of a version
//! of IP, and with it whatever needs it, which is then pending with the reason. The rest is checked
//! anew, because connected interfaces share a backend: without one of them the others may be on
//! another. Every such pass takes at least one interface out of one of its three roles, so there
//! are few.

use std::{borrow::Cow, collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    build::{self, Checked},
    constraints::Constraints,
    finding::{self, Finding, Hindrance, Role},
    ids::InterfaceId,
    model::{PendingOutput, Plan},
    named_interfaces::Named,
    own_addresses, shapes,
};
use crate::{
    config::{Document, Mistakes, RulePlaces, rules::Rule},
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
/// leave through it. A rule whose input is an address that this host does not have is pending as well. A rule with such outputs runs with its others; without any other it is pending.
/// An interface that is down is among them unless [`Constraints::in_use`] has it.
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
    let mut hindered = Hindered {
        interfaces: HashMap::new(),
        addresses: own_addresses::missing(&document, host_facts),
    };
    let plan = loop {
        let rest = hindered.leave_out(&document);
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
            break build::finish(&rest, host_facts, checked);
        }
        for hindrance in hindrances {
            hindered.add(hindrance);
        }
    };
    Ok(hindered.arrangement(&document, plan))
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
}

impl Reasons {
    fn of(&mut self, role: Role) -> &mut Option<Arc<str>> {
        match role {
            Role::Input => &mut self.input,
            Role::Ipv4Output => &mut self.ipv4_output,
            Role::Ipv6Output => &mut self.ipv6_output,
        }
    }
}

/// The interfaces that cannot be used, and the addresses that this host does not have.
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

    fn output(&self, output: &crate::config::rules::Output) -> Option<&Arc<str>> {
        let reasons = self.interfaces.get(output.interface.as_ref()?)?;
        match output.group.address() {
            IpAddr::V4(_) => reasons.ipv4_output.as_ref(),
            IpAddr::V6(_) => reasons.ipv6_output.as_ref(),
        }
    }

    /// The positions of the outputs that can run; empty if the rule cannot.
    fn outputs_left(&self, rule: &Rule) -> Vec<usize> {
        if self.input(rule).is_some() {
            return Vec::new();
        }
        let outputs = rule.outputs.iter().enumerate();
        let left = outputs.filter(|(_, output)| self.output(output).is_none());
        left.map(|(position, _)| position).collect()
    }

    /// The rules and outputs of `document` that need none of these interfaces.
    fn leave_out<'d>(&self, document: &'d Document) -> Cow<'d, Document> {
        if self.is_empty() {
            return Cow::Borrowed(document);
        }
        let left = document.with_places().filter_map(|(rule, places)| {
            let left = self.outputs_left(rule);
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
            (!left.is_empty()).then_some((rule, places))
        });
        Cow::Owned(document.with_rules(left))
    }

    /// The plan of the rules that are left, and the reasons for the others.
    fn arrangement(&self, document: &Document, mut plan: Plan) -> Arrangement {
        let mut pending_rules = Vec::new();
        let mut pending_outputs = Vec::new();
        if self.is_empty() {
            return Arrangement {
                plan: Arc::new(plan),
                pending_rules,
                pending_outputs,
            };
        }
        let mut flows = plan.flows.iter_mut();
        for rule in &document.rules.rules {
            let mut reasons: Vec<Arc<str>> = Vec::new();
            for (position, output) in rule.outputs.iter().enumerate() {
                if let Some(reason) = self.output(output) {
                    pending_outputs.push((rule.name.clone(), position, Arc::clone(reason)));
                    reasons.push(Arc::clone(reason));
                }
            }
            if let Some(reason) = self.input(rule) {
                pending_rules.push((rule.name.clone(), Arc::clone(reason)));
                continue;
            }
            if reasons.len() == rule.outputs.len() {
                pending_rules.push((rule.name.clone(), together(reasons)));
                continue;
            }
            // The plan has one flow for each rule that is left, in the same order.
            let Some(flow) = flows.next() else { continue };
            for (output, position) in flow.outputs.iter_mut().zip(self.outputs_left(rule)) {
                output.position = position;
            }
            let waiting = rule
                .outputs
                .iter()
                .filter(|output| self.output(output).is_some());
            flow.pending = waiting
                .map(|output| PendingOutput {
                    interface: output.interface.clone(),
                    group: output.group,
                    port: output.port,
                })
                .collect();
        }
        Arrangement {
            plan: Arc::new(plan),
            pending_rules,
            pending_outputs,
        }
    }
}

fn rule_without_outputs(rule: &Rule) -> Rule {
    Rule {
        name: rule.name.clone(),
        enabled: rule.enabled,
        input: rule.input.clone(),
        limit: rule.limit,
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
