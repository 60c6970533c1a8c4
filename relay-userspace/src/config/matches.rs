//! What a rule matches: groups, ports, sources and VLAN, and which of two matches is more specific.
//!
//! One frame, one rule. A match that names sources goes before one that takes any; of those, a
//! longer prefix before a shorter one; of those, one port before a range, and a range before any.
//! The VLAN is always exact. A file has no two matches that are equally specific and overlap.

use std::{fmt, net::IpAddr};

use serde::Serialize;

use super::{
    ports::{PortClass, PortMatch},
    prefix::Prefix,
};

/// The most sources that a text names before it counts the others.
const NAMED_SOURCES: usize = 4;

/// The tags of a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Vlan {
    /// None, or a priority tag (VLAN 0).
    #[default]
    Untagged,
    /// This VLAN, 1 to 4094.
    Tag(u16),
    /// The outer VLAN and the inner one (802.1ad), both 1 to 4094.
    Double(u16, u16),
}

impl Vlan {
    /// Of a frame with these tags, the outer one first; a priority tag alone is none.
    #[must_use]
    pub fn of_tags(outer: Option<u16>, inner: Option<u16>) -> Self {
        match (outer, inner) {
            (None | Some(0), None) => Self::Untagged,
            (Some(vlan), None) => Self::Tag(vlan),
            (outer, Some(inner)) => Self::Double(outer.unwrap_or(0), inner),
        }
    }

    /// The tags, the outer one first.
    #[must_use]
    pub fn tags(self) -> (Option<u16>, Option<u16>) {
        match self {
            Self::Untagged => (None, None),
            Self::Tag(vlan) => (Some(vlan), None),
            Self::Double(outer, inner) => (Some(outer), Some(inner)),
        }
    }

    /// No tag, or a priority tag.
    #[must_use]
    pub fn is_untagged(&self) -> bool {
        *self == Self::Untagged
    }
}

/// "no tag", "VLAN 100" or "VLAN [100, 200]"
impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged => f.write_str("no tag"),
            Self::Tag(vlan) => write!(f, "VLAN {vlan}"),
            Self::Double(outer, inner) => write!(f, "VLAN [{outer}, {inner}]"),
        }
    }
}

/// The datagrams that a rule takes off its interface: UDP over the IP version of `group`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Match {
    /// The destination: multicast groups, or one address of this host.
    pub group: Prefix,
    /// The destination ports.
    #[serde(rename = "port")]
    pub ports: PortMatch,
    /// The source addresses, ascending, without duplicates, of the IP version of `group`. Empty
    /// means any.
    #[serde(rename = "source", skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpAddr>,
    /// The tags.
    #[serde(skip_serializing_if = "Vlan::is_untagged")]
    pub vlan: Vlan,
}

/// How specific a match is: of those that take a frame, the greatest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    has_sources: bool,
    length: u8,
    ports: PortClass,
}

impl Match {
    /// Whether it is about one address of this host, and not about groups.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        !self.group.address().is_multicast()
    }

    /// How specific it is.
    #[must_use]
    pub fn specificity(&self) -> Specificity {
        Specificity {
            has_sources: !self.sources.is_empty(),
            length: self.group.length(),
            ports: self.ports.class(),
        }
    }

    /// Whether a datagram from `source` is one that it takes; `None` is a source that nobody names.
    #[must_use]
    pub fn takes_source(&self, source: Option<IpAddr>) -> bool {
        let named = |source| self.sources.binary_search(&source).is_ok();
        self.sources.is_empty() || source.is_some_and(named)
    }

    /// What both take, if they have the same VLAN and IP version, and overlap.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Self> {
        let group = match (
            self.group.covers(&other.group),
            other.group.covers(&self.group),
        ) {
            (true, _) => other.group,
            (false, true) => self.group,
            (false, false) => return None,
        };
        let ports = self.ports.common(other.ports)?;
        let sources = match (self.sources.as_slice(), other.sources.as_slice()) {
            ([], sources) | (sources, []) => sources.to_vec(),
            (ours, theirs) => {
                let ours = ours.iter().copied();
                let both: Vec<IpAddr> = ours.filter(|one| theirs.contains(one)).collect();
                if both.is_empty() {
                    return None;
                }
                both
            }
        };
        (self.vlan == other.vlan).then_some(Self {
            group,
            ports,
            sources,
            vlan: self.vlan,
        })
    }

    /// "239.1.1.1:5001 from 10.1.1.7 on in0, VLAN 100"
    pub(crate) fn on<'a>(&'a self, interface: &'a str) -> impl fmt::Display + use<'a> {
        fmt::from_fn(move |f| {
            write!(f, "{}", GroupPort(self.group, self.ports))?;
            for (at, source) in self.sources.iter().take(NAMED_SOURCES).enumerate() {
                f.write_str(if at == 0 { " from " } else { ", " })?;
                write!(f, "{source}")?;
            }
            if let Some(more @ 1..) = self.sources.len().checked_sub(NAMED_SOURCES) {
                write!(f, " and {more} more")?;
            }
            write!(f, " on {interface}")?;
            if !self.vlan.is_untagged() {
                write!(f, ", {}", self.vlan)?;
            }
            Ok(())
        })
    }
}

/// A destination as texts have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupPort(
    /// The group or groups.
    pub Prefix,
    /// The port or ports.
    pub PortMatch,
);

/// `239.1.1.1:5001`, or `[ff3e::8000:1]:5001`
impl fmt::Display for GroupPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(group, ports) = self;
        f.pad(&match group.address() {
            IpAddr::V4(_) => format!("{group}:{ports}"),
            IpAddr::V6(_) => format!("[{group}]:{ports}"),
        })
    }
}
