//! Who sends, seen by a few datagrams: the sender of one datagram of a batch now and then, for
//! control to gather.
//!
//! A busy worker looks at one datagram of every sixteenth batch, and one that has time to spare at
//! one of each batch. So a sender is known soon, if it is not one of many that send much more; and
//! no datagram costs anything but those that are looked at.

use std::{
    net::IpAddr,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use relay_common::wire::ipv6;

use super::stats::Count;

/// How many samples are kept: more than come in a second while there is time to spare matter
/// little, because the newest are kept.
const PLACES: usize = 64;
/// A busy worker samples one batch of so many.
const EVERY: u64 = 16;

/// The last samples of a worker.
#[derive(Debug)]
pub struct Sampled {
    /// Batches that had frames.
    batches: Count,
    /// How often the worker had found nothing when it last took a sample.
    idle: Count,
    /// Samples so far; the next one's place.
    taken: AtomicU64,
    places: [Place; PLACES],
}

/// One sample. The number is 0 while the worker writes.
#[derive(Debug, Default)]
struct Place {
    number: AtomicU64,
    /// The flow's slot and the port.
    flow_and_port: AtomicU64,
    source: [AtomicU64; 2],
}

/// The sender of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The slot of the datagram's flow.
    pub flow: u32,
    /// The source address.
    pub address: IpAddr,
    /// The UDP source port.
    pub port: u16,
}

impl Default for Sampled {
    fn default() -> Self {
        Self {
            batches: Count::default(),
            idle: Count::default(),
            taken: AtomicU64::new(0),
            places: std::array::from_fn(|_| Place::default()),
        }
    }
}

impl Sampled {
    /// Which of the `frames` of a batch, at least one, to take a sample of, if it is time;
    /// `empty_rounds` is how often the worker has found nothing. Only the owning worker may call
    /// this.
    #[inline]
    pub fn choose(&self, frames: usize, empty_rounds: u64) -> Option<usize> {
        self.batches.add(1);
        let batches = self.batches.get();
        if !batches.is_multiple_of(EVERY) && self.idle.get() == empty_rounds {
            return None;
        }
        self.idle.set(empty_rounds);
        // Any of them, in no order that senders could have.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = batches.wrapping_mul(ODD);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(ODD) >> 32;
        Some(mixed as usize % frames.max(1))
    }

    /// Takes a sample. Only the owning worker may call this.
    pub fn note(&self, flow: u32, address: ipv6::Address, port: u16) {
        let taken = self.taken.load(Relaxed);
        let Some(place) = self.places.get(taken as usize % PLACES) else {
            return;
        };
        place.number.store(0, Relaxed);
        fence(Release);
        let flow_and_port = u64::from(flow) << 16 | u64::from(port);
        place.flow_and_port.store(flow_and_port, Relaxed);
        for (half, source) in place.source.iter().zip(address) {
            half.store(source, Relaxed);
        }
        place.number.store(taken + 1, Release);
        self.taken.store(taken + 1, Release);
    }

    /// The samples behind the first `known`, as far as they are still there, and how many there
    /// were in all. What is being written just now is left out.
    pub fn since(&self, known: u64) -> (impl Iterator<Item = Sample> + '_, u64) {
        let taken = self.taken.load(Acquire);
        let first = known.max(taken.saturating_sub(PLACES as u64));
        let samples = (first..taken).filter_map(|number| {
            let place = self.places.get(number as usize % PLACES)?;
            place.read(number + 1)
        });
        (samples, taken)
    }
}

impl Place {
    fn read(&self, number: u64) -> Option<Sample> {
        if self.number.load(Acquire) != number {
            return None;
        }
        let flow_and_port = self.flow_and_port.load(Relaxed);
        let source = self.source.each_ref().map(|half| half.load(Relaxed));
        fence(Acquire);
        if self.number.load(Relaxed) != number {
            return None;
        }
        Some(Sample {
            flow: (flow_and_port >> 16) as u32,
            address: ipv6::from_memory(source).to_canonical(),
            port: flow_and_port as u16,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicBool, AtomicUsize},
    };

    use relay_common::wire::ipv4;

    use super::*;

    fn address(last: u8) -> ipv6::Address {
        ipv6::mapped(ipv4::Address::from_ne_bytes([10, 0, 0, last]))
    }

    fn all(sampled: &Sampled, known: u64) -> (Vec<(u32, u16)>, u64) {
        let (samples, taken) = sampled.since(known);
        let samples = samples.map(|sample| {
            let last = sample.flow as u8;
            assert_eq!(sample.address, Ipv4Addr::new(10, 0, 0, last));
            (sample.flow, sample.port)
        });
        (samples.collect(), taken)
    }

    #[test]
    fn samples_are_read_once_each_and_the_newest_of_many_are_kept() {
        let sampled = Sampled::default();
        assert_eq!(all(&sampled, 0), (vec![], 0));
        sampled.note(7, address(7), 40_000);
        sampled.note(9, address(9), 65_535);
        assert_eq!(all(&sampled, 0), (vec![(7, 40_000), (9, 65_535)], 2));
        assert_eq!(all(&sampled, 2), (vec![], 2));
        for number in 0..200_u16 {
            sampled.note(number.into(), address(number as u8), number);
        }
        let (samples, taken) = all(&sampled, 2);
        let expected: Vec<_> = (136..200).map(|number| (number, number as u16)).collect();
        assert_eq!((samples, taken), (expected, 202));
    }

    #[test]
    fn a_worker_with_time_to_spare_samples_each_batch_and_a_busy_one_every_sixteenth() {
        let sampled = Sampled::default();
        let spare = (1..100).filter(|&empty| sampled.choose(64, empty).is_some());
        assert_eq!(spare.count(), 99);
        let mut chosen = Vec::new();
        for _ in 0..1600 {
            chosen.extend(sampled.choose(64, 99));
        }
        assert_eq!(chosen.len(), 100);
        chosen.sort_unstable();
        chosen.dedup();
        assert!(chosen.len() > 40, "of all places: {chosen:?}");
        assert_eq!(sampled.choose(1, 100), Some(0));
    }

    #[test]
    fn what_is_read_was_written_together() {
        const TIMES: u32 = if cfg!(miri) { 200 } else { 200_000 };
        let sampled = Sampled::default();
        let (over, read) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..TIMES {
                    let last = number as u8;
                    sampled.note(last.into(), address(last), last.into());
                    // Some of it is read in between, however late the other thread begins.
                    while number == TIMES / 2 && read.load(Relaxed) == 0 {
                        std::thread::yield_now();
                    }
                }
                over.store(true, Relaxed);
            });
            let mut known = 0;
            while !over.load(Relaxed) {
                let (samples, taken) = all(&sampled, known);
                assert!(samples.iter().all(|(flow, port)| *flow == u32::from(*port)));
                read.fetch_add(samples.len(), Relaxed);
                known = taken;
            }
        });
    }
}
