//! The limits of a device for GSO packets: the watcher of the interface sets them, sockets follow.
//!
//! They can change while traffic runs (`ip link set dev DEV gso_max_segs N`, `gso_max_size`,
//! `gso_ipv4_max_size`). The kernel cuts a packet above them in front of the device, or refuses it
//! where it may not cut (`gso_features_check`, net/core/dev.c).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::host::GsoLimits;

/// Limits that one thread sets and another follows.
#[derive(Debug)]
pub struct SharedLimits(AtomicU64);

impl SharedLimits {
    /// The limits that the plan has.
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

    /// Sets the limits for every packet that is made from now on.
    pub fn set(&self, limits: GsoLimits) {
        let both = u64::from(limits.bytes) << 32 | u64::from(limits.segments);
        self.0.store(both, Relaxed);
    }
}
