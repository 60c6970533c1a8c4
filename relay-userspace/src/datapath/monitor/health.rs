//! What a monitor tells its reader.

use std::net::IpAddr;

use super::{Counts, mold_udp64, mpeg_ts, rtp};
use crate::config::rules::Monitor;

/// The state of a flow's feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What was asked for.
    pub kind: Monitor,
    /// Who sends, in the order in which they were first seen.
    pub sources: Vec<SourceHealth>,
    /// The sums of the sources that gave way to others.
    pub ended: Ended,
    /// Datagrams of sources that there was no room for. They count nowhere else.
    pub beyond: u64,
}

impl Health {
    /// The sums of all sources, those included that gave way. They never go backwards.
    #[must_use]
    pub fn sum(&self) -> Counts {
        let all = self.sources.iter().map(|source| source.counts);
        all.fold(self.ended.counts, Counts::plus)
    }

    /// The sums of what only this kind counts, of all sources.
    #[must_use]
    pub fn sum_of_details(&self) -> EndedDetails {
        let all = self.sources.iter().map(|source| source.details.counts());
        all.fold(self.ended.details, EndedDetails::plus)
    }
}

/// One sender of a flow: an address and a UDP source port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceHealth {
    /// Its address.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// When its first datagram arrived.
    pub since_ns: u64,
    /// When its last datagram arrived.
    pub last_ns: u64,
    /// What was counted.
    pub counts: Counts,
    /// Numbers that have not come yet and still may: they are lost, or reordered, soon.
    pub missing: u64,
    /// What only datagrams of this kind have.
    pub details: Details,
}

/// What only datagrams of one kind have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Details {
    /// Nothing: a counter, or nothing of this source has been understood yet.
    None,
    /// RTP.
    Rtp(rtp::Rtp),
    /// An MPEG transport stream.
    MpegTs(mpeg_ts::MpegTs),
    /// MoldUDP64.
    MoldUdp64(mold_udp64::MoldUdp64),
}

impl Details {
    /// What only this kind counts.
    #[must_use]
    pub const fn counts(&self) -> EndedDetails {
        match self {
            Self::None => EndedDetails::None,
            Self::Rtp(rtp) => EndedDetails::Rtp(rtp.counts),
            Self::MpegTs(mpeg_ts) => EndedDetails::MpegTs(mpeg_ts.counts),
            Self::MoldUdp64(mold_udp64) => EndedDetails::MoldUdp64(mold_udp64.counts),
        }
    }
}

/// The sums of sources that gave way to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How many they are.
    pub sources: u64,
    /// What was counted of them. What was still missing when one gave way is lost.
    pub counts: Counts,
    /// The counts that only this kind has.
    pub details: EndedDetails,
}

/// The counts of ended sources that only one kind has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedDetails {
    /// None: a counter.
    None,
    /// RTP.
    Rtp(rtp::RtpCounts),
    /// MPEG transport streams.
    MpegTs(mpeg_ts::MpegTsCounts),
    /// MoldUDP64.
    MoldUdp64(mold_udp64::MoldUdp64Counts),
}

impl EndedDetails {
    /// The sums of both, which are of one kind; else the first, if it is of any.
    #[must_use]
    pub const fn plus(self, more: Self) -> Self {
        match (self, more) {
            (Self::None, more) => more,
            (Self::Rtp(one), Self::Rtp(other)) => Self::Rtp(one.plus(other)),
            (Self::MpegTs(one), Self::MpegTs(other)) => Self::MpegTs(one.plus(other)),
            (Self::MoldUdp64(one), Self::MoldUdp64(other)) => Self::MoldUdp64(one.plus(other)),
            (one, _) => one,
        }
    }

    /// The numbers with their names.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::None => Vec::new(),
            Self::Rtp(counts) => counts.named().collect(),
            Self::MpegTs(counts) => counts.named().collect(),
            Self::MoldUdp64(counts) => counts.named().collect(),
        }
    }
}
