//! Counters: written by one worker, read by any thread.
//!
//! A worker owns a [`WorkerStats`] and alone writes it, so adding is a plain load and store,
//! without a locked instruction. Every copy that does not leave is counted under exactly one
//! [`Dropped`].
//!
//! Flows and outputs have slots of their own, which stay the same however often the worker's table
//! is replaced ([`super::slots`]).

use std::{
    io,
    ops::Deref,
    slice,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    arena::{Arena, Zeros},
    expired::Expired,
    latency::Latencies,
    sampled::Sampled,
    tap::Taps,
};

/// The most flow slots of a worker: four times what the kernel's map of flows holds.
pub const MOST_FLOWS: usize = 4 * FLOWS;
/// The most output slots of a worker: 64 for each flow of the kernel's map.
pub const MOST_OUTPUTS: usize = 64 * FLOWS;
/// The flows of the kernel's map. Miri cannot reserve addresses, and has no memory for so many.
const FLOWS: usize = if cfg!(miri) {
    64
} else {
    relay_common::abi::MAX_FLOWS as usize
};

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
    /// `ttl = "auto"`, and the datagram arrived with 33; or `ttl = "decrement"`, and it arrived with
    /// 1 or 0.
    TtlExpired,
    /// The device refused it: it is down or gone, its peer is down, or it has no queue and its peer
    /// no room.
    DeviceRefused,
    /// Still waiting for the device when the worker ended, or when its TX socket was closed because
    /// no output used it any more; or of a frame that the worker had not got to when it ended.
    UnsentAtExit,
    /// The output's interface is missing, or cannot be used now.
    Pending,
    /// The kernel has no route to the output's unicast destination.
    NoRoute,
    /// The Ethernet address of the output's next hop is not known: nobody answers for it.
    NoNeighbour,
    /// The kernel matched the frame, and no rule of this worker does. Counted once per frame, not
    /// per output.
    NoRule,
    /// The kernel matched the frame, and it does not decode. Counted once per frame, not per
    /// output.
    Malformed,
}

impl Dropped {
    /// How many reasons there are.
    pub const COUNT: usize = 11;

    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::BufferExhaustion,
        Self::RingFull,
        Self::TooBig,
        Self::TtlExpired,
        Self::DeviceRefused,
        Self::UnsentAtExit,
        Self::Pending,
        Self::NoRoute,
        Self::NoNeighbour,
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
            Self::Pending => "pending",
            Self::NoRoute => "no_route",
            Self::NoNeighbour => "no_neighbour",
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

// SAFETY: a number.
unsafe impl Zeros for Count {}

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

/// The counters of one flow.
#[derive(Debug, Default)]
pub struct FlowStats {
    /// Frames that matched it.
    pub matched: Count,
    /// Bytes of UDP payload in them.
    pub bytes: Count,
}

// SAFETY: numbers.
unsafe impl Zeros for FlowStats {}

impl FlowStats {
    /// Sets all numbers to zero. Only while no worker counts here.
    pub(super) fn reset(&self) {
        self.matched.set(0);
        self.bytes.set(0);
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

// SAFETY: numbers.
unsafe impl Zeros for OutputStats {}

impl OutputStats {
    /// The numbers of copies that did not leave, in the order of [`Dropped::ALL`].
    #[must_use]
    pub fn drops_by_reason(&self) -> [u64; Dropped::COUNT] {
        self.drops.0.each_ref().map(Count::get)
    }

    /// Adds the numbers to sums, in the same order.
    pub fn add_to(&self, sent: &mut u64, drops: &mut [u64; Dropped::COUNT]) {
        *sent += self.sent.get();
        for (sum, count) in drops.iter_mut().zip(&self.drops.0) {
            *sum += count.get();
        }
    }

    /// Sets all numbers to zero. Only while no worker counts here.
    pub(super) fn reset(&self) {
        self.sent.set(0);
        for count in &self.drops.0 {
            count.set(0);
        }
    }
}

/// The counters of all outputs of a worker, and the taps that see what becomes of their copies:
/// whoever counts a copy may have to show it.
#[derive(Debug)]
pub struct Outputs {
    counters: Arena<OutputStats>,
    taps: Taps,
}

impl Outputs {
    /// Zeros for `len` outputs; there may be more later.
    ///
    /// # Errors
    ///
    /// No memory, or more than [`MOST_OUTPUTS`].
    pub fn new(len: usize) -> io::Result<Self> {
        Ok(Self {
            counters: Arena::new(len, MOST_OUTPUTS)?,
            taps: Taps::default(),
        })
    }

    /// The taps.
    #[inline]
    pub fn taps(&self) -> &Taps {
        &self.taps
    }
}

impl<'a> IntoIterator for &'a Outputs {
    type Item = &'a OutputStats;
    type IntoIter = slice::Iter<'a, OutputStats>;

    fn into_iter(self) -> Self::IntoIter {
        self.counters.iter()
    }
}

impl Deref for Outputs {
    type Target = Arena<OutputStats>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.counters
    }
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
    /// Flows, by their slots. A slot that is not in use has zeros.
    pub flows: Arena<FlowStats>,
    /// Frames of flows with `local` that the kernel did not take back, by the flow's slot.
    pub local_failed: Arena<Count>,
    /// Outputs of all flows, by their slots. A slot that is not in use has zeros.
    pub outputs: Outputs,
    /// Where the UMEM's chunks are; on io_uring the receive buffers.
    pub chunks: ChunkStats,
    /// Events of the io_uring ring; zeros on XDP.
    pub ring: RingStats,
    /// How far it has come.
    pub progress: Progress,
    /// The last datagrams whose TTL was used up.
    pub expired: Expired,
    /// Who sent some of the last datagrams.
    pub sampled: Sampled,
    /// How long some of the last frames were in the relay.
    pub latencies: Latencies,
}

/// How far a worker has come, so that control knows when what had arrived is dealt with.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rounds over all inputs.
    pub rounds: Count,
    /// Those of them that found nothing on any input.
    pub empty_rounds: Count,
    /// On io_uring what it has taken from its RX socket; a GSO packet is one. Zero on XDP.
    pub arrivals: Count,
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
    /// Header slots that are not free, beside the chunks.
    pub header_slots: Count,
}

impl WorkerStats {
    /// Zeros for a worker with `flows` flow slots and `outputs` output slots; both may grow.
    ///
    /// # Errors
    ///
    /// No memory, or more slots than [`MOST_FLOWS`] and [`MOST_OUTPUTS`].
    pub fn new(flows: usize, outputs: usize) -> io::Result<Self> {
        Ok(Self {
            received: Count::default(),
            matched: Count::default(),
            drops: Drops::default(),
            flows: Arena::new(flows, MOST_FLOWS)?,
            local_failed: Arena::new(flows, MOST_FLOWS)?,
            outputs: Outputs::new(outputs)?,
            chunks: ChunkStats::default(),
            ring: RingStats::default(),
            progress: Progress::default(),
            expired: Expired::default(),
            sampled: Sampled::default(),
            latencies: Latencies::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use super::*;

    /// The pairs of cache lines that `stats` writes to.
    fn lines(stats: &WorkerStats) -> impl Iterator<Item = usize> {
        let own = (&raw const *stats).addr();
        let flows = stats.flows.iter().flat_map(|flow| {
            let start = (&raw const *flow).addr();
            (start..start + size_of_val(flow)).step_by(8)
        });
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
            .map(|number| Arc::new(WorkerStats::new(1 + number % 37, 1 + number % 5).unwrap()))
            .collect();
        for (worker, stats) in workers.iter().enumerate() {
            for line in lines(stats) {
                let owner = *owners.entry(line).or_insert(worker);
                assert_eq!(owner, worker, "line {line:#x} of worker {worker}");
            }
        }
    }
}
