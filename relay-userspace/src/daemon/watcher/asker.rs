//! The thread that asks the kernel about single interfaces: after news, after every new plan, and
//! once per second, since some things change without news.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use log::debug;

use super::{
    AllNumbers, Numbers, SharedNumbers,
    ears::SharedTable,
    hops::Hops,
    interface::{Counters, Watched},
    mailbox::{Events, Mailbox},
    names::{Names, Which},
    post::{Following, Inbox, Post},
    routes::Routes,
};
use crate::{datapath::next_hops::NextHops, host::watch::Questions};

/// How often it asks without news.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most interfaces whose counters are kept while nothing follows them.
const MOST_FORMER: usize = 256;

/// The state of the thread that asks.
pub struct Asker {
    pub(super) questions: Questions,
    pub(super) table: Arc<SharedTable>,
    pub(super) post: Arc<Post>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) numbers: Arc<SharedNumbers>,
    /// The interfaces that are followed, by index.
    watched: BTreeMap<u32, Watched>,
    /// The counters of those that were followed and are still there, by index.
    former: BTreeMap<u32, Counters>,
    /// What the devices dropped whose counters are kept no more.
    forgotten: u64,
    names: Names,
    routes: Routes,
    hops: Hops,
}

impl Asker {
    /// One that follows nothing yet.
    pub(super) fn new(
        questions: Questions,
        table: Arc<SharedTable>,
        post: Arc<Post>,
        mailbox: Arc<Mailbox>,
        numbers: Arc<SharedNumbers>,
        next_hops: Arc<NextHops>,
    ) -> Self {
        Self {
            questions,
            table,
            post,
            mailbox,
            numbers,
            watched: BTreeMap::new(),
            former: BTreeMap::new(),
            forgotten: 0,
            names: Names::default(),
            routes: Routes::new(),
            hops: Hops::new(next_hops),
        }
    }

    /// Asks until the inbox says stop, and then looks once more.
    pub fn run(mut self) {
        let mut next = Instant::now() + LOOK_EVERY;
        loop {
            let post = Arc::clone(&self.post);
            let due = self.routes.due();
            let mut inbox = post.take(due.map_or(next, |due| due.min(next)));
            let now = Instant::now();
            if inbox.is_of_routes_alone() {
                self.routes.doubt(now);
                if self.routes.due().is_some_and(|due| due > now) && now < next {
                    continue;
                }
            }
            let stop = inbox.stop;
            let done = inbox.follow.take().map(|following| self.follow(following));
            let all = inbox.lost || stop || Instant::now() >= next;
            if all {
                next = Instant::now() + LOOK_EVERY;
            }
            self.look(&inbox, all);
            if let Some(done) = done {
                // Control has given up waiting, at worst.
                let _ = done.try_send(());
            }
            if stop {
                return;
            }
        }
    }

    /// Replaces what is followed. Returns where to tell that all has been looked at.
    fn follow(&mut self, following: Following) -> std::sync::mpsc::SyncSender<()> {
        let mut events = Events::default();
        let mut before = std::mem::take(&mut self.watched);
        for followed in following.interfaces {
            let index = followed.facts.index;
            let watched = match before.remove(&index) {
                Some(mut watched) => {
                    watched.follow(followed, &mut self.questions, &mut events);
                    watched
                }
                None => {
                    let counters = self.former.remove(&index).unwrap_or_default();
                    let mut watched = Watched::new(followed, counters);
                    watched.look(&mut self.questions, &mut events);
                    watched
                }
            };
            self.watched.insert(index, watched);
        }
        for (index, watched) in before {
            if watched.is_there() {
                self.former.insert(index, watched.counters());
            } else {
                self.forgotten += watched.counters().drops.frames();
            }
        }
        while self.former.len() > MOST_FORMER
            && let Some((_, counters)) = self.former.pop_first()
        {
            self.forgotten += counters.drops.frames();
        }
        self.names.want(following.names);
        self.routes.follow(following.routes);
        self.look_at_names(&Which::New, &mut events);
        self.publish();
        self.mailbox.put(events);
        following.done
    }

    /// Looks at `all` interfaces, or at those that `inbox` names.
    fn look(&mut self, inbox: &Inbox, all: bool) {
        let mut events = Events {
            lost: inbox.lost,
            changed: inbox.lost,
            ..Events::default()
        };
        if inbox.lost {
            debug!("news of the interfaces were lost; asking for all of them");
        }
        for (address, is_there) in &inbox.addresses {
            let text = match is_there {
                true => format!("this host has the address {address} now"),
                false => format!("an interface has lost the address {address}"),
            };
            debug!("{text}");
            events.add(&text);
        }
        for index in &inbox.gone {
            if let Some(counters) = self.former.remove(index) {
                self.forgotten += counters.drops.frames();
            }
        }
        for (index, watched) in &mut self.watched {
            if inbox.gone.contains(index) {
                watched.lose(&mut events);
            }
            if let Some(&queues) = inbox.queues.get(index) {
                watched.has_queues(queues, &mut events);
            }
            if all || inbox.touched.contains(index) {
                watched.look(&mut self.questions, &mut events);
            }
        }
        let which = if inbox.lost {
            Which::All
        } else {
            Which::Touched {
                named: &inbox.named,
                touched: &inbox.touched,
            }
        };
        self.look_at_names(&which, &mut events);
        if inbox.routes || inbox.lost {
            self.routes.doubt(Instant::now());
        }
        self.routes.look(&mut self.questions, &mut events);
        if inbox.hops || all {
            let (watched, questions) = (&self.watched, &mut self.questions);
            self.hops.look(|index| match watched.get(&index) {
                Some(watched) => Some(watched.name()),
                None => questions.link(index).ok().flatten().map(|link| link.name),
            });
        }
        self.publish();
        self.mailbox.put(events);
    }

    fn look_at_names(&mut self, which: &Which<'_>, events: &mut Events) {
        let Self {
            questions,
            table,
            watched,
            names,
            ..
        } = self;
        names.look(
            which,
            |index| watched.get(&index).is_some_and(Watched::is_there),
            |index| {
                table.lock().named.insert(index);
            },
            questions,
            events,
        );
    }

    /// Shows the numbers to control.
    fn publish(&self) {
        let former = self.former.iter();
        let former = former.map(|(index, counters)| (*index, Numbers::new(*counters, None)));
        let watched = self.watched.iter().map(|(index, one)| {
            let numbers = Numbers::new(one.counters(), Some(one.carries()));
            (*index, numbers)
        });
        let interfaces: BTreeMap<u32, Numbers> = former.chain(watched).collect();
        let kept = interfaces.values().map(|one| one.device_dropped);
        let device_dropped = self.forgotten + kept.sum::<u64>();
        *self.numbers.lock() = AllNumbers {
            interfaces,
            device_dropped,
        };
    }
}
