//! The thread that receives the kernel's news: it updates what workers know of links at once, and
//! passes the rest on to the thread that asks.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{interface::linked, post::Post};
use crate::{
    daemon::wait::wait_for_ever,
    datapath::output_link::{Link, State},
    host::{
        Bell,
        watch::{Heard, News},
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

/// Receives news until `stop` rings.
pub fn hear(mut news: News, table: &SharedTable, stop: &Bell, post: &Post) {
    loop {
        if wait_for_ever(std::iter::once(stop.fd()).chain(news.fds())) {
            return;
        }
        let heard = news.read();
        if heard != Heard::default() {
            pass_on(heard, &mut table.lock(), post);
        }
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
