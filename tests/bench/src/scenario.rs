//! The situations that are compared. Each differs in one thing from one of the first two: one feed of 1000 byte
//! datagrams, to one output or to sixteen, by one interface, to a plain host, by one rule.

use serde::Serialize;

use crate::{load::Load, sink::NextHop};

/// One situation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Scenario {
    /// What it goes by.
    pub name: &'static str,
    /// Flows, outputs and rules.
    pub load: Load,
    /// The wires that the outputs leave by.
    pub interfaces: usize,
    /// Bytes of UDP payload.
    pub payload: usize,
    /// What receives.
    pub next_hop: NextHop,
}

/// The scenario with all other things as usual.
const fn usual(name: &'static str, outputs: usize) -> Scenario {
    Scenario {
        name,
        load: Load {
            outputs,
            flows: 1,
            rules: 1,
        },
        interfaces: 1,
        payload: 1000,
        next_hop: NextHop::Host,
    }
}

impl Scenario {
    const fn payload(mut self, payload: usize) -> Self {
        self.payload = payload;
        self
    }

    const fn flows(mut self, flows: usize) -> Self {
        self.load.flows = flows;
        self.rules(flows)
    }

    const fn rules(mut self, rules: usize) -> Self {
        self.load.rules = rules;
        self
    }

    const fn interfaces(mut self, interfaces: usize) -> Self {
        self.interfaces = interfaces;
        self
    }

    const fn xdp(mut self) -> Self {
        self.next_hop = NextHop::Xdp;
        self
    }
}

/// All scenarios.
pub const ALL: [Scenario; 14] = [
    usual("1-1", 1),
    usual("1-4", 4),
    usual("1-16", 16),
    usual("1-64", 64),
    usual("1-16-64B", 16).payload(64),
    usual("1-16-1400B", 16).payload(1400),
    usual("1-1-100flows", 1).flows(100),
    usual("1-16-100flows", 16).flows(100),
    // One copy an interface is all that the kernel's multicast routing can do.
    usual("1-4-4if", 4).interfaces(4),
    usual("1-16-4if", 16).interfaces(4),
    usual("1-1-xdp", 1).xdp(),
    usual("1-16-xdp", 16).xdp(),
    usual("rules-100", 1).rules(100),
    usual("rules-10000", 1).rules(10_000),
];

/// What the measurement of this machine's limits goes by. It is no scenario: nothing forwards.
pub const CEILINGS: &str = "ceilings";

/// The scenario with exactly this name, or else all that have it in theirs.
pub fn named(part: Option<&str>) -> Vec<Scenario> {
    let Some(part) = part else {
        return ALL.to_vec();
    };
    let of = |wanted: &dyn Fn(&str) -> bool| {
        let all = ALL.iter().filter(|scenario| wanted(scenario.name));
        all.copied().collect::<Vec<_>>()
    };
    let exact = of(&|name| name == part);
    if exact.is_empty() {
        of(&|name| name.contains(part))
    } else {
        exact
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for scenario in ALL {
            assert_eq!(named(Some(scenario.name)), [scenario]);
        }
    }

    #[test]
    fn a_part_of_a_name_selects_all_that_have_it() {
        let names = |part| named(part).iter().map(|s| s.name).collect::<Vec<_>>();
        assert_eq!(names(Some("xdp")), ["1-1-xdp", "1-16-xdp"]);
        assert_eq!(names(Some("nothing")), Vec::<&str>::new());
        assert_eq!(names(None).len(), ALL.len());
    }
}
