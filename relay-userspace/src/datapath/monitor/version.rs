//! Makes what one worker writes readable as a whole: a reader notices that it read meanwhile, and
//! reads again (a seqlock).

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// How often a reader tries.
const TRIES: u32 = 200;
/// After so many tries each, it lets others run: the worker may want its CPU.
const PATIENCE: u32 = 20;

/// Odd while the worker writes, and else the writings twice.
#[derive(Debug, Default)]
pub struct Version(AtomicU64);

impl Version {
    /// Does what changes what belongs to this version. Only the owning worker may call this.
    #[inline]
    pub fn write<T>(&self, change: impl FnOnce() -> T) -> T {
        let version = self.0.load(Relaxed);
        self.0.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        let result = change();
        self.0.store(version.wrapping_add(2), Release);
        result
    }

    /// What `look` reads, if nothing was written meanwhile. `None` if at every try something was.
    pub fn read<T>(&self, look: impl Fn() -> T) -> Option<T> {
        for time in 1..=TRIES {
            let version = self.0.load(Acquire);
            if version.is_multiple_of(2) {
                let result = look();
                fence(Acquire);
                if self.0.load(Relaxed) == version {
                    return Some(result);
                }
            }
            if time.is_multiple_of(PATIENCE) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        None
    }
}
