//! MoldUDP64: messages in datagrams, numbered within a session.
//!
//! A datagram begins with the session (10 bytes), the number of its first message (8) and how many
//! messages it has (2); each message has a length of two bytes in front.

use super::{
    Details,
    counts::{Cells, CountCells, counts},
    sequence::{Tracker, Width},
    sources::Stream,
};
use crate::datapath::stats::Count;

/// In the place of the count: the session is over.
const END_OF_SESSION: u16 = 0xffff;
/// What a message has at least: its length.
const MESSAGE_LEN: usize = 2;

counts! {
    /// What is counted of MoldUDP64 alone.
    MoldUdp64Counts, MoldUdp64Cells {
        /// Messages that datagrams announced, those that came again included.
        messages,
        /// Datagrams without a message.
        heartbeats,
        /// Datagrams that say that the session is over; servers send several.
        ends_of_session,
    }
}

/// The state of a MoldUDP64 stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoldUdp64 {
    /// What was counted.
    pub counts: MoldUdp64Counts,
    /// The session; printable as a rule, with spaces at its left.
    pub session: [u8; 10],
    /// The number behind the highest one, if a message has come in this session.
    pub next: Option<u64>,
}

/// The messages of one source.
#[derive(Debug, Default)]
pub struct Messages {
    tracker: Tracker,
    own: MoldUdp64Cells,
    /// Whether a session is known: 1 if so. Then its first eight bytes and its last two.
    known: Count,
    session: [Count; 2],
}

struct Header {
    session: [u64; 2],
    first: u64,
    count: u16,
}

impl Header {
    /// The header, if the datagram is as long as its messages are at least.
    #[inline]
    fn parse(payload: &[u8]) -> Option<Self> {
        let (session, rest) = payload.split_first_chunk::<8>()?;
        let (session_end, rest) = rest.split_first_chunk::<2>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (count, messages) = rest.split_first_chunk::<2>()?;
        let count = u16::from_be_bytes(*count);
        if count != END_OF_SESSION && messages.len() / MESSAGE_LEN < usize::from(count) {
            return None;
        }
        Some(Self {
            session: [
                u64::from_be_bytes(*session),
                u64::from(u16::from_be_bytes(*session_end)),
            ],
            first: u64::from_be_bytes(*first),
            count,
        })
    }
}

impl Messages {
    /// Looks at a datagram. `false` if it is none of MoldUDP64.
    #[inline]
    pub fn see(&self, payload: &[u8], counts: &CountCells) -> bool {
        let Some(header) = Header::parse(payload) else {
            return false;
        };
        if self.known.get() == 0 || self.session.each_ref().map(Count::get) != header.session {
            self.begin(header.session, counts);
        }
        match header.count {
            0 => self.own.heartbeats.add(1),
            END_OF_SESSION => self.own.ends_of_session.add(1),
            count => {
                let count = u64::from(count);
                self.own.messages.add(count);
                self.tracker.see(Width::Bits64, header.first, count, counts);
            }
        }
        true
    }

    /// A session begins; it is a restart if there was another one.
    #[cold]
    fn begin(&self, session: [u64; 2], counts: &CountCells) {
        counts.restarts.add(self.known.get());
        self.tracker.end(counts);
        self.known.set(1);
        for (part, new) in self.session.iter().zip(session) {
            part.set(new);
        }
    }
}

impl Stream for Messages {
    type Own = MoldUdp64Cells;

    fn own(&self) -> &MoldUdp64Cells {
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
        let [start, end] = self.session.each_ref().map(Count::get);
        let [a, b, c, d, e, f, g, h] = start.to_be_bytes();
        let [.., i, j] = end.to_be_bytes();
        Details::MoldUdp64(MoldUdp64 {
            counts: self.own.get(),
            session: [a, b, c, d, e, f, g, h, i, j],
            next: self
                .tracker
                .highest()
                .map(|highest| highest.wrapping_add(1)),
        })
    }
}

#[cfg(test)]
mod tests;
