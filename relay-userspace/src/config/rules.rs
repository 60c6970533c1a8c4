//! Validated rules: the vocabulary of the whole program.
//!
//! A [`Rules`] value exists only if its file has no mistakes, so no code after this module checks a
//! group, a port or a name again.

use std::{fmt, net::IpAddr};

pub use super::{
    health::{Counter, Health, Monitor, Order, Written},
    matches::{GroupPort, Match, Specificity, Vlan},
    metrics::{Listen, Metrics},
    ports::PortMatch,
    prefix::{NoPrefix, Prefix},
};

/// The content of a rule file, after validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// One entry per `[[rules]]` table, in the file's order.
    pub rules: Vec<Rule>,
    /// One entry per `[[interfaces]]` table, in the file's order.
    pub interfaces: Vec<InterfaceOptions>,
    /// The `[metrics]` table; without one there are no metrics.
    pub metrics: Option<Metrics>,
}

/// One input, and the outputs that every datagram of it leaves through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique in the file.
    pub name: String,
    /// Whether it shall run. A disabled rule is checked like any other, so that it can be enabled
    /// at any time.
    pub enabled: bool,
    /// The datagrams that the rule matches.
    pub input: Input,
    /// The most of them that the relay relays; `None` means all.
    pub limit: Option<Limit>,
    /// What the relay watches of them.
    pub health: Health,
    /// At least one.
    pub outputs: Vec<Output>,
}

impl Rule {
    /// Whether the other one is the same, enabled or not.
    #[must_use]
    pub fn is_but_for_enabled(&self, other: &Self) -> bool {
        let Self {
            name,
            enabled: _,
            input,
            limit,
            health,
            outputs,
        } = self;
        *name == other.name
            && *input == other.input
            && *limit == other.limit
            && *health == other.health
            && *outputs == other.outputs
    }
}

/// The datagrams that a rule takes, and how they get here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    /// The interface's name.
    pub interface: String,
    /// Which datagrams of those that arrive there.
    pub matches: Match,
    /// Whether the relay joins the groups. Without, the network has to deliver them by itself.
    /// Never for an address of this host.
    pub join: bool,
    /// Whether programs and routes of this host get the datagrams as well.
    pub local: bool,
}

/// "239.1.1.1:5001 on in0"
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matches.on(&self.interface).fmt(f)
    }
}

/// The rate up to which an input is relayed. The kernel program keeps datagrams above it from the
/// relay, before they take anything from other inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Limit {
    /// Datagrams per second, on average. 1 to [`Limit::MAX_RATE`].
    pub packets_per_second: u32,
    /// Datagrams that may arrive at once. 1 to [`Limit::MAX_BURST`].
    pub burst: u32,
}

impl Limit {
    /// More than one queue can deliver: over all queues, 64-byte frames fill 100 Gbit/s at 149
    /// million per second.
    pub const MAX_RATE: u32 = 100_000_000;
    /// More than all sockets of a relay can hold.
    pub const MAX_BURST: u32 = 1_000_000;
}

/// The destination of one copy of the datagram, and what is in its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The interface's name; `None` where the kernel's routing chooses it, which it does for
    /// unicast destinations only.
    pub interface: Option<String>,
    /// Where all copies go: one multicast group, one unicast address, or a prefix of groups with as
    /// many host bits as the input's, which the host part is kept on.
    pub group: Prefix,
    /// One port that all copies go to, a range as long as the input's, or any where the input has
    /// any: then copies keep it.
    pub port: PortMatch,
    /// The source address of the copies.
    pub source: Source,
    /// The other fields that it sets.
    pub header: Header,
    /// The mark that the kernel's policy routing sees; unicast only.
    pub mark: Option<u32>,
}

/// The source address of copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// An address of the output's interface, as the kernel would choose it.
    #[default]
    Interface,
    /// The datagram's.
    Keep,
    /// This one, of the IP version of the destination.
    Address(IpAddr),
}

/// What an output sets in the headers of its copies, beside addresses and destination port. What it
/// does not set is the datagram's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Header {
    /// The rule for the copy's time to live.
    pub ttl: Ttl,
    /// The source port; `None` keeps the datagram's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The differentiated services code point, 0 to 63; `None` keeps the datagram's. The two bits
    /// for congestion notification (ECN) are kept in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// The tags.
    #[serde(skip_serializing_if = "OutputVlan::is_untagged")]
    pub vlan: OutputVlan,
    /// The priority in the tags, 0 to 7. `None` keeps the datagram's, which counts as 0 where the
    /// input has no VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pcp: Option<u8>,
}

/// The tags that copies leave with.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum OutputVlan {
    /// None.
    #[default]
    #[serde(skip)]
    Untagged,
    /// Those that the datagram arrived with.
    Keep,
    /// One tag (802.1Q) with this VLAN, 1 to 4094.
    #[serde(untagged)]
    Tag(u16),
    /// Two tags, the outer VLAN (802.1ad) and the inner one (802.1Q), both 1 to 4094.
    #[serde(untagged)]
    Double(u16, u16),
}

impl OutputVlan {
    /// No tag.
    #[must_use]
    pub fn is_untagged(&self) -> bool {
        *self == Self::Untagged
    }

    /// The tags of the copy of a datagram that arrived with these.
    #[must_use]
    pub fn of_copy(self, arrived: Vlan) -> Vlan {
        match self {
            Self::Untagged => Vlan::Untagged,
            Self::Keep => arrived,
            Self::Tag(vlan) => Vlan::Tag(vlan),
            Self::Double(outer, inner) => Vlan::Double(outer, inner),
        }
    }
}

/// Always these tags.
impl From<Vlan> for OutputVlan {
    fn from(vlan: Vlan) -> Self {
        match vlan {
            Vlan::Untagged => Self::Untagged,
            Vlan::Tag(vlan) => Self::Tag(vlan),
            Vlan::Double(outer, inner) => Self::Double(outer, inner),
        }
    }
}

/// "no tag", "VLAN kept", "VLAN 100" or "VLAN [100, 200]"
impl fmt::Display for OutputVlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("VLAN kept"),
            others => others.of_copy(Vlan::Untagged).fmt(f),
        }
    }
}

impl Output {
    /// Whether it sends to one host and not to groups.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        !self.group.address().is_multicast()
    }

    /// Where the copies go. No other output of the rule has the same.
    #[must_use]
    pub fn destination(&self) -> Destination<'_> {
        Destination {
            interface: self.interface.as_deref(),
            group: self.group,
            port: self.port,
            vlan: self.header.vlan,
        }
    }
}

/// Where the copies of an output go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination<'a> {
    /// The interface's name; `None` where the kernel's routing chooses it.
    pub interface: Option<&'a str>,
    /// Their groups, or their unicast address.
    pub group: Prefix,
    /// Their ports.
    pub port: PortMatch,
    /// Their tags.
    pub vlan: OutputVlan,
}

/// "239.2.2.2:5002 on out0, VLAN 200", or "203.0.113.9:6000" where routing chooses the interface.
impl fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        GroupPort(self.group, self.port).fmt(f)?;
        if let Some(interface) = self.interface {
            write!(f, " on {interface}")?;
        }
        match self.vlan {
            OutputVlan::Untagged => Ok(()),
            vlan => write!(f, ", {vlan}"),
        }
    }
}

/// As a rule file has it, without quotes.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface => f.write_str("interface"),
            Self::Keep => f.write_str("keep"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The rule for the time to live that an output's datagrams leave with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ttl {
    /// Lets relays follow one another, and no datagram goes round for ever. A datagram that arrives
    /// with 32 or less, or with more than 64, leaves with 64; one that arrives with 34 to 64 leaves
    /// with one less; one that arrives with 33 does not leave. So at most 32 relays in a row pass a
    /// datagram on, whatever its sender set. A relay re-originates: a sender's usual TTL of 1 must
    /// not end the copy at the first router.
    #[default]
    Auto,
    /// One less than the datagram arrived with; one that arrived with 1 or 0 does not leave.
    Decrement,
    /// This value, whatever the datagram arrived with. Never 0.
    Set(u8),
}

impl Ttl {
    /// The value that [`Ttl::Auto`] starts with.
    pub const FRESH: u8 = 64;
    /// The lowest value that [`Ttl::Auto`] takes for another relay's and not for a sender's. A
    /// datagram that arrives with it does not leave.
    pub const LAST: u8 = 33;
}

/// As a rule file has it, without quotes.
impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Decrement => f.write_str("decrement"),
            Self::Set(ttl) => write!(f, "{ttl}"),
        }
    }
}

/// The settings that the user fixed for one interface; the relay finds out all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// The interface's name. Unique in the file.
    pub name: String,
    /// The queues to use, ascending, without duplicates; `None` means all.
    pub queues: Option<Vec<u32>>,
    /// The CPUs to pin this interface's workers to, in order of the workers; `None` means unpinned.
    pub cpus: Option<Vec<u32>>,
    /// The TX method of this interface.
    pub transmit: Transmit,
    /// What the relay may do with its offloads.
    pub offloads: Offloads,
}

/// What the relay may do with the offloads of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offloads {
    /// Nothing.
    #[default]
    Keep,
    /// Switch off what stands in its way, for as long as it runs.
    Manage,
}

/// As a rule file has it, without quotes.
impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Manage => "manage",
        })
    }
}

/// The TX method of an interface, as far as the user fixed it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transmit {
    /// The fastest that the interface offers.
    #[default]
    Auto,
    /// The TX rings of AF_XDP sockets.
    Xsk,
    /// TX sockets: packet sockets that send GSO packets, which the kernel or the NIC cuts into
    /// datagrams.
    Segmented,
}

/// As a rule file has it, without quotes.
impl fmt::Display for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Xsk => "xsk",
            Self::Segmented => "segmented",
        })
    }
}
