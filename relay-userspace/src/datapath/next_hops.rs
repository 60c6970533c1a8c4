//! The Ethernet addresses of next hops: written by control and the watcher, read by workers.
//!
//! A changed address swaps no table. A worker compares one number per round, the generation of all
//! next hops; only after a change it reads those of its outputs again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::host::neighbours::{Neighbour, OnLink};

/// One next hop.
#[derive(Debug, Default)]
pub struct NextHop(AtomicU64);

/// What is known of a next hop at one moment, as one number: the Ethernet address, and the two
/// flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known(u64);

impl Known {
    const RESOLVED: u64 = 1 << 48;
    const FORGOTTEN: u64 = 1 << 49;

    /// The Ethernet address that copies are sent to; `None` if they are not.
    #[must_use]
    pub fn mac(self) -> Option<[u8; 6]> {
        let [_, flags, mac @ ..] = self.0.to_be_bytes();
        (u64::from(flags) << 48 & Self::RESOLVED != 0).then_some(mac)
    }

    /// The kernel does not know the host any more, or has not found it.
    #[must_use]
    pub fn needs_resolution(self) -> bool {
        self.0 & Self::RESOLVED == 0 || self.0 & Self::FORGOTTEN != 0
    }

    /// What it becomes when the kernel says `neighbour`; `None` if it has forgotten it.
    ///
    /// What is forgotten, or resolved anew, keeps its address until the kernel has asked in vain:
    /// so a table that somebody empties costs no copy, as long as the hosts are where they were.
    fn then(self, neighbour: Option<&Neighbour>) -> Self {
        let Some(neighbour) = neighbour else {
            return Self(self.0 | Self::FORGOTTEN);
        };
        match neighbour.usable_mac() {
            Some([a, b, c, d, e, f]) => {
                Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]) | Self::RESOLVED)
            }
            None if neighbour.has_failed() => Self(0),
            None => Self(self.0 & !Self::FORGOTTEN),
        }
    }
}

impl NextHop {
    /// The Ethernet address that copies are sent to; `None` if they are not.
    #[inline]
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.known().mac()
    }

    fn known(&self) -> Known {
        Known(self.0.load(Ordering::Relaxed))
    }
}

/// All next hops of a relay.
#[derive(Debug, Default)]
pub struct NextHops {
    /// Goes up after every change of an address.
    generation: AtomicU64,
    all: Mutex<BTreeMap<OnLink, Arc<NextHop>>>,
}

impl NextHops {
    /// How many changes there were.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The next hop `host`; one that is new is not resolved.
    #[must_use]
    pub fn get(&self, host: OnLink) -> Arc<NextHop> {
        Arc::clone(self.lock().entry(host).or_default())
    }

    /// What is known of `host`; `None` if it is no next hop.
    #[must_use]
    pub fn known(&self, host: OnLink) -> Option<Known> {
        self.lock().get(&host).map(|hop| hop.known())
    }

    /// Takes over the kernel's news of a neighbour; `None` if it has forgotten it. Returns what was
    /// known and what is; `None` if it is no next hop.
    pub fn hear(&self, host: OnLink, news: Option<&Neighbour>) -> Option<[Known; 2]> {
        let all = self.lock();
        let hop = all.get(&host)?;
        let before = hop.known();
        self.change(hop, before, before.then(news));
        Some([before, hop.known()])
    }

    /// Takes over the kernel's answer about a neighbour, unless there was news since it was as
    /// `before`: the answer may be older.
    pub fn answer(&self, host: OnLink, before: Known, answer: Option<&Neighbour>) {
        if let Some(hop) = self.lock().get(&host)
            && hop.known() == before
        {
            self.change(hop, before, before.then(answer));
        }
    }

    /// Only with the lock, so that there is one writer at a time.
    fn change(&self, hop: &NextHop, before: Known, now: Known) {
        hop.0.store(now.0, Ordering::Relaxed);
        if now.mac() != before.mac() {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Forgets all next hops but those that `stays` holds for.
    pub fn retain(&self, stays: impl Fn(&OnLink) -> bool) {
        self.lock().retain(|host, _| stays(host));
    }

    /// All of them, with what is known of each.
    #[must_use]
    pub fn all(&self) -> Vec<(OnLink, Known)> {
        let all = self.lock();
        all.iter().map(|(host, hop)| (*host, hop.known())).collect()
    }

    /// A thread that panicked with the lock left the map whole: every change is one step.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OnLink, Arc<NextHop>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: OnLink = OnLink {
        interface: 7,
        address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)),
    };
    const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 9], [0xff; 6]];

    #[test]
    fn a_next_hop_keeps_its_address_until_the_kernel_has_asked_in_vain() {
        let hops = NextHops::default();
        let reachable = |mac| Neighbour::fixture(0x02, Some(mac));
        let (incomplete, failed) = (
            Neighbour::fixture(0x01, None),
            Neighbour::fixture(0x20, Some(MACS[0])),
        );
        assert_eq!(hops.hear(HOST, Some(&reachable(MACS[0]))), None);
        let hop = hops.get(HOST);
        assert_eq!((hop.mac(), hops.generation()), (None, 0));
        for (news, mac, generation, needs_resolution) in [
            (Some(incomplete), None, 0, true),
            (Some(reachable(MACS[0])), Some(MACS[0]), 1, false),
            (Some(reachable(MACS[0])), Some(MACS[0]), 1, false),
            (Some(reachable(MACS[1])), Some(MACS[1]), 2, false),
            (None, Some(MACS[1]), 2, true),
            (Some(incomplete), Some(MACS[1]), 2, false),
            (Some(failed), None, 3, true),
            (None, None, 3, true),
            (Some(reachable(MACS[0])), Some(MACS[0]), 4, false),
        ] {
            let [_, known] = hops.hear(HOST, news.as_ref()).unwrap();
            assert_eq!(known.needs_resolution(), needs_resolution, "{news:?}");
            assert_eq!(
                (hop.mac(), hops.generation()),
                (mac, generation),
                "{news:?}"
            );
        }
    }

    #[test]
    fn an_answer_that_is_older_than_news_is_left_aside() {
        let hops = NextHops::default();
        let hop = hops.get(HOST);
        let before = hops.known(HOST).unwrap();
        let neighbour = |mac| Neighbour::fixture(0x02, Some(mac));
        hops.hear(HOST, Some(&neighbour(MACS[0])));
        hops.answer(HOST, before, Some(&neighbour(MACS[1])));
        assert_eq!(hop.mac(), Some(MACS[0]));
        hops.answer(HOST, hops.known(HOST).unwrap(), Some(&neighbour(MACS[1])));
        assert_eq!(hop.mac(), Some(MACS[1]));
    }
}
