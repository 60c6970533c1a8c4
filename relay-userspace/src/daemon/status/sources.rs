//! Who sends the datagrams of each rule, gathered from what the workers sample.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::observe::snapshot::SeenSource;

/// The most sources of a rule that are kept.
const MOST: usize = 8;
/// A source that was not seen for so long gives way to another one.
const OLD: Duration = Duration::from_secs(60);

/// The sources of all rules, by name.
#[derive(Debug, Default)]
pub struct Sources(HashMap<String, Vec<Known>>);

/// A source.
#[derive(Debug, Clone, Copy)]
struct Known {
    address: IpAddr,
    port: u16,
    first: Instant,
    last: Instant,
}

impl Sources {
    /// A datagram of a rule came from there. If there are many sources already, and all of them
    /// were seen of late, it is not kept.
    pub fn see(&mut self, rule: &str, address: IpAddr, port: u16, now: Instant) {
        if !self.0.contains_key(rule) {
            self.0.insert(rule.to_owned(), Vec::new());
        }
        let Some(known) = self.0.get_mut(rule) else {
            return;
        };
        let same = |one: &&mut Known| (one.address, one.port) == (address, port);
        if let Some(one) = known.iter_mut().find(same) {
            one.last = now;
            return;
        }
        let new = Known {
            address,
            port,
            first: now,
            last: now,
        };
        if known.len() < MOST {
            known.push(new);
            return;
        }
        let oldest = known.iter_mut().min_by_key(|one| one.last);
        if let Some(oldest) = oldest
            && now.saturating_duration_since(oldest.last) >= OLD
        {
            *oldest = new;
        }
    }

    /// Forgets the sources of rules that are gone.
    pub fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|rule, _| wanted(rule));
    }

    /// The sources of a rule, in the order in which they were first seen.
    pub fn of(&self, rule: &str, now: Instant) -> Vec<SeenSource> {
        let known = self.0.get(rule).map(Vec::as_slice).unwrap_or_default();
        let ago = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let mut sources: Vec<SeenSource> = known
            .iter()
            .map(|one| SeenSource {
                address: one.address,
                port: one.port,
                first_seconds_ago: ago(one.first),
                last_seconds_ago: ago(one.last),
            })
            .collect();
        sources.sort_by(|one, other| other.first_seconds_ago.total_cmp(&one.first_seconds_ago));
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_eight_are_kept_until_one_was_not_seen_for_a_minute() {
        let mut sources = Sources::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        for last in 1..=9 {
            sources.see("feed", address(last), 5000, at(u64::from(last)));
        }
        sources.see("feed", address(1), 5000, at(20));
        sources.see("other", address(77), 1, at(20));
        let of = |sources: &Sources, now| -> Vec<IpAddr> {
            let sources = sources.of("feed", now);
            sources.iter().map(|source| source.address).collect()
        };
        let first_eight: Vec<IpAddr> = (1..=8).map(address).collect();
        assert_eq!(of(&sources, at(20)), first_eight);
        let [first, ..] = &sources.of("feed", at(21))[..] else {
            panic!("there are eight");
        };
        assert_eq!(
            (first.first_seconds_ago, first.last_seconds_ago),
            (20.0, 1.0)
        );
        // The second one was last seen at 2.
        sources.see("feed", address(9), 5000, at(61));
        assert_eq!(of(&sources, at(61)), first_eight);
        sources.see("feed", address(9), 5000, at(62));
        let expected: Vec<IpAddr> = [1, 3, 4, 5, 6, 7, 8, 9].map(address).into();
        assert_eq!(of(&sources, at(62)), expected);
        // Another port is another source.
        sources.see("feed", address(9), 5001, at(63));
        assert_eq!(of(&sources, at(63)).len(), 8);
        sources.keep(|rule| rule == "other");
        assert!(sources.of("feed", at(63)).is_empty());
        assert_eq!(sources.of("other", at(63)).len(), 1);
    }
}
