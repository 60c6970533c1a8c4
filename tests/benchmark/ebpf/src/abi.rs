//! What the kernel programs and user space share: the stamp in every payload, and the values of the
//! maps.
//!
//! Both sides compile this one file. Numbers are in the byte order of the machine, because frames
//! never leave it, except where the field says otherwise.

/// Ethernet, IPv4 without options, UDP.
pub use relay_common::wire::IPV4_HEADERS_LEN as HEADERS_LEN;
use relay_common::wire::{ETHERNET_LEN, UDP_LEN, ipv6, vlan::TAG_LEN};

/// The headers as 16-bit words, the unit of Internet checksums.
pub const HEADER_WORDS: usize = HEADERS_LEN / 2;
/// The same with a tag.
pub const TAGGED_HEADER_WORDS: usize = (HEADERS_LEN + TAG_LEN) / 2;
/// Ethernet, IPv6, UDP.
pub const IPV6_HEADERS_LEN: usize = ETHERNET_LEN + ipv6::HEADER_LEN + UDP_LEN;
/// The same as words: the longest headers.
pub const IPV6_HEADER_WORDS: usize = IPV6_HEADERS_LEN / 2;
/// The bytes of a [`Stamp`], and so the smallest payload.
pub const STAMP_LEN: usize = 24;
/// The words of a stamp. Headers and stamp are all that the generator writes into a frame.
pub const STAMP_WORDS: usize = STAMP_LEN / 2;
/// The first field of every stamp: RTP version 2, payload type 96.
pub const MAGIC: u16 = u16::from_ne_bytes([0x80, 96]);

/// The most flows of one run of the generator.
pub const MAX_FLOWS: u32 = 1024;
/// The most (flow, output, sender) combinations that a sink counts.
pub const MAX_SLOTS: u32 = 16384;
/// The most segments of one GSO packet (`UDP_MAX_SEGMENTS`).
pub const MAX_SEGMENTS: u32 = 128;

/// How many bits of [`Pace::interval`] are a fraction of a nanosecond.
pub const INTERVAL_FRACTION_BITS: u32 = 16;

/// The first bytes of every payload: an RTP header (RFC 3550), so that a relay can monitor the flow,
/// and what the sinks count by. RTP's timestamp is the lower half of the number, its SSRC the flow.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamp {
    /// [`MAGIC`].
    pub magic: u16,
    /// The lowest bits of the number, in network order.
    pub rtp_sequence: u16,
    /// The lower half of the frame's number in its flow, from 0.
    pub low: u32,
    /// The flow that the frame belongs to.
    pub flow: u32,
    /// The upper half of the number.
    pub high: u32,
    /// When it was made, in nanoseconds of the monotonic clock.
    pub sent_ns: u64,
}

impl Stamp {
    /// The frame's number.
    #[inline(always)]
    pub const fn sequence(&self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    /// Whether it is one.
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.magic == MAGIC && self.rtp_sequence == (self.low as u16).to_be()
    }
}

const _: () = assert!(size_of::<Stamp>() == STAMP_LEN);

/// One run of the generator. User space writes it before the run and reads it after.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// The index of the interface that frames leave through.
    pub interface: u32,
    /// The flows, taken in turn.
    pub flows: u32,
    /// The frames that leave together; the program reads the clock before each such batch.
    pub batch: u32,
    /// Frames of the current batch that are made.
    pub in_batch: u32,
    /// From one frame to the next, in nanoseconds with [`INTERVAL_FRACTION_BITS`].
    pub interval: u64,
    /// Frames made.
    pub count: u64,
    /// The sequence number of the next frame.
    pub sequence: u64,
    /// When the first frame was due; later if the generator fell behind.
    pub start_ns: u64,
    /// When the first frame was made.
    pub first_ns: u64,
    /// When the last frame was made.
    pub last_ns: u64,
    /// The flow of the next frame.
    pub flow: u32,
    /// Padding.
    pub padding: u32,
}

/// The part that all frames of a flow share.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// The headers with IPv4 identification and all checksums 0; behind them zeros.
    pub headers: [u16; IPV6_HEADER_WORDS],
    /// Padding.
    pub padding: u16,
    /// The sum of the IPv4 header's words.
    pub ip_sum: u32,
    /// The sum of the words of pseudo-header, UDP header and payload, with sequence and time 0.
    pub udp_sum: u32,
}

/// Where a copy is expected.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotKey {
    /// The index of the sink's interface.
    pub interface: u32,
    /// The IPv4 destination, or the end of the IPv6 one, in network order.
    pub group: [u8; 4],
    /// The UDP destination port, in network order.
    pub port: [u8; 2],
    /// The first bytes of an IPv6 destination, in network order; the bytes between these and
    /// [`Self::group`] are 0. 0 over IPv4.
    pub scope: [u8; 2],
}

/// What is expected at such a place.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// The place of its first [`SlotState`].
    pub index: u32,
    /// The first flow.
    pub flow: u32,
    /// Bytes of payload of each datagram.
    pub payload: u32,
    /// Flows that arrive here: this one and those after it, one per sender. Each has a
    /// [`SlotState`] of its own, one behind the other.
    pub senders: u32,
}

/// What arrived. Not atomic: one CPU sends one output's frames, and the sink runs on that CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotState {
    /// The sequence number that is next.
    pub next: u64,
    /// Datagrams with the right stamp, duplicates among them.
    pub received: u64,
    /// Sequence numbers that were skipped.
    pub missing: u64,
    /// Datagrams with a number below the one that was next: out of order, or duplicates.
    pub late: u64,
    /// Datagrams with another length, flow or stamp.
    pub bad: u64,
}

/// The bits of a latency that its bucket keeps, after the first one: errors are below 1/32.
const LATENCY_BITS: u32 = 5;
const LINEAR: u64 = 1 << LATENCY_BITS;
/// Latencies of 2^40 ns (18 minutes) and more go into the last bucket.
pub const BUCKETS: usize = (LINEAR as usize) * (40 - LATENCY_BITS as usize + 1);

/// How many datagrams had which latency.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Latencies {
    /// By [`bucket`].
    pub buckets: [u64; BUCKETS],
}

/// The bucket of a latency: exact below 32 ns, then 32 to every power of two.
#[inline(always)]
pub fn bucket(ns: u64) -> usize {
    if ns < LINEAR {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros() - LATENCY_BITS;
    let within = (ns >> exponent) - LINEAR;
    let index = LINEAR * (u64::from(exponent) + 1) + within;
    (index as usize).min(BUCKETS - 1)
}
