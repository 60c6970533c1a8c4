//! The PIDs of a transport stream: their continuity counters and PCRs.

use super::{MpegTsCells, packet::Packet};
use crate::datapath::stats::Count;

/// The most PIDs of a source.
const PIDS: usize = 64;
/// The longest interval between two PCRs of a PID (TR 101 290, 2.3a).
const PCR_NS: u64 = 100_000_000;

/// One PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pid {
    /// Its number.
    pub pid: u16,
    /// Its packets.
    pub packets: u64,
    /// Those of them whose continuity counter was not the expected one.
    pub continuity_errors: u64,
    /// The time between the arrivals of its last two PCRs, if it has so many.
    pub pcr_interval_ns: Option<u64>,
    /// The longest such time.
    pub longest_pcr_interval_ns: Option<u64>,
}

/// The PIDs of a source. A PID is in the first free place from the one that its number says, so
/// that most are found at the first look.
#[derive(Debug)]
pub struct Pids([Place; PIDS]);

#[derive(Debug, Default)]
struct Place {
    /// The PID and one, 0 while the place is free.
    key: Count,
    packets: Count,
    errors: Count,
    /// The last continuity counter and one, 0 before the first.
    continuity: Count,
    /// 1 if the last packet was a duplicate: another one may not be.
    is_duplicate: Count,
    pcrs: Count,
    last_pcr: Count,
    interval: Count,
    longest: Count,
}

impl Default for Pids {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Place::default()))
    }
}

impl Pids {
    /// A packet arrived that is neither stuffing nor damaged.
    #[inline]
    pub fn see(&self, packet: &Packet<'_>, now: u64, own: &MpegTsCells) {
        let Some(place) = self.find(packet.pid) else {
            own.pids_beyond.add(1);
            return;
        };
        place.packets.add(1);
        if !place.continues(packet) {
            place.errors.add(1);
            own.continuity_errors.add(1);
        }
        if packet.has_pcr {
            place.pcr(now, own);
        }
    }

    /// The place of a PID; a new one takes a free place.
    #[inline]
    fn find(&self, pid: u16) -> Option<&Place> {
        let key = u64::from(pid) + 1;
        let (before, from) = self.0.split_at_checked(usize::from(pid) % PIDS)?;
        let place = from
            .iter()
            .chain(before)
            .find(|place| [key, 0].contains(&place.key.get()))?;
        place.key.set(key);
        Some(place)
    }

    /// Forgets all.
    pub fn reset(&self) {
        for place in &self.0 {
            place.reset();
        }
    }

    /// All PIDs, in their order.
    pub fn read(&self) -> Vec<Pid> {
        let mut pids: Vec<_> = self.0.iter().filter_map(Place::read).collect();
        pids.sort_by_key(|pid| pid.pid);
        pids
    }
}

impl Place {
    /// Whether the continuity counter is what it must be.
    #[inline]
    fn continues(&self, packet: &Packet<'_>) -> bool {
        if !packet.has_payload && !packet.is_discontinuous {
            // It stays as it was.
            return true;
        }
        let last = self.continuity.get();
        let now = u64::from(packet.continuity) + 1;
        self.continuity.set(now);
        let was_duplicate = self.is_duplicate.get() == 1;
        self.is_duplicate.set(0);
        if last == 0 || packet.is_discontinuous {
            return true;
        }
        if now == last {
            self.is_duplicate.set(1);
            return !was_duplicate;
        }
        now == last % 16 + 1
    }

    fn pcr(&self, now: u64, own: &MpegTsCells) {
        if self.pcrs.get() != 0 {
            let interval = now.saturating_sub(self.last_pcr.get());
            self.interval.set(interval);
            self.longest.set(self.longest.get().max(interval));
            own.pcr_errors.add(u64::from(interval > PCR_NS));
        }
        self.pcrs.add(1);
        self.last_pcr.set(now);
    }

    fn reset(&self) {
        let Self {
            key,
            packets,
            errors,
            continuity,
            is_duplicate,
            pcrs,
            last_pcr,
            interval,
            longest,
        } = self;
        let flow = [key, packets, errors, continuity, is_duplicate];
        for count in flow.into_iter().chain([pcrs, last_pcr, interval, longest]) {
            count.set(0);
        }
    }

    fn read(&self) -> Option<Pid> {
        let pid = self.key.get().checked_sub(1)? as u16;
        let interval = |count: &Count| (self.pcrs.get() > 1).then(|| count.get());
        Some(Pid {
            pid,
            packets: self.packets.get(),
            continuity_errors: self.errors.get(),
            pcr_interval_ns: interval(&self.interval),
            longest_pcr_interval_ns: interval(&self.longest),
        })
    }
}
