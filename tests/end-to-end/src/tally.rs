//! What a receiver has received of one flow, and whether that is exactly what was sent.
//!
//! "Exact" means every datagram once, in order, every byte as sent. The verdict names everything
//! that is not so, so that a failed test is understood without a second run.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use crate::payload::{self, OrderedHash};

/// Sequences at or above this are foreign: no test sends so many.
const SEQUENCE_LIMIT: u64 = 1 << 24;

/// How many different senders are remembered.
const SOURCES_KEPT: usize = 16;

/// Datagrams of one flow with consecutive sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// The flow's id, part of every payload.
    pub flow: u32,
    /// The first sequence.
    pub first: u64,
    /// How many datagrams.
    pub count: u64,
    /// Bytes of payload in each.
    pub size: usize,
}

impl Stream {
    /// `count` datagrams of `size` bytes from sequence 0 on.
    pub const fn new(flow: u32, count: u64, size: usize) -> Self {
        Self {
            flow,
            first: 0,
            count,
            size,
        }
    }

    /// The same from another sequence on.
    #[must_use]
    pub const fn starting_at(self, first: u64) -> Self {
        Self { first, ..self }
    }
}

/// Counts of one receiver. Every received datagram is under exactly one of `unique`, `duplicates`,
/// `mismatched` and `foreign`.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// The name of the receiver, for messages.
    pub name: String,
    /// The flow that is expected.
    pub flow: u32,
    /// Datagrams received.
    pub received: u64,
    /// Good datagrams seen for the first time.
    pub unique: u64,
    /// Good datagrams seen before.
    pub duplicates: u64,
    /// Unique datagrams that came after one with a higher sequence.
    pub out_of_order: u64,
    /// Datagrams whose bytes differ from those that were sent with that sequence.
    pub mismatched: u64,
    /// Datagrams of another flow, or of no flow at all.
    pub foreign: u64,
    /// Bytes of payload.
    pub bytes: u64,
    /// The hash of all payloads in order of arrival.
    pub hash: OrderedHash,
    /// The first 16 addresses that sent.
    pub sources: BTreeSet<SocketAddr>,
    /// Datagrams that the receiver's own socket had no room for.
    pub socket_drops: u64,
    seen: Vec<u64>,
    highest: Option<u64>,
    scratch: Vec<u8>,
}

impl Tally {
    /// A tally of `flow`, of which nothing has been received yet.
    pub fn new(name: impl Into<String>, flow: u32) -> Self {
        Self {
            name: name.into(),
            flow,
            ..Self::default()
        }
    }

    /// Counts one datagram.
    pub fn record(&mut self, payload: &[u8], source: Option<SocketAddr>) {
        self.received += 1;
        self.bytes += payload.len() as u64;
        self.hash.update(payload);
        if let Some(source) = source
            && self.sources.len() < SOURCES_KEPT
        {
            self.sources.insert(source);
        }
        let sequence = if payload.len() < payload::HEADER_LEN {
            // Too short for a header: the order of arrival says which datagram it must be.
            self.received - 1
        } else {
            match payload::header(payload) {
                Some((flow, sequence)) if flow == self.flow && sequence < SEQUENCE_LIMIT => {
                    sequence
                }
                _ => {
                    self.foreign += 1;
                    return;
                }
            }
        };
        self.scratch.resize(payload.len(), 0);
        payload::fill(self.flow, sequence, &mut self.scratch);
        if self.scratch != payload {
            self.mismatched += 1;
            return;
        }
        if self.mark(sequence) {
            self.duplicates += 1;
            return;
        }
        self.unique += 1;
        if self.highest.is_some_and(|highest| sequence < highest) {
            self.out_of_order += 1;
        }
        self.highest = self.highest.max(Some(sequence));
    }

    /// Marks a sequence as seen; true if it was already.
    fn mark(&mut self, sequence: u64) -> bool {
        let (word, bit) = ((sequence / 64) as usize, 1 << (sequence % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let before = self.seen[word] & bit != 0;
        self.seen[word] |= bit;
        before
    }

    /// True if the datagram with `sequence` has arrived whole.
    pub fn has(&self, sequence: u64) -> bool {
        let word = self
            .seen
            .get((sequence / 64) as usize)
            .copied()
            .unwrap_or(0);
        word & 1 << (sequence % 64) != 0
    }

    /// Datagrams before the latest one that have not arrived, while the flow is still running.
    pub fn gaps(&self) -> u64 {
        self.highest
            .map_or(0, |highest| (highest + 1).saturating_sub(self.unique))
    }

    /// The sequences of `expected` that have not arrived.
    pub fn missing(&self, expected: &Stream) -> Vec<u64> {
        (expected.first..expected.first + expected.count)
            .filter(|&s| !self.has(s))
            .collect()
    }

    /// Whether exactly `expected` has arrived; otherwise everything that is wrong.
    pub fn verdict(&self, expected: &Stream) -> Result<(), String> {
        let mut faults = Vec::new();
        let mut fault = |count: u64, what: &str| {
            if count != 0 {
                faults.push(format!("{count} {what}"));
            }
        };
        let missing = self.missing(expected);
        fault(missing.len() as u64, "missing");
        fault(self.duplicates, "duplicates");
        fault(self.out_of_order, "out of order");
        fault(self.mismatched, "with a payload that differs");
        fault(self.foreign, "that do not belong to the flow");
        fault(
            self.received.saturating_sub(expected.count),
            "more than were sent",
        );
        fault(self.socket_drops, "dropped by the receiver's own socket");
        let hash = OrderedHash::of(expected.flow, expected.first, expected.count, expected.size);
        if faults.is_empty() && hash != self.hash {
            faults.push("the hash of all payloads differs".to_owned());
        }
        if faults.is_empty() {
            return Ok(());
        }
        let mut message = format!(
            "{}: expected flow {} sequences {}..{} of {} bytes exactly; {}",
            self.name,
            expected.flow,
            expected.first,
            expected.first + expected.count,
            expected.size,
            faults.join(", ")
        );
        if !missing.is_empty() {
            let shown: Vec<_> = missing.iter().take(10).map(u64::to_string).collect();
            message += &format!("; first missing: {}", shown.join(" "));
        }
        Err(format!("{message}; {self}"))
    }

    /// Fails with everything that is wrong unless exactly `expected` has arrived.
    #[track_caller]
    pub fn assert_exact(&self, expected: &Stream) {
        let verdict = self.verdict(expected);
        assert!(verdict.is_ok(), "{}", verdict.err().unwrap_or_default());
    }

    /// Fails unless nothing at all has arrived.
    #[track_caller]
    pub fn assert_nothing(&self) {
        assert!(
            self.received == 0,
            "{}: expected nothing; {self}",
            self.name
        );
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "received {} (unique {}, duplicates {}, mismatched {}, foreign {}), out of order {}, \
             bytes {}, socket drops {}, from {:?}",
            self.received,
            self.unique,
            self.duplicates,
            self.mismatched,
            self.foreign,
            self.out_of_order,
            self.bytes,
            self.socket_drops,
            self.sources,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::payload;

    fn tally_of(payloads: impl IntoIterator<Item = Vec<u8>>) -> Tally {
        let mut tally = Tally::new("test", 9);
        payloads.into_iter().for_each(|p| tally.record(&p, None));
        tally
    }

    #[test]
    fn what_was_sent_in_order_is_exact_at_every_size() {
        for size in [0, 1, 15, 16, 17, 1000] {
            let tally = tally_of((0..100).map(|n| payload(9, n, size)));
            assert_eq!(
                tally.verdict(&Stream::new(9, 100, size)),
                Ok(()),
                "size {size}"
            );
        }
    }

    #[test]
    fn every_kind_of_fault_is_named() {
        let sent = |n| payload(9, n, 100);
        let mut damaged = sent(2);
        damaged[50] ^= 1;
        let other_flow = payload(8, 2, 100);
        type Case = (&'static str, Vec<Vec<u8>>, &'static str);
        let cases: Vec<Case> = vec![
            ("loss", vec![sent(0), sent(2)], "1 missing"),
            (
                "duplicate",
                vec![sent(0), sent(1), sent(1), sent(2)],
                "1 duplicates",
            ),
            ("order", vec![sent(0), sent(2), sent(1)], "1 out of order"),
            (
                "damage",
                vec![sent(0), sent(1), damaged],
                "1 with a payload that differs",
            ),
            (
                "foreign",
                vec![sent(0), sent(1), sent(2), other_flow],
                "1 that do not belong",
            ),
            (
                "extra",
                vec![sent(0), sent(1), sent(2), sent(3)],
                "1 more than were sent",
            ),
            (
                "size",
                vec![sent(0), sent(1), payload(9, 2, 99)],
                "hash of all payloads differs",
            ),
        ];
        for (name, payloads, expected) in cases {
            let verdict = tally_of(payloads).verdict(&Stream::new(9, 3, 100));
            let message = verdict.expect_err(name);
            assert!(message.contains(expected), "{name}: {message}");
        }
    }

    #[test]
    fn short_payloads_out_of_order_are_noticed() {
        let tally = tally_of([1, 0, 2].map(|n| payload(9, n, 12)));
        assert!(tally.verdict(&Stream::new(9, 3, 12)).is_err());
    }
}
