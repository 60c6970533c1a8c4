//! Monitors of feeds: whether what a flow carries arrives whole and in time, per source.
//!
//! A worker shows each datagram of a flow to the flow's [`FlowMonitor`]; any thread reads it. What
//! the worker does for a datagram is bounded, and has no allocation, lock or system call.
//!
//! **One worker alone may call [`FlowMonitor::see`].** A second one at the same time would not be
//! unsound, but make the numbers wrong.
//!
//! # Sources
//!
//! Sources of a flow are told apart by address and UDP port; there is room for eight. When another
//! one comes, the one that was silent for the longest time gives way to it if that was a minute or
//! more. Its counts go to [`Health::ended`], so that sums never go backwards. While there is no
//! room, datagrams of other sources count as [`Health::beyond`] and nowhere else.
//!
//! # Numbers
//!
//! RTP, MoldUDP64 and counters number what they send, in 16, 64 and 8 to 64 bits. Of each source
//! the highest number is known, and which of the 64 numbers up to it have come (the *window*).
//!
//! - The number behind the highest is expected.
//! - A number further ahead leaves holes: what is between them is *missing*. So it is up to a jump
//!   of 100 with 8 bits, 3000 with 16 bits (`MAX_DROPOUT` of RFC 3550) and 2^20 with 32 and 64.
//! - A number that fills a hole is *reordered*, and no longer missing.
//! - A hole that leaves the window is *lost*, and stays so.
//! - A number in the window that had come before is *duplicated*.
//! - Any other number is far away: behind the window, before the first number of the stream, or
//!   further ahead than the limit. If the next datagram follows it directly, the numbers have begun
//!   anew there: one *restart*, and what was missing is lost. If not, it was a *stray*. So a stray
//!   counts when the next datagram comes, or when the stream ends.
//!
//! Lost, missing and reordered are numbers; duplicated and stray are datagrams. They differ for
//! MoldUDP64 alone, whose numbers are those of messages. There a datagram is the range of its
//! messages. If parts of it are known and others not, the holes that it fills are reordered, what
//! is above the highest number is new, and it is duplicated only if nothing of it is new. Of a
//! range that begins behind the window only what is in it is looked at. Datagrams without messages
//! (heartbeats, ends of session) change no number. Another session is a restart.
//!
//! An RTP source that takes another SSRC begins anew. That counts as such, and not as a restart;
//! what was missing of the old SSRC is lost.
//!
//! # Times
//!
//! The jitter of RTP is that of RFC 3550, A.8, over all packets but duplicates and strays. It needs
//! the clock of the timestamps: RFC 3551 has it for static payload types, and for others it is the
//! usual clock within one per cent of how far timestamps go in ten seconds or more. Another payload
//! type begins anew.
//!
//! # Transport streams
//!
//! A datagram is understood if it is made of whole packets of 188 bytes, with or without an RTP
//! header in front.
//!
//! - A packet without the sync byte is an error, and not looked at. Two or more in a row are a loss
//!   of sync, which counts once and ends with five right ones in a row.
//! - A packet with `transport_error_indicator` is counted and not looked at.
//! - Continuity counters are those of packets with payload. One duplicate is allowed, and anything
//!   with `discontinuity_indicator`. Stuffing has none.
//! - A PAT that comes more than 500 ms after the one before, or after the stream's first packet, is
//!   one error, however late it is. So is a PMT of a PID that the PAT names (one section, up to 16
//!   PIDs), from the PAT that named it first on. While nothing comes, nothing counts.
//! - A PCR that arrives more than 100 ms after the one before of its PID is one error.
//! - Of PIDs beyond 64 per source, packets are only counted.

mod counter;
mod counts;
mod health;
mod mold_udp64;
mod mpeg_ts;
mod rtp;
mod sequence;
mod sources;
mod version;

use self::{
    counter::Numbers,
    mold_udp64::Messages,
    mpeg_ts::TransportStream,
    rtp::Packets,
    sources::{Found, Sources, Stream},
};
pub use self::{
    counts::Counts,
    health::{Details, Ended, EndedDetails, Health, SourceHealth},
    mold_udp64::{MoldUdp64, MoldUdp64Counts},
    mpeg_ts::{MpegTs, MpegTsCounts, Pid},
    rtp::{Rtp, RtpCounts},
    sources::{SOURCES, Source},
};
use crate::config::rules::{Counter, Monitor};

/// The monitor of one flow: one worker writes it, any thread reads it.
#[derive(Debug)]
pub struct FlowMonitor {
    kind: Monitor,
    sources: OfKind,
}

/// The sources with the state that their kind needs. Boxed: a transport stream's is large.
#[derive(Debug)]
enum OfKind {
    Rtp(Box<Sources<Packets>>),
    MpegTs(Box<Sources<TransportStream>>),
    MoldUdp64(Box<Sources<Messages>>),
    Counter(Counter, Box<Sources<Numbers>>),
}

impl FlowMonitor {
    /// A monitor that has seen nothing.
    #[must_use]
    pub fn new(kind: Monitor) -> Self {
        let sources = match kind {
            Monitor::Rtp => OfKind::Rtp(Box::default()),
            Monitor::MpegTs => OfKind::MpegTs(Box::default()),
            Monitor::MoldUdp64 => OfKind::MoldUdp64(Box::default()),
            Monitor::Counter(at) => OfKind::Counter(at, Box::default()),
        };
        Self { kind, sources }
    }

    /// What it was made for.
    #[must_use]
    pub const fn kind(&self) -> Monitor {
        self.kind
    }

    /// A datagram of the flow arrived: the payload of UDP, at `now_ns` of a clock that does not go
    /// backwards. Only the owning worker may call this.
    #[inline]
    pub fn see(&self, source: Source, payload: &[u8], now_ns: u64) {
        let now = now_ns;
        match &self.sources {
            OfKind::Rtp(sources) => sources.see(source, now, |stream, counts| {
                stream.see(payload, now, counts)
            }),
            OfKind::MpegTs(sources) => {
                sources.see(source, now, |stream, _| stream.see(payload, now));
            }
            OfKind::MoldUdp64(sources) => {
                sources.see(source, now, |stream, counts| stream.see(payload, counts));
            }
            OfKind::Counter(at, sources) => sources.see(source, now, |stream, counts| {
                stream.see(*at, payload, counts)
            }),
        }
    }

    /// All that is known. What is written just now is read again, so that the numbers of each
    /// source belong together. `None` if that did not help, because the worker was interrupted in
    /// the middle of a datagram: ask again later.
    #[must_use]
    pub fn read(&self) -> Option<Health> {
        Some(match &self.sources {
            OfKind::Rtp(sources) => self.health(sources.read()?, EndedDetails::Rtp),
            OfKind::MpegTs(sources) => self.health(sources.read()?, EndedDetails::MpegTs),
            OfKind::MoldUdp64(sources) => self.health(sources.read()?, EndedDetails::MoldUdp64),
            OfKind::Counter(_, sources) => self.health(sources.read()?, |()| EndedDetails::None),
        })
    }

    fn health<S: Stream>(
        &self,
        found: Found<S>,
        details: impl Fn(<S::Own as counts::Cells>::Plain) -> EndedDetails,
    ) -> Health {
        Health {
            kind: self.kind,
            sources: found.sources,
            ended: Ended {
                sources: found.ended,
                counts: found.counts,
                details: details(found.own),
            },
            beyond: found.beyond,
        }
    }
}

#[cfg(test)]
mod tests;
