//! What devices drop after the kernel has taken it, where nobody else can tell.
//!
//! Where the kernel cuts super-frames apart in front of a device, `sendmmsg` does not say how many of the parts
//! the device refused. Its own counter of drops does, one a frame. So it is read once a second and at the end,
//! and reported as `device_dropped`. While a device takes super-frames whole, refusals are counted where they
//! happen, and its counter is left alone.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    nic,
    plan::{self, Plan},
};

/// Whether the kernel cuts super-frames apart in front of a device: what its watcher and a sender tell each other.
#[derive(Debug)]
pub struct Cut {
    index: u32,
    is: AtomicBool,
    /// The device's counter of drops when it began; the drops before were counted where they happened.
    since: AtomicU64,
    /// Drops in the device's counter that the sender was told of, and has counted.
    told: AtomicU64,
}

impl Cut {
    /// As the plan has it.
    #[must_use]
    pub fn new(interface: &plan::Interface) -> Self {
        let cut = Self {
            index: interface.index,
            is: AtomicBool::new(false),
            since: AtomicU64::new(0),
            told: AtomicU64::new(0),
        };
        cut.set(!interface.segments_udp);
        cut
    }

    /// Whether it does.
    #[inline]
    pub fn is_cut(&self) -> bool {
        self.is.load(Ordering::Acquire)
    }

    /// The sender was told of one drop. Only the sender calls this.
    pub fn was_told(&self) {
        let told = self.told.load(Ordering::Relaxed);
        self.told.store(told + 1, Ordering::Relaxed);
    }

    /// Sets whether it does. Asks the kernel for the device's counter where it begins to.
    pub fn set(&self, cut: bool) {
        if cut && !self.is_cut() {
            let now = nic::tx_dropped().get(&self.index).copied();
            self.since.store(now.unwrap_or(0), Ordering::Relaxed);
        }
        self.is.store(cut, Ordering::Release);
    }
}

/// The interfaces that super-frames leave by.
#[derive(Debug, Default)]
pub struct DeviceDrops {
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    /// Position in [`Plan::interfaces`].
    interface: usize,
    name: String,
    /// Of every sender here.
    cuts: Vec<Arc<Cut>>,
    /// The device's counter when last read, while the kernel cuts.
    last: Option<u64>,
    /// The sum of what its senders had been told then.
    told: u64,
    dropped: u64,
}

impl DeviceDrops {
    /// Watches an interface, a position in the plan; `cut` is what one sender believes of it. Where there is a queueing
    /// discipline, senders go past it, nothing is cut apart, and there is nothing to watch.
    pub fn watch(&mut self, plan: &Plan, interface: usize, cut: Arc<Cut>) {
        let mut watched = self.watched.iter_mut();
        if let Some(watched) = watched.find(|watched| watched.interface == interface) {
            watched.cuts.push(cut);
        } else if let Some(facts) = plan.interfaces.get(interface)
            && facts.queueless
        {
            self.watched.push(Watched {
                interface,
                name: facts.name.clone(),
                cuts: vec![cut],
                last: None,
                told: 0,
                dropped: 0,
            });
        }
    }

    /// Reads the counters, and finds out anew which devices take super-frames whole: attaching XDP to the other
    /// end of a veth changes it.
    pub fn refresh(&mut self) {
        if self.watched.is_empty() {
            return;
        }
        let counters = nic::tx_dropped();
        for watched in &mut self.watched {
            let began = watched.cuts.iter().filter(|cut| cut.is_cut());
            let began = began.map(|cut| cut.since.load(Ordering::Relaxed)).min();
            let told = watched.cuts.iter();
            let told = told.map(|cut| cut.told.load(Ordering::Relaxed)).sum();
            let index = watched.cuts.first().map(|cut| cut.index);
            if let (Some(began), Some(&now)) = (began, index.and_then(|index| counters.get(&index)))
            {
                let last = watched.last.unwrap_or(began);
                watched.dropped += now.saturating_sub(last).saturating_sub(told - watched.told);
                watched.last = Some(now);
            }
            watched.told = told;
            let cut = !nic::segments_udp(&watched.name);
            if !cut {
                watched.last = None;
            }
            for known in &watched.cuts {
                known.set(cut);
            }
        }
    }

    /// Frames that the device of an interface, a position in the plan, dropped.
    #[must_use]
    pub fn of(&self, interface: usize) -> u64 {
        let mut watched = self.watched.iter();
        watched
            .find(|watched| watched.interface == interface)
            .map_or(0, |watched| watched.dropped)
    }
}
