//! Validated rules: the vocabulary of the whole program.
//!
//! A [`Rules`] value exists only when the file it came from has no mistake, so nothing after this
//! module checks a group, a port or a name again.

use std::net::Ipv4Addr;

/// Everything a rule file says, after validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// One entry a `[[rules]]` table, in the file's order.
    pub rules: Vec<Rule>,
    /// One entry an `[[interfaces]]` table, in the file's order.
    pub interfaces: Vec<InterfaceOptions>,
}

/// One input and the outputs that every datagram of it leaves by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique in the file.
    pub name: String,
    /// What is matched.
    pub input: Input,
    /// How much of it is relayed; `None` means all.
    pub limit: Option<Limit>,
    /// At least one.
    pub outputs: Vec<Output>,
}

/// What a rule matches: untagged IPv4 UDP datagrams to `group`:`port` that arrive on `interface`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    /// The interface's name.
    pub interface: String,
    /// A multicast group.
    pub group: Ipv4Addr,
    /// Never 0.
    pub port: u16,
}

/// How much of an input is relayed: what is above it is dropped in the kernel, before it takes anything from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Limit {
    /// Datagrams a second, on average. 1 to [`Limit::MAX_RATE`].
    pub packets_per_second: u32,
    /// Datagrams that may come at once. 1 to [`Limit::MAX_BURST`].
    pub burst: u32,
}

impl Limit {
    /// More than a queue can bring: 64-byte frames fill 100 Gbit/s with 149 million a second.
    pub const MAX_RATE: u32 = 100_000_000;
    /// More than all sockets of a relay can hold.
    pub const MAX_BURST: u32 = 1_000_000;
}

/// Where a copy of the datagram goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The interface's name.
    pub interface: String,
    /// A multicast group.
    pub group: Ipv4Addr,
    /// Never 0.
    pub port: u16,
    /// The time to live on the wire.
    pub ttl: Ttl,
}

/// The time to live that an output's datagrams leave with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ttl {
    /// Such that a relay may stand behind a relay, and no datagram goes round for ever: 64 if it came with 32 or less,
    /// or with more than 64; else one less than it came with; and what came with 33 does not leave. So at most 32
    /// relays in a row pass a datagram on, whatever its sender set.
    Auto,
    /// One less than what came in; a datagram that came with 1 or 0 does not leave.
    Decrement,
    /// This value, whatever came in. Never 0.
    Set(u8),
}

impl Ttl {
    /// A relay re-originates: the senders' usual 1 must not make the copy die at the first router.
    pub const DEFAULT: Self = Self::Auto;
    /// What [`Ttl::Auto`] starts with.
    pub const FRESH: u8 = 64;
    /// The last value that [`Ttl::Auto`] does not take for a sender's.
    pub const LAST: u8 = 33;
}

/// What the user fixed for one interface; everything else is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// The interface's name. Unique in the file.
    pub name: String,
    /// The queues to use, ascending, without duplicates; `None` means all.
    pub queues: Option<Vec<u32>>,
    /// The CPUs to pin this interface's workers to, in order of the workers; `None` means unpinned.
    pub cpus: Option<Vec<u32>>,
    /// How copies leave by this interface.
    pub transmit: Transmit,
}

/// How copies leave by an interface, as far as the user fixed it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transmit {
    /// By what is fastest there.
    #[default]
    Auto,
    /// By the TX rings of AF_XDP sockets.
    Xsk,
    /// By packet sockets, in super-frames that the kernel or the NIC cuts apart.
    Segmented,
}
