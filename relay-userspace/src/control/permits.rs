//! A number of permits: a bound on something that outlives the client which caused it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// So many permits, and no more.
#[derive(Debug)]
pub struct Permits {
    given: Arc<AtomicUsize>,
    most: usize,
}

/// One permit. It returns when it is dropped, on whatever thread.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Permits {
    /// `most` permits.
    pub fn new(most: usize) -> Self {
        let given = Arc::default();
        Self { given, most }
    }

    /// Whether [`Permits::take`] gives one.
    pub fn are_left(&self) -> bool {
        self.given.load(Relaxed) < self.most
    }

    /// A permit; `None` if all are given. One thread only gives permits, so a look before is
    /// enough.
    pub fn take(&self) -> Option<Permit> {
        if !self.are_left() {
            return None;
        }
        self.given.fetch_add(1, Relaxed);
        Some(Permit(Arc::clone(&self.given)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
