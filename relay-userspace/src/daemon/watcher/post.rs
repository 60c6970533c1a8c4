//! Work for the thread that asks. What control follows bounds its size.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    time::Instant,
};

use super::Followed;
use crate::host::{RouteAnswer, watch::Queues};

/// What there is to do.
#[derive(Debug, Default)]
pub struct Inbox {
    /// What to follow from now on.
    pub follow: Option<Following>,
    /// Interfaces that changed, by index.
    pub touched: BTreeSet<u32>,
    /// Those among them that have gone; they may be there again.
    pub gone: BTreeSet<u32>,
    /// Those among them whose queues changed.
    pub queues: BTreeMap<u32, Queues>,
    /// Names that interfaces were given, of those that rules mention.
    pub named: BTreeSet<String>,
    /// Routes have changed, or something that they may depend on.
    pub routes: bool,
    /// Next hops have changed.
    pub hops: bool,
    /// Addresses that rules mention, which an interface got (true) or lost.
    pub addresses: BTreeMap<IpAddr, bool>,
    /// The kernel dropped news: everything may have changed.
    pub lost: bool,
    /// Look once more, and end.
    pub stop: bool,
}

/// What to follow from now on.
#[derive(Debug)]
pub struct Following {
    /// The interfaces that workers use.
    pub interfaces: Vec<Followed>,
    /// The names that rules mention.
    pub names: BTreeSet<String>,
    /// The routes of unicast outputs.
    pub routes: Vec<RouteAnswer>,
    /// Gets a message once all of them have been looked at.
    pub done: SyncSender<()>,
}

impl Inbox {
    /// Whether there is nothing to do but to look routes up, which has its own time.
    pub fn is_of_routes_alone(&self) -> bool {
        self.routes && !self.has_more_than_routes()
    }

    fn is_empty(&self) -> bool {
        !self.routes && !self.has_more_than_routes()
    }

    fn has_more_than_routes(&self) -> bool {
        // Queues and those that have gone are among the touched.
        let of_interfaces = !self.touched.is_empty() || !self.named.is_empty();
        let news = of_interfaces || !self.addresses.is_empty() || self.lost;
        news || self.hops || self.follow.is_some() || self.stop
    }
}

/// The inbox, and the condition that wakes the thread that asks.
#[derive(Debug, Default)]
pub struct Post {
    inbox: Mutex<Inbox>,
    full: Condvar,
}

impl Post {
    /// A thread that panicked with the lock left the inbox whole: every change is one step.
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds work.
    pub fn put(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.lock());
        self.full.notify_one();
    }

    /// Waits until there is something to do, or until `deadline`, and takes it.
    pub fn take(&self, deadline: Instant) -> Inbox {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self
            .full
            .wait_timeout_while(self.lock(), left, |inbox| inbox.is_empty());
        let (mut inbox, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inbox)
    }
}
