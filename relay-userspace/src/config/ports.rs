//! UDP ports: one, a range, or all.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// UDP ports. No port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// This one.
    One(u16),
    /// From the first to the second, both included; the first is less.
    Range(u16, u16),
    /// All.
    Any,
}

impl PortMatch {
    /// The ports from `first` to `last`; `None` if there are none, or `first` is 0.
    #[must_use]
    pub fn between(first: u16, last: u16) -> Option<Self> {
        match first.cmp(&last) {
            _ if first == 0 => None,
            std::cmp::Ordering::Less => Some(Self::Range(first, last)),
            std::cmp::Ordering::Equal => Some(Self::One(first)),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// The first port and the last.
    #[must_use]
    pub fn bounds(self) -> (u16, u16) {
        match self {
            Self::One(port) => (port, port),
            Self::Range(first, last) => (first, last),
            Self::Any => (1, u16::MAX),
        }
    }

    /// How many ports these are.
    #[must_use]
    pub fn count(self) -> u16 {
        let (first, last) = self.bounds();
        last.saturating_sub(first).saturating_add(1)
    }

    /// Whether `port` is one of them; port 0 is one of any.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        let (first, last) = self.bounds();
        self == Self::Any || (first <= port && port <= last)
    }

    /// The ports that they have in common.
    #[must_use]
    pub fn common(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, ports) | (ports, Self::Any) => Some(ports),
            _ => {
                let (first, last) = self.bounds();
                let (others_first, others_last) = other.bounds();
                Self::between(first.max(others_first), last.min(others_last))
            }
        }
    }

    /// Whether they have a port in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.common(other).is_some()
    }

    /// The port, if it is one.
    #[must_use]
    pub fn one(self) -> Option<u16> {
        match self {
            Self::One(port) => Some(port),
            Self::Range(..) | Self::Any => None,
        }
    }

    /// Where a copy of a datagram to `port`, which is one of `from`, goes: the same place of the
    /// range, or the one port that this is.
    #[must_use]
    pub fn map(self, from: Self, port: u16) -> u16 {
        match self {
            Self::One(only) => only,
            Self::Range(first, _) => {
                let (from, _) = from.bounds();
                first.saturating_add(port.saturating_sub(from))
            }
            Self::Any => port,
        }
    }

    /// The more specific, the greater.
    pub(super) fn class(self) -> PortClass {
        match self {
            Self::One(_) => PortClass::One,
            Self::Range(..) => PortClass::Range,
            Self::Any => PortClass::Any,
        }
    }
}

/// "5001", "5000-5099" or "any"
impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => port.fmt(f),
            Self::Range(first, last) => f.pad(&format!("{first}-{last}")),
            Self::Any => f.pad("any"),
        }
    }
}

/// A number where it is one port, else a text.
impl Serialize for PortMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(port) => serializer.serialize_u16(*port),
            Self::Range(..) | Self::Any => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for PortMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u16),
            Text(String),
        }
        let found = match Written::deserialize(deserializer)? {
            Written::Number(port) => Self::between(port, port),
            Written::Text(text) if text == "any" => Some(Self::Any),
            Written::Text(text) => text
                .split_once('-')
                .and_then(|(first, last)| Self::between(first.parse().ok()?, last.parse().ok()?)),
        };
        found.ok_or_else(|| D::Error::custom("no port, no range of ports and not \"any\""))
    }
}

/// The more specific, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PortClass {
    Any,
    Range,
    One,
}
