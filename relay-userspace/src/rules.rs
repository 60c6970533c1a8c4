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
    /// This value, whatever came in. Never 0.
    Set(u8),
    /// One less than what came in; a datagram that came with 1 or 0 does not leave.
    Decrement,
}

impl Ttl {
    /// A relay re-originates: the senders' usual 1 must not make the copy die at the first router.
    pub const DEFAULT: Self = Self::Set(64);
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
