//! Watches the interfaces while workers forward: tells workers what they must know of their links, reads the counters
//! that belong to no worker, and says in the log what an operator should know.
//!
//! Two threads. One hears the kernel's news and passes on at once what they say. The other asks for single interfaces by
//! index, after news and once a second, since some things change without: counters, and an XDP program that is detached
//! by force. An answer may be long in coming, because the kernel holds one lock for all questions and all changes of all
//! network namespaces. Workers never wait for either: between a change and its news they act on what was true before.

mod budget;
mod changes;
mod interface;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd as _,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use log::debug;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};

use self::interface::{Watched, linked};
use crate::{
    link::{Link, State},
    nic::watch::{Heard, News, Questions},
    plan::Plan,
};

/// How often it looks without news.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What it knows, and what it hears and asks with.
pub struct Watch {
    ears: Ears,
    questions: Questions,
    interfaces: Vec<Watched>,
    numbers: Arc<[Numbers]>,
}

/// What hears.
struct Ears {
    news: News,
    /// What workers know of the links.
    links: Vec<Arc<Link>>,
    /// The interfaces of the plan.
    names: BTreeMap<String, u32>,
}

/// What the report has of one interface.
#[derive(Debug, Default)]
struct Numbers {
    device_dropped: AtomicU64,
    missed: AtomicU64,
}

/// What the thread that asks is to do. Bounded by the plan.
#[derive(Debug, Default)]
struct Inbox {
    /// Interfaces of the plan of which something changed, by index.
    touched: BTreeSet<u32>,
    /// Which index a name of the plan was last given to.
    named: BTreeMap<String, u32>,
    /// News were lost: everything may have changed.
    lost: bool,
    /// To look once more, and to end.
    stop: bool,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.named.is_empty() && !self.lost && !self.stop
    }
}

/// The inbox, and a bell for it.
#[derive(Debug, Default)]
struct Post {
    inbox: Mutex<Inbox>,
    bell: Condvar,
}

impl Post {
    /// Whoever panicked with it has left it whole: every change is one step.
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.lock());
        self.bell.notify_one();
    }

    /// Waits until there is something to do, or until `deadline`.
    fn take(&self, deadline: Instant) -> Inbox {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self
            .bell
            .wait_timeout_while(self.lock(), left, |inbox| inbox.is_empty());
        let (mut inbox, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inbox)
    }
}

impl Watch {
    /// Begins to hear of changes, and looks at every interface of `plan` once. `programs` are the ids of the XDP programs
    /// attached there, by position in the plan, and `links` what the workers know.
    ///
    /// # Errors
    ///
    /// Netlink sockets cannot be had.
    pub fn begin(
        plan: &Plan,
        programs: impl Fn(usize) -> Option<u32>,
        links: Vec<Arc<Link>>,
    ) -> io::Result<Self> {
        // First of all, so that nothing changes unheard.
        let news = News::subscribe()?;
        let questions = Questions::open()?;
        let interfaces = plan.interfaces.iter().enumerate();
        let interfaces = interfaces.map(|(at, facts)| Watched::new(facts, programs(at), &links));
        let mut watch = Self {
            interfaces: interfaces.collect(),
            questions,
            numbers: plan.interfaces.iter().map(|_| Numbers::default()).collect(),
            ears: Ears {
                news,
                links,
                names: plan
                    .interfaces
                    .iter()
                    .map(|interface| (interface.name.clone(), interface.index))
                    .collect(),
            },
        };
        look(
            &mut watch.interfaces,
            &mut watch.questions,
            &watch.numbers,
            |_| true,
        );
        Ok(watch)
    }
}

/// Looks at the interfaces that are `wanted`, by index.
fn look(
    interfaces: &mut [Watched],
    questions: &mut Questions,
    numbers: &[Numbers],
    wanted: impl Fn(u32) -> bool,
) {
    for (watched, numbers) in interfaces.iter_mut().zip(numbers) {
        if wanted(watched.index()) {
            watched.look(questions);
            numbers.missed.store(watched.missed(), Relaxed);
            let dropped = watched.device_dropped();
            numbers.device_dropped.store(dropped, Relaxed);
        }
    }
}

/// Asks until it is told to stop, and looks once more then.
fn ask(interfaces: &mut [Watched], questions: &mut Questions, numbers: &[Numbers], post: &Post) {
    let mut next = Instant::now() + LOOK_EVERY;
    loop {
        let inbox = post.take(next);
        if inbox.lost {
            debug!("news of the interfaces were lost; asking for all of them");
        }
        let all = inbox.lost || inbox.stop || Instant::now() >= next;
        if all {
            next = Instant::now() + LOOK_EVERY;
        }
        look(interfaces, questions, numbers, |index| {
            all || inbox.touched.contains(&index)
        });
        for watched in interfaces.iter_mut() {
            watched.look_for_another(&inbox.named, questions);
            watched.tick();
        }
        if inbox.stop {
            return;
        }
    }
}

impl Ears {
    /// Hears until `stop` becomes readable.
    fn hear(&mut self, stop: &EventFd, post: &Post) {
        loop {
            let fds = std::iter::once(stop.as_fd()).chain(self.news.fds());
            let mut set: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // Whatever it returns, all is looked at.
            let _ = poll(&mut set, PollTimeout::NONE);
            if set.first().is_some_and(|stop| stop.any() == Some(true)) {
                return;
            }
            let heard = self.news.read();
            if heard != Heard::default() {
                self.pass_on(heard, post);
            }
        }
    }

    fn pass_on(&self, heard: Heard, post: &Post) {
        for (index, now) in &heard.links {
            let mine = self.links.iter().filter(|link| link.index() == *index);
            mine.for_each(|link| {
                link.update(|state| linked(now, state));
                link.set_gso_limits(now.gso);
            });
        }
        for &(index, takes_gso) in &heard.takes_gso {
            let mine = self.links.iter().filter(|link| link.index() == index);
            mine.for_each(|link| {
                link.update(|state| State { takes_gso, ..state });
            });
        }
        post.put(|inbox| {
            let mine = self.names.values();
            let mine = mine.filter(|index| heard.touched.contains(index));
            inbox.touched.extend(mine);
            inbox.lost |= heard.lost;
            for (index, now) in heard.links {
                if self.names.contains_key(&now.name) {
                    inbox.named.insert(now.name, index);
                }
            }
        });
    }
}

/// The threads that watch.
#[derive(Debug)]
pub struct Watcher {
    numbers: Arc<[Numbers]>,
    post: Arc<Post>,
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Watcher {
    /// Goes on with `watch` on threads of its own.
    ///
    /// # Errors
    ///
    /// There can be no more threads.
    pub fn start(watch: Watch) -> io::Result<Self> {
        let Watch {
            mut ears,
            mut questions,
            mut interfaces,
            numbers,
        } = watch;
        let mut watcher = Self {
            numbers: Arc::clone(&numbers),
            post: Arc::default(),
            stop: Arc::new(EventFd::new()?),
            threads: Vec::new(),
        };
        let (post, stop) = (Arc::clone(&watcher.post), Arc::clone(&watcher.stop));
        watcher.spawn("relay-hears", move || ears.hear(&stop, &post))?;
        let post = Arc::clone(&watcher.post);
        watcher.spawn("relay-asks", move || {
            ask(&mut interfaces, &mut questions, &numbers, &post);
        })?;
        Ok(watcher)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Frames that the device of an interface, a position in the plan, dropped after the kernel had cut them from GSO
    /// packets.
    #[must_use]
    pub fn device_dropped(&self, interface: usize) -> u64 {
        let numbers = self.numbers.get(interface);
        numbers.map_or(0, |numbers| numbers.device_dropped.load(Relaxed))
    }

    /// Frames that the NIC of an interface, a position in the plan, had no buffer for.
    #[must_use]
    pub fn missed(&self, interface: usize) -> u64 {
        let numbers = self.numbers.get(interface);
        numbers.map_or(0, |numbers| numbers.missed.load(Relaxed))
    }

    /// Has it look once more, and ends it.
    pub fn end(&mut self) {
        // A counter at its limit is readable already.
        let _ = self.stop.write(1);
        self.post.put(|inbox| inbox.stop = true);
        for thread in self.threads.drain(..) {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}
