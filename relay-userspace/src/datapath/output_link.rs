//! The state of a link that copies leave through: written by the watcher, read by one worker.
//!
//! A worker reads one number per round and compares it with the one that it read before, so it
//! never asks the kernel about a device. Until the watcher hears of a change ([`crate::daemon`]),
//! the worker acts on the old state.

mod gso_limits;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use self::gso_limits::SharedLimits;

use super::next_hops::NextHops;
use crate::{host::GsoLimits, plan};

/// What a worker must know about a device before it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The largest IP packet in bytes.
    pub mtu: u32,
    /// It takes GSO packets whole (`tx-udp-segmentation`); otherwise the kernel cuts them right
    /// before the driver.
    pub takes_gso: bool,
    /// It takes those with one VLAN tag as well. The kernel does not tell (`vlan_features`).
    pub takes_tagged_gso: bool,
    /// It has no queueing discipline: a packet that the kernel gives it is sent or dropped at once.
    pub queueless: bool,
    /// It is up and has a carrier, as far as the kernel has noticed (`IFF_RUNNING`).
    pub carries: bool,
}

impl State {
    const TAKES_GSO: u64 = 1 << 32;
    const QUEUELESS: u64 = 1 << 33;
    const CARRIES: u64 = 1 << 34;
    const TAKES_TAGGED_GSO: u64 = 1 << 35;

    /// The state that the plan has.
    #[must_use]
    pub fn planned(interface: &plan::Interface) -> Self {
        Self {
            mtu: interface.mtu,
            takes_gso: interface.segments_udp,
            takes_tagged_gso: takes_tagged_gso(&interface.driver),
            queueless: interface.queueless,
            carries: true,
        }
    }

    /// Whether GSO packets with as many VLAN `tags` can leave. Behind a queueing discipline the
    /// kernel would cut them apart without reporting what became of the parts; in front of a device
    /// that takes GSO packets, but not with these tags, it would drop them (`__dev_direct_xmit` in
    /// net/core/dev.c). No device takes them with two (`vlan_features_check` in
    /// include/linux/if_vlan.h).
    #[must_use]
    pub fn joins(self, tags: usize) -> bool {
        match tags {
            _ if self.is_cut() => true,
            0 => self.takes_gso,
            1 => self.takes_gso && self.takes_tagged_gso,
            _ => false,
        }
    }

    /// Whether the kernel cuts GSO packets apart in front of the device.
    #[must_use]
    pub fn is_cut(self) -> bool {
        self.queueless && !self.takes_gso
    }

    fn to_bits(self) -> u64 {
        let flag = |is: bool, bit: u64| if is { bit } else { 0 };
        u64::from(self.mtu)
            | flag(self.takes_gso, Self::TAKES_GSO)
            | flag(self.takes_tagged_gso, Self::TAKES_TAGGED_GSO)
            | flag(self.queueless, Self::QUEUELESS)
            | flag(self.carries, Self::CARRIES)
    }

    fn from_bits(bits: u64) -> Self {
        Self {
            mtu: bits as u32,
            takes_gso: bits & Self::TAKES_GSO != 0,
            takes_tagged_gso: bits & Self::TAKES_TAGGED_GSO != 0,
            queueless: bits & Self::QUEUELESS != 0,
            carries: bits & Self::CARRIES != 0,
        }
    }
}

/// Whether the devices of `driver` take GSO packets of UDP with a VLAN tag wherever they take them
/// without: what their `vlan_features` have.
fn takes_tagged_gso(driver: &str) -> bool {
    // Those that were seen to (docs/operations.md), on every kernel. Not virtio_net: where its
    // driver leaves `tx-udp-segmentation` off at first, as in Linux 6.12, it sets `vlan_features`
    // without it for good.
    matches!(driver, "veth" | "igb")
}

/// A link, for one worker.
#[derive(Debug)]
pub struct Link {
    index: u32,
    /// A [`State`] as one number, so that no reader sees half of a change.
    state: AtomicU64,
    gso: SharedLimits,
    /// Drops that the kernel reported to the worker, which counted them; the device's counter has
    /// them as well.
    told: AtomicU64,
}

impl Link {
    /// A link in the state that the plan has.
    #[must_use]
    pub fn new(interface: &plan::Interface) -> Self {
        Self {
            index: interface.index,
            state: AtomicU64::new(State::planned(interface).to_bits()),
            gso: SharedLimits::new(interface.gso),
            told: AtomicU64::new(0),
        }
    }

    /// The largest GSO packet that the device takes.
    #[inline]
    pub fn gso_limits(&self) -> GsoLimits {
        self.gso.get()
    }

    /// Sets the limits for every packet that is made from now on.
    pub fn set_gso_limits(&self, limits: GsoLimits) {
        self.gso.set(limits);
    }

    /// The kernel's index of the interface.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The state that is known now.
    #[inline]
    pub fn state(&self) -> State {
        State::from_bits(self.state.load(Ordering::Acquire))
    }

    /// Applies a change that the kernel has announced.
    pub fn update(&self, change: impl Fn(State) -> State) {
        let change = |bits| Some(change(State::from_bits(bits)).to_bits());
        // It never fails: `change` always returns a state.
        let _ = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    /// Sets the state that the kernel gave as an answer, unless a change was announced since the
    /// state was `before`: the answer may be older than the change.
    pub fn replace(&self, before: State, now: State) {
        let (before, now) = (before.to_bits(), now.to_bits());
        let _ = self
            .state
            .compare_exchange(before, now, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Counts one drop that the kernel reported and that the device's counter has as well. Only the
    /// worker calls this.
    pub fn was_told(&self) {
        let told = self.told.load(Ordering::Relaxed);
        self.told.store(told + 1, Ordering::Relaxed);
    }

    /// How many such drops the kernel reported.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }
}

/// The links that copies of one worker leave through, by the kernel's index of the interface, and
/// the next hops behind them.
#[derive(Debug, Clone, Default)]
pub struct Links {
    all: BTreeMap<u32, Arc<Link>>,
    /// Those of all workers.
    pub next_hops: Arc<NextHops>,
}

impl Links {
    /// No link yet.
    #[must_use]
    pub fn with(next_hops: &Arc<NextHops>) -> Self {
        Self {
            all: BTreeMap::new(),
            next_hops: Arc::clone(next_hops),
        }
    }

    /// Those of `worker`: each as it is in `before`, or else in the state that the plan has.
    #[must_use]
    pub fn of(plan: &plan::Plan, worker: &plan::WorkerPlan, before: &Self) -> Self {
        let interfaces = plan.interfaces.with_ids();
        let used = interfaces.filter(|&(id, _)| worker.tx_method(plan, id).is_some());
        let link = |(_, interface): (_, &plan::Interface)| {
            let known = before.get(interface.index);
            let link = known.unwrap_or_else(|| Arc::new(Link::new(interface)));
            (interface.index, link)
        };
        Self {
            all: used.map(link).collect(),
            next_hops: Arc::clone(&before.next_hops),
        }
    }

    /// The link of the interface with this index.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Arc<Link>> {
        self.all.get(&index).cloned()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.all.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_one_number_and_comes_back_as_it_was() {
        for bits in 0..16_u64 {
            for mtu in [68, 1500, u32::MAX] {
                let state = State {
                    mtu,
                    takes_gso: bits & 1 != 0,
                    takes_tagged_gso: bits & 4 != 0,
                    queueless: bits & 2 != 0,
                    carries: bits & 8 != 0,
                };
                assert_eq!(State::from_bits(state.to_bits()), state);
                assert_eq!(state.joins(0), state.takes_gso || state.queueless);
            }
        }
    }

    #[test]
    fn an_answer_that_is_older_than_news_is_left_aside() {
        let state = |mtu| State {
            mtu,
            takes_gso: true,
            takes_tagged_gso: true,
            queueless: true,
            carries: true,
        };
        let link = Link {
            index: 7,
            state: AtomicU64::new(state(1500).to_bits()),
            gso: SharedLimits::new(GsoLimits::default()),
            told: AtomicU64::new(0),
        };
        let before = link.state();
        link.update(|state| State { mtu: 900, ..state });
        link.replace(before, state(1500));
        assert_eq!(link.state(), state(900));
        link.replace(link.state(), state(1400));
        assert_eq!(link.state(), state(1400));
    }
}
