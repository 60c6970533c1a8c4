//! What a monitor tells its reader.

use std::net::IpAddr;

use super::{Counts, Kind, mold_udp64, mpeg_ts, rtp};

/// The state of a flow's feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What was asked for.
    pub kind: Kind,
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
        let all = self.sources.iter().map(|source| &source.counts);
        all.fold(self.ended.counts, |sum, counts| Counts {
            datagrams: sum.datagrams.wrapping_add(counts.datagrams),
            lost: sum.lost.wrapping_add(counts.lost),
            reordered: sum.reordered.wrapping_add(counts.reordered),
            duplicated: sum.duplicated.wrapping_add(counts.duplicated),
            stray: sum.stray.wrapping_add(counts.stray),
            restarts: sum.restarts.wrapping_add(counts.restarts),
            not_understood: sum.not_understood.wrapping_add(counts.not_understood),
        })
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
