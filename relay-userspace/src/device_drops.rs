//! What devices drop after the kernel has taken it, where nobody else can tell.
//!
//! Where the kernel cuts super-frames apart in front of a device, `sendmmsg` does not say how many of the parts
//! the device refused. Its own counter of drops does, one a frame. So it is read once a second and at the end,
//! and reported as `device_dropped`. While a device takes super-frames whole, refusals are counted where they
//! happen, and its counter is left alone.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::{nic, plan::Plan};

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
    index: u32,
    /// Told to every worker that sends here.
    cut_by_kernel: Vec<Arc<AtomicBool>>,
    /// The device's counter when last read.
    last: Option<u64>,
    dropped: u64,
}

impl DeviceDrops {
    /// Watches an interface, a position in the plan; `cut_by_kernel` is what one sender believes of it.
    pub fn watch(&mut self, plan: &Plan, interface: usize, cut_by_kernel: Arc<AtomicBool>) {
        let mut watched = self.watched.iter_mut();
        if let Some(watched) = watched.find(|watched| watched.interface == interface) {
            watched.cut_by_kernel.push(cut_by_kernel);
        } else if let Some(facts) = plan.interfaces.get(interface) {
            self.watched.push(Watched {
                interface,
                name: facts.name.clone(),
                index: facts.index,
                cut_by_kernel: vec![cut_by_kernel],
                last: None,
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
        let counters: HashMap<u32, u64> = nic::tx_dropped();
        for watched in &mut self.watched {
            let was_cut = watched.is_cut();
            let is_cut = !nic::segments_udp(&watched.name);
            for flag in &watched.cut_by_kernel {
                flag.store(is_cut, Relaxed);
            }
            let Some(&now) = counters.get(&watched.index) else {
                continue;
            };
            if let Some(last) = watched.last.filter(|_| was_cut) {
                watched.dropped += now.saturating_sub(last);
            }
            watched.last = Some(now);
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

impl Watched {
    fn is_cut(&self) -> bool {
        self.cut_by_kernel.iter().any(|flag| flag.load(Relaxed))
    }
}
