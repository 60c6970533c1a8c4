//! The times of an RTP stream: its clock, and the jitter of its arrivals.

use crate::datapath::stats::Count;

const SECOND_NS: u64 = 1_000_000_000;
/// How much of a stream tells its clock.
const ENOUGH_NS: u64 = 10 * SECOND_NS;
/// The clocks that streams with dynamic payload types have.
const CLOCKS: [u32; 12] = [
    8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 90_000, 96_000, 192_000,
];

/// The clock of a static payload type (RFC 3551, tables 4 and 5).
const fn static_clock(payload_type: u8) -> Option<u32> {
    Some(match payload_type {
        0 | 3..=5 | 7..=9 | 12 | 13 | 15 | 18 => 8000,
        6 => 16_000,
        10 | 11 => 44_100,
        14 | 25 | 26 | 28 | 31..=34 => 90_000,
        16 => 11_025,
        17 => 22_050,
        _ => return None,
    })
}

/// The usual clock that is within one per cent of how far timestamps went in a time.
fn nearest_clock(advance: u64, elapsed_ns: u64) -> Option<u32> {
    let units = u128::from(advance) * u128::from(SECOND_NS);
    let rate = u64::try_from(units.checked_div(u128::from(elapsed_ns))?).ok()?;
    let clock = CLOCKS
        .into_iter()
        .min_by_key(|&clock| rate.abs_diff(u64::from(clock)))?;
    let difference = rate.abs_diff(u64::from(clock));
    (difference <= u64::from(clock) / 100).then_some(clock)
}

/// A time in units of a clock; like timestamps, it begins at 0 again.
#[inline]
fn units(now: u64, clock: u64) -> u32 {
    let (seconds, rest) = (now / SECOND_NS, now % SECOND_NS);
    let rest = rest.wrapping_mul(clock) / SECOND_NS;
    seconds.wrapping_mul(clock).wrapping_add(rest) as u32
}

/// What is known of a stream's times.
#[derive(Debug, Default)]
pub struct Timing {
    /// 0 while it is not known.
    clock: Count,
    /// 1 if there is a packet that the next one is compared with.
    is_running: Count,
    /// Sixteen times the jitter, in units of the clock (RFC 3550, A.8).
    jitter: Count,
    /// Arrival less timestamp of the last packet, in units of the clock.
    transit: Count,
    /// While the clock is not known: since when, how far timestamps went, and the last one.
    since: Count,
    advance: Count,
    timestamp: Count,
}

impl Timing {
    /// A stream of this payload type begins.
    #[cold]
    pub fn begin(&self, payload_type: u8) {
        let clock = static_clock(payload_type).unwrap_or(0);
        self.clock.set(u64::from(clock));
        self.jitter.set(0);
        self.interrupt();
    }

    /// The next packet is not to be compared with the last one.
    pub fn interrupt(&self) {
        self.is_running.set(0);
    }

    /// A packet of the stream arrived.
    #[inline]
    pub fn see(&self, timestamp: u32, now: u64) {
        let clock = self.clock.get();
        let was_running = self.is_running.get() == 1;
        self.is_running.set(1);
        if clock == 0 {
            self.estimate(was_running, timestamp, now);
            return;
        }
        let transit = units(now, clock).wrapping_sub(timestamp);
        if was_running {
            let last = self.transit.get() as u32;
            let difference = transit.wrapping_sub(last).cast_signed().unsigned_abs();
            let jitter = self.jitter.get();
            // As in RFC 3550, A.8: the mean of 16, rounded.
            let less = jitter.wrapping_add(8) >> 4;
            let more = jitter.wrapping_add(u64::from(difference));
            self.jitter.set(more.wrapping_sub(less));
        }
        self.transit.set(u64::from(transit));
    }

    /// A packet of a stream whose clock is not known.
    fn estimate(&self, was_running: bool, timestamp: u32, now: u64) {
        if !was_running {
            self.since.set(now);
            self.advance.set(0);
            self.timestamp.set(u64::from(timestamp));
            return;
        }
        // A packet that comes late goes back, and the next one forward again.
        let step = timestamp.wrapping_sub(self.timestamp.get() as u32);
        self.advance
            .add(i64::from(step.cast_signed()).cast_unsigned());
        self.timestamp.set(u64::from(timestamp));
        let elapsed = now.saturating_sub(self.since.get());
        if elapsed < ENOUGH_NS {
            return;
        }
        // If it is none of them, the next ten seconds may tell.
        self.since.set(now);
        if let Some(clock) = nearest_clock(self.advance.get(), elapsed) {
            let transit = units(now, u64::from(clock)).wrapping_sub(timestamp);
            self.clock.set(u64::from(clock));
            self.transit.set(u64::from(transit));
        }
        self.advance.set(0);
    }

    /// The clock, if it is known.
    pub fn clock(&self) -> Option<u32> {
        match self.clock.get() as u32 {
            0 => None,
            clock => Some(clock),
        }
    }

    /// The jitter, if the clock is known.
    pub fn jitter_ns(&self) -> Option<u64> {
        let clock = u128::from(self.clock()?);
        let units = u128::from(self.jitter.get() >> 4);
        let ns = (units * u128::from(SECOND_NS)).checked_div(clock)?;
        u64::try_from(ns).ok()
    }
}
