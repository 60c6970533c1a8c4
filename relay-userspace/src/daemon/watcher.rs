//! Watches the interfaces while workers forward: tells workers the state of their links, reads the
//! counters that belong to no worker, and logs what an operator should know.
//!
//! Two threads. One receives the kernel's news (netlink notifications) and passes them on at once.
//! The other asks about single interfaces by index, after news and once per second, since some
//! things change without news: counters, and an XDP program that is detached by force. An answer
//! may take long, because the kernel holds one lock for all questions and all changes of all
//! network namespaces. Workers never wait for either: between a change and its news they act on the
//! state before it.

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
    datapath::output_link::{Link, State},
    host::watch::{Heard, News, Questions},
    plan::{InterfaceId, Plan},
};

/// How often it asks without news.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The state and the sockets of both threads.
pub struct Watch {
    ears: Ears,
    questions: Questions,
    interfaces: Vec<Watched>,
    numbers: Arc<[Numbers]>,
}

/// The state of the thread that receives news.
struct Ears {
    news: News,
    /// The link states that workers read.
    links: Vec<Arc<Link>>,
    /// The plan's interfaces: their indices by name.
    names: BTreeMap<String, u32>,
}

/// The counters of one interface that the report has.
#[derive(Debug, Default)]
struct Numbers {
    device_dropped: AtomicU64,
    missed: AtomicU64,
}

/// Work for the thread that asks. The plan bounds its size.
#[derive(Debug, Default)]
struct Inbox {
    /// The plan's interfaces that changed, by index.
    touched: BTreeSet<u32>,
    /// Names of the plan that interfaces were given, each with the latest interface's index.
    named: BTreeMap<String, u32>,
    /// The kernel dropped news: everything may have changed.
    lost: bool,
    /// Look once more, and end.
    stop: bool,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.named.is_empty() && !self.lost && !self.stop
    }
}

/// The inbox, and the bell that wakes the thread that asks.
#[derive(Debug, Default)]
struct Post {
    inbox: Mutex<Inbox>,
    bell: Condvar,
}

impl Post {
    /// A thread that panicked with the lock left the inbox whole: every change is one step.
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
    /// Subscribes to news, and looks at every interface of `plan` once. `programs` gives the id of
    /// the XDP program attached to an interface, by the interface's id; `links` are the link states
    /// that workers read.
    ///
    /// # Errors
    ///
    /// Netlink sockets cannot be opened.
    pub fn begin(
        plan: &Plan,
        programs: impl Fn(InterfaceId) -> Option<u32>,
        links: Vec<Arc<Link>>,
    ) -> io::Result<Self> {
        // First of all, so that no change is missed.
        let news = News::subscribe()?;
        let questions = Questions::open()?;
        let interfaces = plan.interfaces.with_ids();
        let interfaces = interfaces.map(|(id, facts)| Watched::new(facts, programs(id), &links));
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

/// Looks at the interfaces whose index is `wanted`.
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

/// Asks until the inbox says stop, and then looks once more.
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
    /// Receives news until `stop` becomes readable.
    fn hear(&mut self, stop: &EventFd, post: &Post) {
        loop {
            let fds = std::iter::once(stop.as_fd()).chain(self.news.fds());
            let mut set: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // Whatever it returns, everything is read.
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
    /// Continues `watch` on two threads.
    ///
    /// # Errors
    ///
    /// The kernel refuses a thread or an eventfd.
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

    /// Frames that the device of an interface dropped after the kernel had cut them from GSO
    /// packets.
    #[must_use]
    pub fn device_dropped(&self, interface: InterfaceId) -> u64 {
        let numbers = self.numbers.get(interface.position());
        numbers.map_or(0, |numbers| numbers.device_dropped.load(Relaxed))
    }

    /// Frames that the NIC of an interface had no buffer for.
    #[must_use]
    pub fn missed(&self, interface: InterfaceId) -> u64 {
        let numbers = self.numbers.get(interface.position());
        numbers.map_or(0, |numbers| numbers.missed.load(Relaxed))
    }

    /// Looks once more, and ends both threads.
    pub fn end(&mut self) {
        // The write fails only at the counter's limit, and then `stop` is readable already.
        let _ = self.stop.write(1);
        self.post.put(|inbox| inbox.stop = true);
        for thread in self.threads.drain(..) {
            // A panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}
