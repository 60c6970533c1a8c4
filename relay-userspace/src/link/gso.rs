//! What a device takes in one GSO packet, as sockets and the watcher of the interface tell each
//! other.
//!
//! Limits can be set while traffic runs (`ip link set dev DEV gso_max_segs N`, `gso_max_size`,
//! `gso_ipv4_max_size`). A packet above them is cut apart in front of the device, or refused where
//! nothing may be cut (`gso_features_check`, net/core/dev.c).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::nic::GsoLimits;

/// Limits that one thread sets and another follows.
#[derive(Debug)]
pub struct SharedLimits(AtomicU64);

impl SharedLimits {
    /// As the plan has them.
    #[must_use]
    pub fn new(limits: GsoLimits) -> Self {
        let shared = Self(AtomicU64::new(0));
        shared.set(limits);
        shared
    }

    /// The limits that hold now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> GsoLimits {
        let both = self.0.load(Relaxed);
        GsoLimits {
            bytes: (both >> 32) as u32,
            segments: both as u32,
        }
    }

    /// Sets them for every packet that is made from now on.
    pub fn set(&self, limits: GsoLimits) {
        let both = u64::from(limits.bytes) << 32 | u64::from(limits.segments);
        self.0.store(both, Relaxed);
    }
}
