//! What was lost, by the place that counted it.

use std::collections::BTreeMap;

/// How much was lost, by the place that counted it.
pub type Drops = BTreeMap<String, u64>;

/// Everything that is known about what a contender lost.
#[derive(Debug, Clone, Default)]
pub struct Lost {
    /// By its own account, and by the kernel's for its sockets.
    pub own: Drops,
    /// By its interfaces. Some of it may be in the contender's own account too.
    pub links: Drops,
}

impl Lost {
    /// Everything.
    pub fn all(self) -> Drops {
        self.own.into_iter().chain(self.links).collect()
    }
}
