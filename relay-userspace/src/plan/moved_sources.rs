//! Copies that leave with another source address than before, for the log.
//!
//! Nobody need have asked for that: a router advertisement gives an interface another IPv6 address,
//! and whoever can send one on the link decides what receivers see.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use super::{Output, Plan};

/// Copies that leave through an interface with another source address than before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MovedSource {
    /// The interface's name.
    pub interface: String,
    before: IpAddr,
    now: IpAddr,
}

impl fmt::Display for MovedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            interface,
            before,
            now,
        } = self;
        write!(
            f,
            "copies leave {interface} with the source address {now} now, {before} before; `source` \
             of an output keeps it the same"
        )
    }
}

/// What differs between two plans for the same rules; outputs that one of them does not have, or
/// that leave through another interface, do not count.
#[must_use]
pub fn moved_sources(before: &Plan, now: &Plan) -> BTreeSet<MovedSource> {
    let former: HashMap<_, _> = sourced(before).collect();
    let moved = sourced(now).filter_map(|(output, (interface, now))| {
        let &(through, before) = former.get(&output)?;
        (through == interface && before != now).then(|| MovedSource {
            interface: interface.to_owned(),
            before,
            now,
        })
    });
    moved.collect()
}

/// The outputs of `plan` that set a source: the rule and the output's position, and the interface
/// and the source.
fn sourced(plan: &Plan) -> impl Iterator<Item = ((&str, usize), (&str, IpAddr))> {
    plan.flows.iter().flat_map(move |flow| {
        let of_flow = move |output: &Output| {
            let interface = plan.interfaces.get(output.interface)?;
            let key = (flow.rule.as_str(), output.position);
            Some((key, (interface.name.as_str(), output.source?)))
        };
        flow.outputs.iter().filter_map(of_flow)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        host::{Ipv6Address, fixture::in0_and_out0},
        plan::{self, Constraints},
    };

    #[test]
    fn an_address_that_takes_the_place_of_another_is_told_once_for_all_outputs() {
        let text = "[[rules]]\nname = \"r\"\n\
                    input = { interface = \"in0\", group = \"239.1.1.1\", port = 5001 }\n\
                    outputs = [\n\
                    { interface = \"out0\", group = \"ff0e::1\" },\n\
                    { interface = \"out0\", group = \"ff0e::2\" },\n\
                    { interface = \"out0\", group = \"ff0e::3\", source = \"2001:db8::9\" },\n\
                    { interface = \"out0\", group = \"239.2.1.1\" }]\n";
        let document = config::parse("relay.toml", text).unwrap();
        let mut facts = in0_and_out0(0);
        let mut planned = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| Ipv6Address {
                address: address.parse().unwrap(),
                avoided: false,
                temporary: false,
            });
            let out0 = facts.interfaces.get_mut("out0").unwrap();
            out0.ipv6_addresses = addresses.collect();
            plan::build(&document, &facts, &Constraints::default()).unwrap()
        };
        let before = planned(&["2001:db8::1"]);
        let now = planned(&["2001:db8:bad::1", "2001:db8::1"]);
        let moved = moved_sources(&before, &now);
        let texts: Vec<String> = moved.iter().map(ToString::to_string).collect();
        let told = "copies leave out0 with the source address 2001:db8:bad::1 now, 2001:db8::1 \
                    before; `source` of an output keeps it the same";
        assert_eq!(texts, [told]);
        assert!(moved_sources(&now, &now).is_empty());
    }
}
