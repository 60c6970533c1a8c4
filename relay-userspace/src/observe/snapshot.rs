//! Everything that the relay knows of itself at one moment, as one value: `relay status`, its JSON
//! and the control protocol all show this one.

mod feed;
mod latency;

use std::{borrow::Cow, collections::BTreeMap, fmt, net::IpAddr, time::SystemTime};

use serde::{Deserialize, Serialize};

pub use self::{
    feed::{
        FeedStatus, MoldUdp64Status, MpegTsStatus, PidStatus, RtpStatus, SeenSource, SilenceStatus,
        SourceStatus,
    },
    latency::{LatencyBucket, LatencyStatus, Quantiles},
};
use crate::config::{
    quoted,
    rules::{GroupPort, OutputVlan, PortMatch, Prefix},
};

/// Numbers by name. The relay's own names are not copied: with many rules there are many of them.
pub type Numbers = BTreeMap<Cow<'static, str>, u64>;

/// The relay at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The relay's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// When this was taken, in seconds since the epoch.
    pub taken_at: u64,
    /// Seconds since the relay was ready.
    pub uptime_seconds: f64,
    /// Whether everything that is wanted runs.
    pub state: Health,
    /// What does not run, or loses frames: one sentence per problem.
    pub problems: Vec<String>,
    /// How many problems there are, also those that are not named.
    #[serde(default)]
    pub problem_count: u64,
    /// How often rules were changed.
    #[serde(default)]
    pub changes: Changes,
    /// What the process takes of this machine.
    #[serde(default)]
    pub process: ProcessStatus,
    /// The last change of the rules; `None` before the first.
    pub last_change: Option<LastChange>,
    /// The loops that rules are in.
    #[serde(default)]
    pub loops: Vec<LoopStatus>,
    /// Every interface that a rule names.
    pub interfaces: Vec<InterfaceStatus>,
    /// Every rule, in the order of the file, those added by command last.
    pub rules: Vec<RuleStatus>,
    /// Since the relay was ready.
    pub totals: Totals,
    /// Per second, over the last second.
    pub rates: Rates,
}

/// Now, in seconds since the epoch: for people and programs that compare it with their own clocks.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Whether everything that is wanted runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// All of it, and no frame was dropped in the last second.
    Healthy,
    /// Something waits, has died, drops frames or is in a loop.
    Degraded,
}

/// A change of the rules, or of interfaces if rules paused for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastChange {
    /// In seconds since the epoch.
    pub when: u64,
    /// What was asked for, or what has changed of interfaces.
    pub what: String,
    /// `applied`, or why not.
    pub result: String,
    /// How long rules paused for it at most, in milliseconds.
    pub pause_milliseconds: u64,
}

/// How often rules were changed since the relay was ready, by reload or by command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Changes that were applied.
    pub applied: u64,
    /// Changes that were refused. All was as before then.
    pub refused: u64,
    /// The last one was refused.
    pub last_was_refused: bool,
    /// When rules were last applied, or the relay became ready, in seconds since the epoch.
    pub applied_at: u64,
}

/// What the relay's process takes of this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// CPU time in seconds.
    pub cpu_seconds: f64,
    /// Memory in RAM, in bytes.
    pub resident_bytes: u64,
    /// Addresses that are mapped, in bytes.
    pub virtual_bytes: u64,
    /// File descriptors that are open.
    pub open_files: u64,
    /// File descriptors that may be open.
    pub most_files: u64,
    /// Threads.
    pub threads: u64,
    /// When it started, in seconds since the epoch.
    pub started_at: f64,
}

/// How a loop shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoopKind {
    /// Copies of this relay arrive as datagrams of the rule. They are not relayed again.
    OwnFrames,
    /// Datagrams of the rule arrive with a TTL that is used up. They do not leave.
    Expired,
}

/// A rule that is in a loop: it was seen within the last ten seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoopStatus {
    /// The rule.
    pub rule: String,
    /// How the loop shows.
    pub kind: LoopKind,
    /// The interface that the last such frame arrived on.
    pub interface: String,
    /// The group or prefix that the rule matches.
    pub group: Prefix,
    /// The port or ports that the rule matches.
    pub port: PortMatch,
    /// The frame's source address: the peer that sent it, or one of this relay's own addresses.
    pub source: IpAddr,
    /// Its Ethernet source: the peer that sent it, or a router or bridge on the way.
    pub source_mac: String,
    /// How long ago it came, in seconds, to the second.
    pub last_seconds_ago: f64,
}

impl fmt::Display for LoopStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule,
            interface,
            group,
            port,
            source,
            source_mac,
            ..
        } = self;
        let rule = quoted(rule);
        let to = GroupPort(*group, *port);
        let ttl = match source {
            IpAddr::V4(_) => "TTL",
            IpAddr::V6(_) => "hop limit",
        };
        match self.kind {
            LoopKind::OwnFrames => write!(
                f,
                "rule {rule} sees its own frames: copies come back on {interface} as \
                 {to}, from {source} ({source_mac})"
            ),
            LoopKind::Expired => write!(
                f,
                "datagrams of rule {rule} expire: on {interface} they come as {to} from {source} \
                 ({source_mac}) with a {ttl} that is used up, so they go round in a ring of relays, \
                 or their sender's {ttl} is too small"
            ),
        }
    }
}

/// Whether something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It runs.
    Active,
    /// It is wanted and waits, see the reason.
    Pending,
    /// An operator disabled it.
    Disabled,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// The name.
    pub name: String,
    /// The kernel's index; `None` if it is not in use.
    pub index: Option<u32>,
    /// Active or pending.
    pub state: State,
    /// Why it waits, or why backend and mode are what they are; may be empty.
    pub reason: String,
    /// Its driver; `None` if it is not in use.
    #[serde(default)]
    pub driver: Option<String>,
    /// `xdp` or `io-uring`; `None` if it is not in use.
    pub backend: Option<String>,
    /// `zero-copy` or `copy`; `None` if it has no AF_XDP sockets.
    pub mode: Option<String>,
    /// How copies leave: `xsk`, `segmented` or `frames`; `None` if none do.
    pub engine: Option<String>,
    /// Frames that its device dropped after the kernel had cut them from GSO packets.
    pub device_dropped: u64,
    /// Frames that its NIC had no buffer for.
    pub missed: u64,
    /// The counters of the kernel program; empty on an interface that is only an output.
    pub filter: Numbers,
    /// How long its frames are in the relay; `None` if no frame's time was taken.
    #[serde(default)]
    pub latency: Option<LatencyStatus>,
}

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The rule file.
    File,
    /// A command.
    Runtime,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The name.
    pub name: String,
    /// Whether it runs.
    pub state: State,
    /// Why it waits; empty if it does not.
    pub reason: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The input interface.
    pub interface: String,
    /// The group or prefix that it matches.
    pub group: Prefix,
    /// The port or ports that it matches.
    pub port: PortMatch,
    /// Frames that matched it and reached a worker.
    pub packets_matched: u64,
    /// Bytes of UDP payload in them.
    #[serde(default)]
    pub bytes_matched: u64,
    /// Frames above its limit.
    pub over_limit: u64,
    /// Frames that this host's own stack should have got as well, and did not.
    #[serde(default)]
    pub local_failed: u64,
    /// Frames per second that matched it, over the last second.
    pub rate: f64,
    /// Bits of UDP payload per second in them.
    #[serde(default)]
    pub bit_rate: f64,
    /// Seconds since its last frame, to the second; `None` if none has come.
    pub last_frame_seconds_ago: Option<f64>,
    /// When that was, in seconds since the epoch.
    #[serde(default)]
    pub last_frame_at: Option<f64>,
    /// Who sends its datagrams, at most eight: seen by a few of them, to the second.
    #[serde(default)]
    pub sources: Vec<SeenSource>,
    /// Whether datagrams come, if the rule has `silence` and runs.
    #[serde(default)]
    pub silence: Option<SilenceStatus>,
    /// What its datagrams are like, if the rule has `monitor`.
    #[serde(default)]
    pub feed: Option<FeedStatus>,
    /// Its outputs.
    pub outputs: Vec<OutputStatus>,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputStatus {
    /// The interface that the rule names; empty where the kernel's routing chooses it.
    pub interface: String,
    /// The destination group or address.
    pub group: Prefix,
    /// The destination port.
    pub port: PortMatch,
    /// The tags.
    #[serde(default, skip_serializing_if = "OutputVlan::is_untagged")]
    pub vlan: OutputVlan,
    /// The headers of the copies; of an output that waits without what only its interface says.
    #[serde(default)]
    pub headers: String,
    /// Whether copies leave.
    pub state: State,
    /// Why it waits; empty if it does not.
    pub reason: String,
    /// Where copies to a unicast address leave to; `None` if it waits, or sends to groups.
    #[serde(default)]
    pub next_hop: Option<NextHopStatus>,
    /// Copies that left.
    pub packets_sent: u64,
    /// Copies per second that left, over the last second.
    pub rate: f64,
    /// Bits of UDP payload per second in them. The relay does not count the bytes of copies: this
    /// is the rate of copies times the mean length of the rule's datagrams in that second.
    #[serde(default)]
    pub bit_rate: f64,
    /// Copies that did not leave, by reason; only reasons that occurred.
    pub dropped: Numbers,
}

/// The host on a link that copies are sent to: their destination, or a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopStatus {
    /// The interface that copies leave through now.
    pub interface: String,
    /// The host's address.
    pub address: IpAddr,
    /// Its Ethernet address; `None` if it does not answer: then copies do not leave.
    #[serde(default)]
    pub mac: Option<String>,
}

/// "10.2.1.2 on out1 (02:00:0a:02:01:02)"
impl fmt::Display for NextHopStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mac = self.mac.as_deref().unwrap_or("unresolved");
        write!(f, "{} on {} ({mac})", self.address, quoted(&self.interface))
    }
}

/// Sums since the relay was ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Frames that reached a worker.
    pub packets_received: u64,
    /// Of those, frames that matched a rule.
    pub packets_matched: u64,
    /// Copies that left.
    pub packets_sent: u64,
    /// Frames and copies that did not leave, by reason; zeros included.
    pub dropped: Numbers,
    /// Of those, frames that were dropped before a rule took them, by reason; zeros included.
    #[serde(default)]
    pub dropped_before_rules: Numbers,
}

/// Per second, over the last second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Frames that reached a worker.
    pub packets_received: f64,
    /// Bits of UDP payload in frames that matched a rule.
    #[serde(default)]
    pub bits_matched: f64,
    /// Copies that left.
    pub packets_sent: f64,
    /// Frames and copies that did not leave.
    pub dropped: f64,
}
