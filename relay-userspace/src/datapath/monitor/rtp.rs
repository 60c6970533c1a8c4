//! RTP (RFC 3550): loss by sequence number, and jitter.

mod header;
mod timing;

pub use self::header::Header;
use self::timing::Timing;
use super::{
    Details,
    counts::{Cells, CountCells, counts},
    sequence::{Seen, Tracker, Width},
    sources::Stream,
};
use crate::datapath::stats::Count;

counts! {
    /// What is counted of RTP alone.
    RtpCounts, RtpCells {
        /// How often the source took another SSRC.
        ssrc_changes,
    }
}

/// The state of an RTP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtp {
    /// What was counted.
    pub counts: RtpCounts,
    /// The synchronization source.
    pub ssrc: u32,
    /// The payload type.
    pub payload_type: u8,
    /// How many timestamp units a second has. `None` while that is not known.
    pub clock: Option<u32>,
    /// The interarrival jitter. `None` while the clock is not known.
    pub jitter_ns: Option<u64>,
}

/// The RTP stream of one source.
#[derive(Debug, Default)]
pub struct Packets {
    tracker: Tracker,
    timing: Timing,
    own: RtpCells,
    /// Whether an SSRC is known: 1 if so.
    known: Count,
    ssrc: Count,
    payload_type: Count,
}

impl Packets {
    /// Looks at a datagram. `false` if it is no RTP.
    #[inline]
    pub fn see(&self, payload: &[u8], now: u64, counts: &CountCells) -> bool {
        let Some(header) = Header::parse(payload) else {
            return false;
        };
        let is_other = self.known.get() == 0 || self.ssrc.get() != u64::from(header.ssrc);
        if is_other {
            self.begin(header.ssrc, counts);
        }
        if is_other || self.payload_type.get() != u64::from(header.payload_type) {
            self.payload_type.set(u64::from(header.payload_type));
            self.timing.begin(header.payload_type);
        }
        let number = u64::from(header.sequence);
        match self.tracker.see(Width::Bits16, number, 1, counts) {
            // What does not belong to the stream, or came before, says nothing about its times.
            Seen::Again | Seen::Suspect => return true,
            Seen::Restart => self.timing.interrupt(),
            Seen::First | Seen::Highest | Seen::Late => {}
        }
        self.timing.see(header.timestamp, now);
        true
    }

    /// A stream begins; if there was another one, the source has changed its SSRC.
    #[cold]
    fn begin(&self, ssrc: u32, counts: &CountCells) {
        self.own.ssrc_changes.add(self.known.get());
        self.tracker.end(counts);
        self.known.set(1);
        self.ssrc.set(u64::from(ssrc));
    }
}

impl Stream for Packets {
    type Own = RtpCells;

    fn own(&self) -> &RtpCells {
        &self.own
    }

    fn tracker(&self) -> Option<&Tracker> {
        Some(&self.tracker)
    }

    fn reset(&self) {
        self.own.reset();
        self.known.set(0);
    }

    fn details(&self) -> Details {
        if self.known.get() == 0 {
            return Details::None;
        }
        Details::Rtp(Rtp {
            counts: self.own.get(),
            ssrc: self.ssrc.get() as u32,
            payload_type: self.payload_type.get() as u8,
            clock: self.timing.clock(),
            jitter_ns: self.timing.jitter_ns(),
        })
    }
}

#[cfg(test)]
mod tests;
