//! Watches the interfaces while workers forward: tells workers the state of their links, tells
//! control when facts change on which a plan depends, reads the counters that belong to no worker,
//! and logs what an operator should know.
//!
//! Two threads. One receives the kernel's news (netlink notifications) and passes them on at once.
//! The other asks about single interfaces, after news and once per second, since some things change
//! without news: counters, and an XDP program that is detached by force. An answer may take long,
//! because the kernel holds one lock for all questions and all changes of all network namespaces.
//! Workers never wait for either: between a change and its news they act on the state before it.
//!
//! Control takes the events first and reads the facts then. So a change that it does not see in the
//! facts is told later.

mod asker;
mod changes;
mod ears;
mod hops;
mod interface;
mod mailbox;
mod names;
mod post;
mod routes;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use log::{Level, debug};

pub use self::mailbox::Events;
use self::{
    asker::Asker,
    changes::LOG,
    ears::{Ears, SharedTable},
    interface::Counters,
    mailbox::Mailbox,
    post::Following,
    post::Post,
};
use super::helper_thread;
use super::privileges;
use crate::{
    datapath::{next_hops::NextHops, output_link::Link},
    events::Event,
    host::{
        Bell, RouteAnswer,
        watch::{News, Questions, RouteGroups, RouteNews},
    },
    plan,
};

/// How long [`Watcher::follow`] waits at most for the first look at new interfaces.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// An interface that workers use.
#[derive(Debug)]
pub struct Followed {
    /// The interface as the plan has it.
    pub facts: plan::Interface,
    /// The id of the XDP program that the relay attached.
    pub program: Option<u32>,
    /// The states of it that workers read: one per worker that sends through it.
    pub links: Vec<Arc<Link>>,
}

/// The numbers of one interface that control reads.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    device_dropped: u64,
    missed: u64,
    /// `None` while it is not followed.
    carries: Option<bool>,
}

impl Numbers {
    fn new(counters: Counters, carries: Option<bool>) -> Self {
        Self {
            device_dropped: counters.drops.frames(),
            missed: counters.missed.frames(),
            carries,
        }
    }
}

/// The numbers of all interfaces.
#[derive(Debug, Default)]
struct AllNumbers {
    /// By index.
    interfaces: BTreeMap<u32, Numbers>,
    /// Of all that were ever followed, also of those that are gone.
    device_dropped: u64,
}

/// Numbers that the thread that asks replaces.
#[derive(Debug, Default)]
struct SharedNumbers(Mutex<AllNumbers>);

impl SharedNumbers {
    fn lock(&self) -> MutexGuard<'_, AllNumbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running watcher.
pub struct Watcher {
    table: Arc<SharedTable>,
    numbers: Arc<SharedNumbers>,
    mailbox: Arc<Mailbox>,
    post: Arc<Post>,
    stop: Bell,
    threads: Vec<JoinHandle<()>>,
    route_groups: RouteGroups,
}

impl Watcher {
    /// Subscribes to news in the calling thread's network namespace, and starts both threads, which
    /// follow nothing yet but `next_hops`. `bell` rings when there are events to take; others may
    /// ring it as well.
    ///
    /// # Errors
    ///
    /// The kernel refuses a netlink socket, an eventfd or a thread.
    pub fn start(bell: Bell, next_hops: &Arc<NextHops>) -> io::Result<Self> {
        // First of all, so that no change is missed.
        let news = News::subscribe()?;
        let questions = Questions::open()?;
        let (route_news, route_groups) = RouteNews::open()?;
        let mut watcher = Self {
            table: Arc::default(),
            numbers: Arc::default(),
            mailbox: Arc::new(Mailbox::new(bell)),
            post: Arc::default(),
            stop: Bell::new()?,
            threads: Vec::new(),
            route_groups,
        };
        let asker = Asker::new(
            questions,
            Arc::clone(&watcher.table),
            Arc::clone(&watcher.post),
            Arc::clone(&watcher.mailbox),
            Arc::clone(&watcher.numbers),
            Arc::clone(next_hops),
        );
        let ears = Ears {
            news,
            route_news,
            table: Arc::clone(&watcher.table),
            post: Arc::clone(&watcher.post),
            mailbox: Arc::clone(&watcher.mailbox),
            next_hops: Arc::clone(next_hops),
        };
        let stop = watcher.stop.clone();
        watcher.spawn("relay-hears", move || ears.hear(&stop))?;
        watcher.spawn("relay-asks", move || asker.run())?;
        Ok(watcher)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned());
        self.threads.push(thread.spawn(|| {
            // Neither thread needs a capability. If the kernel refuses, the main thread reports it.
            let _ = privileges::give_up::give_up(&[]);
            work();
        })?);
        Ok(())
    }

    /// Replaces what is watched: `interfaces` are those that workers use, `names` are all interface
    /// names that rules mention, also those of no interface, and `addresses` all addresses of this
    /// host that they mention; `routes` are those of unicast outputs, with the answers that control
    /// acted upon. Returns once all of them have been looked at, or after a second. Counters of an
    /// interface that is followed again go on.
    pub fn follow(
        &self,
        interfaces: Vec<Followed>,
        names: BTreeSet<String>,
        addresses: BTreeSet<IpAddr>,
        routes: Vec<RouteAnswer>,
    ) {
        let (done, wait) = sync_channel(1);
        if let Err(error) = self.route_groups.receive(!routes.is_empty()) {
            let text = format!(
                "cannot receive news of routes and neighbours: {error}; the relay asks instead"
            );
            Event::new(LOG, Level::Warn, "news of routes", &text).say();
        }
        {
            let mut table = self.table.lock();
            let links = interfaces.iter().flat_map(|one| &one.links);
            table.links = links.cloned().collect();
            table.followed = interfaces.iter().map(|one| one.facts.index).collect();
            table.names.clone_from(&names);
            table.follows_routes = !routes.is_empty();
            // One that came before it was listened for would be missed.
            if table.addresses != addresses {
                self.mailbox.put(Events {
                    changed: true,
                    ..Events::default()
                });
            }
            table.addresses = addresses;
        }
        self.post.put(|inbox| {
            inbox.follow = Some(Following {
                interfaces,
                names,
                routes,
                done,
            });
        });
        if wait.recv_timeout(FIRST_LOOK).is_err() {
            debug!("the kernel takes long to answer questions about interfaces");
        }
    }

    /// What has happened since the last call. Silence the bell before.
    #[must_use]
    pub fn take_events(&self) -> Events {
        self.mailbox.take()
    }

    /// Frames that the device of the interface with this index dropped after the kernel had cut
    /// them from GSO packets.
    #[must_use]
    pub fn device_dropped(&self, index: u32) -> u64 {
        self.of(index).map_or(0, |one| one.device_dropped)
    }

    /// The same of all interfaces that were ever followed: it never falls.
    #[must_use]
    pub fn all_device_dropped(&self) -> u64 {
        self.numbers.lock().device_dropped
    }

    fn of(&self, index: u32) -> Option<Numbers> {
        self.numbers.lock().interfaces.get(&index).copied()
    }

    /// Frames that the NIC of the interface with this index had no buffer for.
    #[must_use]
    pub fn missed(&self, index: u32) -> u64 {
        self.of(index).map_or(0, |one| one.missed)
    }

    /// Whether the interface with this index is up and has a carrier; `None` if it is not followed.
    #[must_use]
    pub fn carries(&self, index: u32) -> Option<bool> {
        self.of(index).and_then(|one| one.carries)
    }

    /// Looks once more, and ends both threads.
    pub fn end(&mut self) {
        self.stop.ring();
        self.post.put(|inbox| inbox.stop = true);
        self.threads.drain(..).for_each(helper_thread::join);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}
