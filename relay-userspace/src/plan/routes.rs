//! Unicast outputs: the kernel's routing becomes part of the rules before they are planned.
//!
//! After this pass every unicast output has an interface, that of its route, and a source address
//! where the route says one; so a route that moves is the same to a plan as a rule that was
//! changed. An output that has no route has no interface, and waits.

use std::{borrow::Cow, collections::HashMap, fmt::Write as _, net::IpAddr, sync::Arc};

use crate::{
    config::{
        Document, Place, RulePlaces,
        rules::{Output, PortMatch, Rule, Source},
    },
    host::{
        Destination, HostFacts,
        routes::{NoRoute, Route, RouteQuery},
    },
};

/// What the kernel's routing is asked for the unicast outputs of the enabled rules of `document`,
/// each once.
#[must_use]
pub fn destinations(document: &Document) -> Vec<Destination> {
    let enabled = document.rules.rules.iter().filter(|rule| rule.enabled);
    let outputs = enabled.flat_map(|rule| &rule.outputs);
    let mut all: Vec<Destination> = outputs.filter_map(destination).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// `None` for an output to groups.
fn destination(output: &Output) -> Option<Destination> {
    let query = RouteQuery {
        destination: output.group.address(),
        port: match output.port {
            PortMatch::One(port) => Some(port),
            PortMatch::Range(..) | PortMatch::Any => None,
        },
        interface: None,
        mark: output.mark,
        source: match output.source {
            Source::Address(source) => Some(source),
            Source::Interface | Source::Keep => None,
        },
    };
    output.is_unicast().then(|| Destination {
        interface: output.interface.clone(),
        query,
    })
}

/// How the copies of a unicast output leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// The host on the link that they are sent to.
    pub(super) next_hop: IpAddr,
    /// The kernel's routing has chosen the interface, and not the file.
    pub(super) is_routed: bool,
}

/// An output is known by the name of its rule and by its place in the file of that.
type Key<'d> = (&'d str, Place);

/// A document whose unicast outputs have their interfaces.
pub(super) struct Routed<'d> {
    /// The document. An output that has no route has no interface either.
    pub(super) document: Cow<'d, Document>,
    ways: HashMap<Key<'d>, Way>,
    without: HashMap<Key<'d>, Arc<str>>,
}

impl<'d> Routed<'d> {
    /// `document` with the routes of `host_facts`.
    pub(super) fn new(document: &'d Document, host_facts: &HostFacts) -> Self {
        let mut routed = Self {
            document: Cow::Borrowed(document),
            ways: HashMap::new(),
            without: HashMap::new(),
        };
        let rules = &document.rules.rules;
        if !rules
            .iter()
            .any(|rule| rule.outputs.iter().any(Output::is_unicast))
        {
            return routed;
        }
        let interfaces = host_facts.interfaces.values();
        let names: HashMap<u32, &str> = interfaces
            .map(|facts| (facts.index, facts.name.as_str()))
            .collect();
        let rules = document.with_places().map(|(rule, places)| {
            let mut next = rule.clone();
            for (output, at) in next.outputs.iter_mut().zip(&places.outputs) {
                let key = (rule.name.as_str(), at.output);
                match route(output, host_facts) {
                    None => {}
                    Some(Err(reason)) => {
                        output.interface = None;
                        routed.without.insert(key, reason.into());
                    }
                    Some(Ok(route)) => {
                        let way = Way {
                            next_hop: route.gateway.unwrap_or(output.group.address()),
                            is_routed: output.interface.is_none(),
                        };
                        routed.ways.insert(key, way);
                        if let Some(name) = names.get(&route.interface) {
                            output.interface = Some((*name).to_owned());
                        }
                        if let (Source::Interface, Some(source)) = (output.source, route.source) {
                            output.source = Source::Address(source);
                        }
                    }
                }
            }
            (next, places.clone())
        });
        let rules: Vec<(Rule, RulePlaces)> = rules.collect();
        routed.document = Cow::Owned(document.with_rules(rules.into_iter()));
        routed
    }

    /// Whether no output is without a route.
    pub(super) fn all_have_ways(&self) -> bool {
        self.without.is_empty()
    }

    /// How the copies of the output of `rule` with this place leave; `None` for an output to
    /// groups.
    pub(super) fn way(&self, rule: &str, output: Place) -> Option<Way> {
        self.ways.get(&(rule, output)).copied()
    }

    /// Why the output of `rule` with this place has no route; `None` if it has one, or needs none.
    pub(super) fn without(&self, rule: &str, output: Place) -> Option<Arc<str>> {
        self.without.get(&(rule, output)).cloned()
    }
}

/// The route of a unicast output, or a sentence why it has none; `None` if that is no question: it
/// goes to groups, or it names an interface that is missing.
fn route(output: &Output, host_facts: &HostFacts) -> Option<Result<Route, String>> {
    let destination = destination(output)?;
    let answer = host_facts.routes.get(&destination);
    let answer = answer.map(|known| known.answer.clone());
    if let Some(name) = &output.interface {
        let facts = host_facts.interfaces.get(name)?;
        if answer != Some(Err(NoRoute::Local)) && !facts.is_up {
            return Some(Err(format!("{name} is down; `ip link set {name} up`")));
        }
    }
    let answer = answer.unwrap_or(Err(NoRoute::Missing));
    Some(answer.map_err(|why| reason(&destination, &why)))
}

/// A sentence with the remedy.
fn reason(destination: &Destination, why: &NoRoute) -> String {
    let Destination { interface, query } = destination;
    let to = query.destination;
    let cause = match why {
        NoRoute::Missing => format!("there is no route to {to}"),
        NoRoute::Local => {
            return format!("{to} is an address of this host; name another host");
        }
        NoRoute::Broadcast => {
            return format!("{to} is a broadcast address; name one host, or a multicast group");
        }
        NoRoute::Unreachable | NoRoute::Prohibited | NoRoute::Blackhole => {
            format!("no way to {to}: {why}")
        }
        NoRoute::Refused(_) => return format!("no way to {to}: {why}"),
    };
    let mut ask = format!("ip route get {to}");
    // Writing to a string does not fail.
    if let Some(source) = query.source {
        let _ = write!(ask, " from {source}");
    }
    if let Some(interface) = interface {
        let _ = write!(ask, " oif {interface}");
    }
    if let Some(mark) = query.mark {
        let _ = write!(ask, " mark {mark}");
    }
    format!("{cause}; `{ask}` asks the kernel")
}
