//! The scenarios. Each differs in one thing from one of two: one feed of 1000 byte datagrams, to
//! one output or to sixteen, through one interface, to a plain host, with one rule.

use anyhow::{Result, ensure};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    framing::Framing,
    load::{Load, Matches, To},
    sink::NextHop,
};

/// A scenario's name. An alias, because serde would borrow every field that is written as a
/// reference from the file.
type Name = &'static str;

/// One scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name.
    #[serde(deserialize_with = "known")]
    pub name: Name,
    /// Flows, outputs and rules.
    pub load: Load,
    /// How many wires the outputs leave through.
    pub interfaces: usize,
    /// Bytes of UDP payload.
    pub payload: usize,
    /// The headers of the frames that arrive.
    #[serde(default)]
    pub framing: Framing,
    /// What receives.
    pub next_hop: NextHop,
    /// Who takes part.
    pub cast: Cast,
}

/// The contenders of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cast {
    /// All other contenders, and the relay by its own choice and on io_uring. (`two-threads` is in
    /// the [base scenarios](Scenario::is_base) only.)
    Usual,
    /// The same, and the relay with TX rings.
    #[serde(rename = "both_engines")]
    EveryTxMethod,
    /// Only the relay, which is compared with itself, see [`Scenario::plain`].
    RelayAlone,
    /// The same on either backend. The plain scenario may have no other contender either: with a
    /// thousand outputs, the others lose frames at every rate that is tried.
    RelayOnBoth,
}

impl Cast {
    /// Whether nothing but the relay takes part.
    #[must_use]
    pub fn is_relay(self) -> bool {
        matches!(self, Self::RelayAlone | Self::RelayOnBoth)
    }
}

/// A scenario's name from a file. A scenario of an older benchmark that this one does not have is
/// refused.
fn known<'de, D: Deserializer<'de>>(file: D) -> Result<&'static str, D::Error> {
    let name = String::deserialize(file)?;
    let mut all = ALL.iter().map(|scenario| scenario.name);
    all.find(|known| *known == name)
        .ok_or_else(|| D::Error::custom(format!("there is no scenario `{name}`")))
}

/// A scenario that is as usual except for the number of outputs.
const fn usual(name: &'static str, outputs: usize) -> Scenario {
    Scenario {
        name,
        load: Load {
            outputs,
            flows: 1,
            senders: 1,
            rules: 1,
            matches: Matches::Exact,
            to: To::Groups,
        },
        interfaces: 1,
        payload: 1000,
        framing: Framing::Ipv4,
        next_hop: NextHop::Host,
        cast: Cast::Usual,
    }
}

impl Scenario {
    /// The scenario with one IPv4 group that arrives untagged, and copies to groups, from which a
    /// scenario with the relay alone differs in nothing else.
    #[must_use]
    pub fn plain(&self) -> Option<Self> {
        let plain =
            |other: &&Self| **other == usual(other.name, self.load.outputs).cast(other.cast);
        let all = (self.cast.is_relay() && !plain(&self)).then_some(&ALL);
        all.into_iter().flatten().find(plain).copied()
    }

    /// Whether it is one of the two that all others differ from in one thing.
    #[must_use]
    pub fn is_base(&self) -> bool {
        matches!(self.name, "1-1" | "1-16")
    }

    /// The same scenario with one sender for each flow, if this one has more.
    #[must_use]
    pub fn of_one_sender(&self) -> Option<Self> {
        let one = Self { name: "", ..*self }.senders(1);
        let mut all = ALL.iter().filter(|_| self.load.senders > 1);
        all.find(|other| {
            Self {
                name: "",
                cast: self.cast,
                ..**other
            } == one
        })
        .copied()
    }

    const fn payload(mut self, payload: usize) -> Self {
        self.payload = payload;
        self
    }

    const fn flows(mut self, flows: usize) -> Self {
        self.load.flows = flows;
        self.rules(flows)
    }

    const fn senders(mut self, senders: u16) -> Self {
        self.load.senders = senders;
        self
    }

    const fn rules(mut self, rules: usize) -> Self {
        self.load.rules = rules;
        self
    }

    const fn matches(mut self, matches: Matches) -> Self {
        self.load.matches = matches;
        self
    }

    const fn to(mut self, to: To) -> Self {
        self.load.to = to;
        self
    }

    const fn interfaces(mut self, interfaces: usize) -> Self {
        self.interfaces = interfaces;
        self
    }

    const fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    const fn xdp(mut self) -> Self {
        self.next_hop = NextHop::Xdp;
        self
    }

    const fn cast(mut self, cast: Cast) -> Self {
        self.cast = cast;
        self
    }
}

/// All scenarios.
pub const ALL: [Scenario; 24] = [
    usual("1-1", 1).cast(Cast::EveryTxMethod),
    usual("1-4", 4),
    usual("1-16", 16).cast(Cast::EveryTxMethod),
    usual("1-64", 64),
    usual("1-16-64B", 16).payload(64),
    usual("1-16-1400B", 16).payload(1400),
    usual("1-1-100flows", 1).flows(100),
    usual("1-16-100flows", 16)
        .flows(100)
        .cast(Cast::EveryTxMethod),
    // They alternate: a GSO packet has one source, so frames that are next to each other never
    // share one.
    usual("1-16-2senders", 16)
        .senders(2)
        .cast(Cast::EveryTxMethod),
    // The kernel's multicast routing can make only one copy per interface.
    usual("1-4-4if", 4).interfaces(4),
    usual("1-16-4if", 16).interfaces(4),
    usual("1-1-xdp", 1).xdp(),
    usual("1-16-xdp", 16).xdp().cast(Cast::EveryTxMethod),
    usual("1-1-vlan", 1)
        .framing(Framing::Tagged)
        .cast(Cast::RelayAlone),
    usual("1-16-vlan", 16)
        .framing(Framing::Tagged)
        .cast(Cast::RelayAlone),
    usual("1-1-ipv6", 1)
        .framing(Framing::Ipv6)
        .cast(Cast::RelayAlone),
    usual("1-16-ipv6", 16)
        .framing(Framing::Ipv6)
        .cast(Cast::RelayAlone),
    usual("1-1-local", 1)
        .matches(Matches::Local)
        .cast(Cast::RelayAlone),
    usual("1-16-local", 16)
        .matches(Matches::Local)
        .cast(Cast::RelayAlone),
    usual("1-1000", 1000).cast(Cast::RelayOnBoth),
    usual("1-1000-unicast", 1000)
        .to(To::Hosts)
        .cast(Cast::RelayOnBoth),
    usual("rules-100", 1).rules(100).cast(Cast::RelayAlone),
    usual("rules-10000", 1).rules(10_000).cast(Cast::RelayAlone),
    usual("rules-10000-mixed", 1)
        .rules(10_000)
        .matches(Matches::Mixed)
        .cast(Cast::RelayAlone),
];

/// The name that selects the measurement of this machine's limits, which is no scenario: nothing
/// forwards.
pub const CEILINGS: &str = "ceilings";

/// The name that selects the price of frames that no rule takes, which is no scenario either: they
/// stay on the relay's host.
pub const UNMATCHED: &str = "unmatched";

/// The name that selects the price of being watched: another way to measure some scenarios.
pub const WATCHED: &str = "watched";

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The scenarios, in the order of [`ALL`].
    pub scenarios: Vec<Scenario>,
    /// The machine's limits too.
    pub ceilings: bool,
    /// The price of frames that no rule takes, too.
    pub unmatched: bool,
    /// The price of being watched, too.
    pub watched: bool,
}

/// What a list of names, separated by commas, selects: each is the name of one scenario, or a part
/// of the names of some. Without a list everything is selected.
///
/// # Errors
///
/// A name that selects nothing.
pub fn select(names: Option<&str>) -> Result<Selection> {
    let Some(names) = names else {
        return Ok(Selection {
            scenarios: ALL.to_vec(),
            ceilings: true,
            unmatched: true,
            watched: true,
        });
    };
    let mut selection = Selection {
        scenarios: Vec::new(),
        ceilings: false,
        unmatched: false,
        watched: false,
    };
    for part in names.split(',').map(str::trim) {
        let found = named(part);
        let (ceilings, unmatched) = (part == CEILINGS, part == UNMATCHED);
        let watched = part == WATCHED;
        ensure!(
            ceilings || unmatched || watched || !(part.is_empty() || found.is_empty()),
            "no scenario has `{part}` in its name; there are: {}, {CEILINGS}, {UNMATCHED}, {WATCHED}",
            ALL.map(|scenario| scenario.name).join(", "),
        );
        selection.scenarios.extend(found);
        selection.ceilings |= ceilings;
        selection.unmatched |= unmatched;
        selection.watched |= watched;
    }
    let wanted = selection.scenarios;
    selection.scenarios = ALL.into_iter().filter(|one| wanted.contains(one)).collect();
    Ok(selection)
}

/// The scenario with exactly this name, or else all whose names contain it.
pub fn named(part: &str) -> Vec<Scenario> {
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

    fn names(selected: Option<&str>) -> Vec<&'static str> {
        let selection = select(selected).unwrap();
        selection.scenarios.iter().map(|one| one.name).collect()
    }

    #[test]
    fn names_are_unique() {
        for scenario in ALL {
            assert_eq!(named(scenario.name), [scenario]);
        }
    }

    #[test]
    fn a_scenario_with_the_relay_alone_has_a_plain_one_with_as_many_outputs() {
        for scenario in ALL {
            let plain = scenario.plain().map(|plain| plain.name);
            let expected = match (scenario.cast, scenario.load.outputs) {
                (Cast::RelayAlone, 1) => Some("1-1"),
                (Cast::RelayAlone, 16) => Some("1-16"),
                _ if scenario.name == "1-1000-unicast" => Some("1-1000"),
                _ => None,
            };
            assert_eq!(plain, expected, "{}", scenario.name);
        }
    }

    #[test]
    fn a_part_of_a_name_selects_all_that_have_it() {
        assert_eq!(names(Some("xdp")), ["1-1-xdp", "1-16-xdp"]);
        assert_eq!(names(None).len(), ALL.len());
    }

    #[test]
    fn several_names_select_each_scenario_once() {
        assert_eq!(
            names(Some("xdp, 1-1,1-1-xdp")),
            ["1-1", "1-1-xdp", "1-16-xdp"]
        );
        let selection = select(Some("ceilings,1-4")).unwrap();
        assert!(selection.ceilings && selection.scenarios.len() == 1);
        assert!(!selection.unmatched);
        let selection = select(Some("unmatched")).unwrap();
        assert!(selection.unmatched && selection.scenarios.is_empty());
    }

    #[test]
    fn a_name_that_selects_nothing_is_told() {
        for wrong in ["nothing", "1-1,nothing", "1-1,", ""] {
            assert!(select(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
