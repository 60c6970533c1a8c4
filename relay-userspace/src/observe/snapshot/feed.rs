//! What a snapshot says of the datagrams of a rule: who sends them, what their numbers tell, and
//! whether they come. Nothing here depends on how they are relayed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Numbers;

/// A sender of datagrams: an address and a UDP source port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeenSource {
    /// Its address.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// How long ago it was first seen, in seconds.
    pub first_seconds_ago: f64,
    /// How long ago it was last seen, in seconds.
    pub last_seconds_ago: f64,
}

/// What the datagrams of a rule are like that has `monitor`. docs/metrics.md says what the numbers
/// mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedStatus {
    /// The value of `monitor`, as the rule file has it.
    pub monitor: String,
    /// Numbers that have not come yet and still may: they are lost, or reordered, soon.
    pub missing: u64,
    /// What was counted of all sources since the relay was ready, by name; zeros included.
    pub counted: Numbers,
    /// The sources that the relay knows, at most eight per worker, in the order in which they came.
    pub sources: Vec<SourceStatus>,
}

/// One sender of a feed: an address and a UDP source port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// How long ago its first datagram came, in seconds.
    pub first_seconds_ago: f64,
    /// How long ago its last datagram came, in seconds.
    pub last_seconds_ago: f64,
    /// Numbers that have not come yet and still may.
    pub missing: u64,
    /// What was counted, by name; zeros included.
    pub counted: Numbers,
    /// What only RTP has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtp: Option<RtpStatus>,
    /// What only MPEG transport streams have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpeg_ts: Option<MpegTsStatus>,
    /// What only MoldUDP64 has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moldudp64: Option<MoldUdp64Status>,
}

/// An RTP stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RtpStatus {
    /// The synchronization source, in hexadecimal.
    pub ssrc: String,
    /// The payload type.
    pub payload_type: u8,
    /// Timestamp units per second; `None` while that is not known.
    pub clock_rate: Option<u32>,
    /// The interarrival jitter (RFC 3550) in seconds; `None` while the clock is not known.
    pub jitter_seconds: Option<f64>,
}

/// An MPEG transport stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MpegTsStatus {
    /// Whether sync bytes are where they belong.
    pub in_sync: bool,
    /// Where the last PAT says that PMTs are.
    pub pmt_pids: Vec<u16>,
    /// The PIDs, in their order.
    pub pids: Vec<PidStatus>,
}

/// One PID of a transport stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PidStatus {
    /// Its number.
    pub pid: u16,
    /// Its packets.
    pub packets: u64,
    /// Those whose continuity counter was not the expected one.
    pub continuity_errors: u64,
    /// Seconds between the arrivals of its last two PCRs, if it has so many.
    pub pcr_interval_seconds: Option<f64>,
    /// The longest such time.
    pub longest_pcr_interval_seconds: Option<f64>,
}

/// A MoldUDP64 session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoldUdp64Status {
    /// The session, what is not printable in it as dots.
    pub session: String,
    /// The number of the message that is expected next, once one has come.
    pub next: Option<u64>,
}

/// Whether datagrams of a rule come that has `silence`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SilenceStatus {
    /// How long no datagram may come, in seconds.
    pub after_seconds: f64,
    /// None has come for so long.
    pub silent: bool,
    /// How long none has come, in seconds; before the first, since when the rule is watched.
    pub seconds: f64,
    /// How often the rule became silent since the relay was ready.
    pub times: u64,
}
