//! The thread that receives the kernel's news: it updates what workers know of links and next hops
//! at once, and passes the rest on to the thread that asks.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    interface::linked,
    mailbox::{Events, Mailbox},
    post::Post,
};
use crate::{
    daemon::wait::wait_for_ever,
    datapath::{
        next_hops::NextHops,
        output_link::{Link, State},
    },
    host::{
        Bell,
        watch::{Heard, HeardOfRoutes, News, RouteNews},
    },
};

/// What is listened for. Control and the thread that asks write it; it is locked for moments.
#[derive(Debug, Default)]
pub struct Table {
    /// The link states that workers read.
    pub links: Vec<Arc<Link>>,
    /// The interfaces that are followed, by index.
    pub followed: BTreeSet<u32>,
    /// The names that rules mention.
    pub names: BTreeSet<String>,
    /// There are unicast outputs, whose routes matter.
    pub follows_routes: bool,
    /// The addresses of this host that rules mention.
    pub addresses: BTreeSet<IpAddr>,
    /// Other interfaces that have such a name, by index.
    pub named: BTreeSet<u32>,
}

/// A table that threads share.
#[derive(Debug, Default)]
pub struct SharedTable(Mutex<Table>);

impl SharedTable {
    /// A thread that panicked with the lock left the table whole: every change is one step.
    pub fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where news come from, and where they go.
pub struct Ears {
    pub news: News,
    pub route_news: RouteNews,
    pub table: Arc<SharedTable>,
    pub post: Arc<Post>,
    pub mailbox: Arc<Mailbox>,
    pub next_hops: Arc<NextHops>,
}

impl Ears {
    /// Receives news until `stop` rings.
    pub fn hear(mut self, stop: &Bell) {
        loop {
            let fds = self.news.fds().chain([self.route_news.fd()]);
            if wait_for_ever(std::iter::once(stop.fd()).chain(fds)) {
                return;
            }
            let heard = self.news.read();
            if heard != Heard::default() {
                self.take_back_to_work(&heard);
                pass_on(heard, &mut self.table.lock(), &self.post);
            }
            let heard = self.route_news.read();
            if heard != HeardOfRoutes::default() {
                self.pass_on_routes(&heard);
            }
        }
    }

    /// The next hops on links that carry again are asked for at once.
    fn take_back_to_work(&self, heard: &Heard) {
        let links = heard.links.iter().filter(|(_, now)| now.carries);
        let carry: BTreeSet<u32> = links.map(|(index, _)| *index).collect();
        if carry.is_empty() {
            return;
        }
        let all = self.next_hops.all();
        let mut unresolved = all.iter().filter(|(_, known)| known.needs_resolution());
        if unresolved.any(|(host, _)| carry.contains(&host.interface)) {
            self.tell(true, false);
        }
    }

    fn pass_on_routes(&self, heard: &HeardOfRoutes) {
        let mut changed = false;
        let mut unresolved = false;
        for (host, news) in &heard.neighbours {
            if let Some([before, now]) = self.next_hops.hear(*host, news.as_ref()) {
                changed |= before.mac() != now.mac();
                // One that has failed is asked for again in time.
                unresolved |= news.is_none();
            }
        }
        if unresolved || heard.lost {
            self.tell(unresolved, heard.lost);
        }
        let routes = heard.routes || heard.lost;
        if changed || routes {
            self.post.put(|inbox| {
                inbox.routes |= routes;
                inbox.hops |= changed;
            });
        }
    }

    fn tell(&self, unresolved: bool, doubt_next_hops: bool) {
        self.mailbox.put(Events {
            unresolved,
            doubt_next_hops,
            ..Events::default()
        });
    }
}

fn pass_on(heard: Heard, table: &mut Table, post: &Post) {
    let mut named = BTreeSet::new();
    for (index, now) in &heard.links {
        for link in table.links.iter().filter(|link| link.index() == *index) {
            link.update(|state| linked(now, state));
            link.set_gso_limits(now.gso);
        }
        if table.names.contains(&now.name) {
            table.named.insert(*index);
            named.insert(now.name.clone());
        }
    }
    for (index, takes_gso) in heard.takes_gso {
        let links = table.links.iter().filter(|link| link.index() == index);
        links.for_each(|link| link.update(|state| State { takes_gso, ..state }));
    }
    let mut touched = heard.touched;
    touched.retain(|index| table.followed.contains(index) || table.named.contains(index));
    let mut gone = heard.gone;
    gone.retain(|index| touched.contains(index));
    // One that is there again was given its name after it had gone, or with the same news.
    let renamed = |index: &u32| heard.links.iter().any(|(at, _)| at == index);
    table
        .named
        .retain(|index| !gone.contains(index) || renamed(index));
    let mut queues = heard.queues;
    queues.retain(|(index, _)| touched.contains(index));
    if table.follows_routes {
        // Any address and any link may have taken routes along.
        post.put(|inbox| inbox.routes = true);
    }
    let mut addresses = heard.addresses;
    addresses.retain(|(address, _)| table.addresses.contains(address));
    if touched.is_empty() && named.is_empty() && addresses.is_empty() && !heard.lost {
        return;
    }
    post.put(|inbox| {
        inbox.touched.extend(touched);
        inbox.gone.extend(gone);
        inbox.queues.extend(queues);
        inbox.named.extend(named);
        inbox.addresses.extend(addresses);
        inbox.lost |= heard.lost;
    });
}
