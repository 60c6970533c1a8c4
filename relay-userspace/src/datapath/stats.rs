//! Counters: written by one worker, read by any thread.
//!
//! A worker owns a [`WorkerStats`] and alone writes it, so adding is a plain load and store,
//! without a locked instruction. Every copy that does not leave is counted under exactly one
//! [`Dropped`].

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::plan::{Plan, WorkerPlan};

/// Why a frame, or one output's copy of it, did not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Dropped {
    /// No chunk was free for the copy.
    BufferExhaustion,
    /// The output has as many frames on their way as its rings or socket buffer hold: its device is
    /// slower than the feed.
    RingFull,
    /// Larger than the output interface's MTU.
    TooBig,
    /// `ttl = "decrement"`, and the datagram arrived with TTL 1 or 0.
    TtlExpired,
    /// The device refused it: it is down or gone, its peer is down, or it has no queue and its peer
    /// no room.
    DeviceRefused,
    /// Still waiting for the device when the relay ended.
    UnsentAtExit,
    /// The kernel matched the frame, and no rule of this worker does. Counted once per frame, not
    /// per output.
    NoRule,
    /// The kernel matched the frame, and it does not decode. Counted once per frame, not per
    /// output.
    Malformed,
}

impl Dropped {
    /// How many reasons there are.
    pub const COUNT: usize = 8;

    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::BufferExhaustion,
        Self::RingFull,
        Self::TooBig,
        Self::TtlExpired,
        Self::DeviceRefused,
        Self::UnsentAtExit,
        Self::NoRule,
        Self::Malformed,
    ];

    /// The name in logs and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BufferExhaustion => "buffer_exhaustion",
            Self::RingFull => "ring_full",
            Self::TooBig => "too_big",
            Self::TtlExpired => "ttl_expired",
            Self::DeviceRefused => "device_refused",
            Self::UnsentAtExit => "unsent_at_exit",
            Self::NoRule => "no_rule",
            Self::Malformed => "malformed",
        }
    }
}

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to the number. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// Replaces the number. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One number per reason.
#[derive(Debug, Default)]
pub struct Drops([Count; Dropped::COUNT]);

impl Drops {
    /// Adds to the number of a reason.
    #[inline]
    pub fn add(&self, reason: Dropped, more: u64) {
        self.0[reason as usize].add(more);
    }

    /// The reasons with their numbers, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Dropped, u64)> + '_ {
        Dropped::ALL.into_iter().zip(self.0.iter().map(Count::get))
    }
}

/// Numbers by position, in cache lines that hold nothing else.
#[derive(Debug)]
pub struct Counts {
    /// With [`Counts::MARGIN`] unused ones at both ends.
    padded: Box<[Count]>,
}

impl Counts {
    /// Two cache lines: a CPU that needs one also fetches its neighbour.
    const MARGIN: usize = 128 / size_of::<Count>();

    /// `len` zeros.
    fn new(len: usize) -> Self {
        let padded = Self::MARGIN + len + Self::MARGIN;
        Self {
            padded: (0..padded).map(|_| Count::default()).collect(),
        }
    }

    /// The number at a position below the length.
    #[inline]
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&Count> {
        self.padded.get(Self::MARGIN + at)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Count> {
        let len = self.padded.len() - 2 * Self::MARGIN;
        self.padded.iter().skip(Self::MARGIN).take(len)
    }
}

/// The counters of one output.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct OutputStats {
    /// Copies that the device took.
    pub sent: Count,
    /// Copies that did not leave.
    pub drops: Drops,
}

/// The counters of one worker. This struct and all that it owns are aligned so that two workers
/// never write one cache line, adjacent-line prefetch included.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerStats {
    /// Frames that arrived through the RX rings, or the packet socket.
    pub received: Count,
    /// Frames that matched a rule.
    pub matched: Count,
    /// Frames that matched no rule, by reason.
    pub drops: Drops,
    /// Matched frames, by position in the worker's list of flows.
    pub flows: Counts,
    /// Outputs of all flows, one flow after the other.
    pub outputs: Box<[OutputStats]>,
    /// Where the UMEM's chunks are; on io_uring the receive buffers.
    pub chunks: ChunkStats,
    /// Events of the io_uring ring; zeros on XDP.
    pub ring: RingStats,
}

/// Events of the io_uring ring. None of them loses a frame: meanwhile frames wait in the socket's
/// buffer, and the kernel counts those that find no room there.
#[derive(Debug, Default)]
pub struct RingStats {
    /// The receive ended because all buffers were in use (`ENOBUFS`).
    pub out_of_buffers: Count,
    /// The receive ended for another reason: the interface went down.
    pub interrupted: Count,
    /// The completion queue was full for a moment.
    pub overflows: Count,
    /// The kernel refused `io_uring_enter`. The entries stay in the submission queue.
    pub refusals: Count,
}

/// Where the chunks of a worker's UMEM are, or its receive buffers. At rest the three states add up
/// to the total.
#[derive(Debug, Default)]
pub struct ChunkStats {
    /// All chunks.
    pub total: Count,
    /// In the free list.
    pub free: Count,
    /// In FILL rings, or received and not read yet; on io_uring with the kernel, to receive into.
    pub fill: Count,
    /// In TX rings or with the kernel, until their completions are read.
    pub in_flight: Count,
}

impl WorkerStats {
    /// Zeros for `worker`, which has `chunks` chunks or receive buffers.
    #[must_use]
    pub fn of(plan: &Plan, worker: &WorkerPlan, chunks: u64) -> Arc<Self> {
        let flows = worker.flows.iter().filter_map(|&at| plan.flows.get(at));
        let outputs = flows.map(|flow| flow.outputs.len()).sum();
        let stats = Self::new(worker.flows.len(), outputs);
        stats.chunks.total.set(chunks);
        Arc::new(stats)
    }

    /// Zeros for a worker with `flows` flows and `outputs` outputs.
    #[must_use]
    pub fn new(flows: usize, outputs: usize) -> Self {
        Self {
            received: Count::default(),
            matched: Count::default(),
            drops: Drops::default(),
            flows: Counts::new(flows),
            outputs: (0..outputs).map(|_| OutputStats::default()).collect(),
            chunks: ChunkStats::default(),
            ring: RingStats::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use super::*;

    /// The pairs of cache lines that `stats` writes to.
    fn lines(stats: &WorkerStats) -> impl Iterator<Item = usize> {
        let own = (&raw const *stats).addr();
        let flows = stats.flows.iter().map(|count| (&raw const *count).addr());
        let outputs = stats.outputs.iter().flat_map(|output| {
            let start = (&raw const *output).addr();
            (start..start + size_of_val(output)).step_by(8)
        });
        let all = (own..own + size_of_val(stats)).step_by(8);
        all.chain(flows).chain(outputs).map(|address| address / 128)
    }

    #[test]
    fn two_workers_never_write_one_cache_line() {
        let mut owners = HashMap::new();
        let workers: Vec<_> = (0..200)
            .map(|number| Arc::new(WorkerStats::new(1 + number % 37, 1 + number % 5)))
            .collect();
        for (worker, stats) in workers.iter().enumerate() {
            for line in lines(stats) {
                let owner = *owners.entry(line).or_insert(worker);
                assert_eq!(owner, worker, "line {line:#x} of worker {worker}");
            }
        }
    }

    #[test]
    fn counts_by_position_are_as_many_as_asked_for() {
        for len in [0, 1, 15, 16, 17, 100] {
            let counts = Counts::new(len);
            for at in 0..len {
                counts.get(at).unwrap().add(at as u64 + 1);
            }
            let all: Vec<u64> = counts.iter().map(Count::get).collect();
            assert_eq!(all, (1..=len as u64).collect::<Vec<_>>());
        }
    }
}
