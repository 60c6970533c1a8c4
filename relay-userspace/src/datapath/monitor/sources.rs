//! Who sends a flow: at most eight sources, each with the state of its stream.
//!
//! One version belongs to which source has which place, and to the sums of those that gave way: a
//! source that gives way is in one or the other, never in both or none. Each place has a version of
//! its own for all else, so that a reader need not catch a moment in which no source sends.

use std::net::IpAddr;

use relay_common::wire::ipv6;

use super::{
    Counts, Details, SourceHealth,
    counts::{Cells, CountCells},
    sequence::Tracker,
    version::Version,
};
use crate::datapath::stats::Count;

/// The most sources of a flow.
pub const SOURCES: usize = 8;
/// After so long a silence a source gives way to another one.
pub const SILENCE_NS: u64 = 60_000_000_000;

/// Where a datagram comes from: the address as it lies in memory, an IPv4 address in IPv6 form, and
/// the UDP port.
pub type Source = (ipv6::Address, u16);

/// The state of one source's stream, of one kind. Only the owning worker may call what changes it.
pub trait Stream: Default {
    /// What only this kind counts.
    type Own: Cells;

    /// What only this kind counts.
    fn own(&self) -> &Self::Own;
    /// Where it has its numbers; `None` of a kind without sequence numbers.
    fn tracker(&self) -> Option<&Tracker>;
    /// Forgets everything but the numbers, which [`Self::end`] has forgotten.
    fn reset(&self);
    /// What only this kind has.
    fn details(&self) -> Details;

    /// The source ends: what may still come is lost.
    fn end(&self, counts: &CountCells) {
        if let Some(tracker) = self.tracker() {
            tracker.end(counts);
        }
    }

    /// How many numbers have not come yet and still may.
    fn missing(&self) -> u64 {
        self.tracker().map_or(0, Tracker::missing)
    }
}

/// The sources of a flow. Aligned so that two workers never write one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Sources<S: Stream> {
    version: Version,
    places: [Place<S>; SOURCES],
    /// Sources that there were.
    joined: Count,
    /// Those of them that gave way, and their sums.
    ended: Count,
    counts: CountCells,
    own: S::Own,
    beyond: Count,
    /// The place of the last datagram's source, where the next one's most likely is.
    last: Count,
}

#[derive(Debug, Default)]
struct Place<S: Stream> {
    version: Version,
    /// Which source of the flow this is, from 1; 0 while the place is free.
    joined: Count,
    address: [Count; 2],
    port: Count,
    since: Count,
    last: Count,
    counts: CountCells,
    stream: S,
}

/// What [`Sources::read`] finds.
pub struct Found<S: Stream> {
    pub sources: Vec<SourceHealth>,
    pub ended: u64,
    pub counts: Counts,
    pub own: <S::Own as Cells>::Plain,
    pub beyond: u64,
}

impl<S: Stream> Sources<S> {
    /// A datagram arrived: `look` looks into it, and says whether it understood it. Only the owning
    /// worker may call this.
    #[inline]
    pub fn see(&self, source: Source, now: u64, look: impl FnOnce(&S, &CountCells) -> bool) {
        let Some(place) = self.find(source).or_else(|| self.admit(source, now)) else {
            self.beyond.add(1);
            return;
        };
        place.version.write(|| {
            place.last.set(now);
            place.counts.datagrams.add(1);
            if !look(&place.stream, &place.counts) {
                place.counts.not_understood.add(1);
            }
        });
    }

    #[inline]
    fn find(&self, source: Source) -> Option<&Place<S>> {
        let last = self.places.get(self.last.get() as usize);
        if let Some(place) = last
            && place.is_of(source)
        {
            return last;
        }
        let index = self.places.iter().position(|place| place.is_of(source))?;
        self.last.set(index as u64);
        self.places.get(index)
    }

    /// A place for a new source, if one is free or its source silent for long.
    #[cold]
    fn admit(&self, (address, port): Source, now: u64) -> Option<&Place<S>> {
        // A free one was never used.
        let place = self
            .places
            .iter()
            .min_by_key(|place| (place.joined.get() != 0, place.last.get()))?;
        let is_used = place.joined.get() != 0;
        if is_used && now.saturating_sub(place.last.get()) < SILENCE_NS {
            return None;
        }
        self.version.write(|| {
            if is_used {
                place.stream.end(&place.counts);
                self.ended.add(1);
                self.counts.add(&place.counts);
                self.own.add(place.stream.own());
            }
            self.joined.add(1);
            place.joined.set(self.joined.get());
            for (half, address) in place.address.iter().zip(address) {
                half.set(address);
            }
            place.port.set(u64::from(port));
            place.since.set(now);
            place.last.set(now);
            place.counts.reset();
            place.stream.reset();
        });
        Some(place)
    }

    /// All that is known, as it was at one moment for each source. `None` if the worker was in the
    /// middle of a datagram at every try.
    pub fn read(&self) -> Option<Found<S>> {
        self.version.read(|| {
            let mut sources = Vec::with_capacity(SOURCES);
            for place in &self.places {
                let joined = place.joined.get();
                if joined != 0 {
                    let health = place.version.read(|| place.health())?;
                    sources.push((joined, health));
                }
            }
            sources.sort_by_key(|&(joined, _)| joined);
            Some(Found {
                sources: sources.into_iter().map(|(_, health)| health).collect(),
                ended: self.ended.get(),
                counts: self.counts.get(),
                own: self.own.get(),
                beyond: self.beyond.get(),
            })
        })?
    }
}

impl<S: Stream> Place<S> {
    #[inline]
    fn is_of(&self, (address, port): Source) -> bool {
        self.joined.get() != 0
            && self.address.each_ref().map(Count::get) == address
            && self.port.get() == u64::from(port)
    }

    fn health(&self) -> SourceHealth {
        let address = ipv6::from_memory(self.address.each_ref().map(Count::get));
        SourceHealth {
            address: IpAddr::V6(address).to_canonical(),
            port: self.port.get() as u16,
            since_ns: self.since.get(),
            last_ns: self.last.get(),
            counts: self.counts.get(),
            missing: self.stream.missing(),
            details: self.stream.details(),
        }
    }
}
