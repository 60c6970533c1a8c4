//! What other threads ask of the main thread, and how it answers.
//!
//! The control socket's thread never touches what runs. It puts requests into a bounded mailbox,
//! and reads the last snapshot of the status. The main thread makes one when the last is a second
//! old or out of date and somebody wants another, and before each change: so the status is there
//! even while a change takes long, and costs nothing while nobody asks.

use std::{
    collections::VecDeque,
    fmt, io,
    net::IpAddr,
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::taps::Tapping;
use crate::{config::rules::Vlan, host::Bell, observe::snapshot::Snapshot};

/// Requests that may wait. Each holds up to a rule file.
const MOST: usize = 8;
/// How old a snapshot may be that a client gets while another one could be made: however many
/// clients there are, the main thread makes no more than one in this time.
const FRESH: Duration = Duration::from_millis(900);

/// What the relay is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run the rules of a file.
    Reload {
        /// The file's name and text; `None` means the relay's own file.
        text: Option<(String, String)>,
        /// Only say what would change.
        dry_run: bool,
        /// Take the change back unless it is confirmed in time.
        confirm_within: Option<Duration>,
        /// Discard what was added, removed or disabled by command.
        discard_runtime: bool,
    },
    /// Keep the last change.
    Confirm,
    /// Take the last change back.
    Undo,
    /// Run the rules of a fragment in addition.
    Add {
        /// The file's name.
        label: String,
        /// Its text.
        text: String,
    },
    /// Remove a rule.
    Remove {
        /// Its name.
        name: String,
    },
    /// Run a rule that was disabled.
    Enable {
        /// Its name.
        name: String,
    },
    /// Stop a rule, and keep it.
    Disable {
        /// Its name.
        name: String,
    },
    /// The running rules as the text of a file.
    Save,
    /// Which rule takes a datagram, or why none does.
    Explain {
        /// The interface that it arrives on.
        interface: String,
        /// Its destination group.
        group: IpAddr,
        /// Its destination port.
        port: u16,
        /// Its source; `None` is one that no rule names.
        source: Option<IpAddr>,
        /// Its tags.
        vlan: Vlan,
        /// A file's name and text; `None` means the running rules.
        text: Option<(String, String)>,
    },
    /// Begin or end a tap.
    Tap(TapRequest),
    /// End the relay.
    Stop,
}

/// What is asked for of taps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapRequest {
    /// Begin one of a rule.
    Rule {
        /// Its name.
        name: String,
        /// Which of its copies.
        outputs: TapOutputs,
        /// Bytes of the ring in each worker.
        ring: usize,
    },
    /// Begin one of what the kernel program leaves to the network stack.
    Passed {
        /// The interface that it arrives on.
        interface: String,
    },
    /// End the one with this number.
    End(u64),
}

/// Which copies of a rule a tap shows, beside what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapOutputs {
    /// Those of one output, counted from 1.
    One(u32),
    /// All.
    All,
}

impl Request {
    /// Its name on the command line.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Reload { .. } => "reload",
            Self::Confirm => "confirm",
            Self::Undo => "undo",
            Self::Add { .. } => "add",
            Self::Remove { .. } => "remove",
            Self::Enable { .. } => "enable",
            Self::Disable { .. } => "disable",
            Self::Save => "save",
            Self::Explain { .. } => "explain",
            Self::Tap(_) => "tap",
            Self::Stop => "stop",
        }
    }

    /// Whether it makes other rules run, which an unconfirmed change forbids.
    #[must_use]
    pub fn changes_rules(&self) -> bool {
        match self {
            Self::Reload { dry_run, .. } => !dry_run,
            Self::Add { .. } | Self::Remove { .. } | Self::Enable { .. } | Self::Disable { .. } => {
                true
            }
            Self::Confirm
            | Self::Undo
            | Self::Save
            | Self::Explain { .. }
            | Self::Tap(_)
            | Self::Stop => false,
        }
    }

    /// Whether it may change what runs, or shows what only owners may see. Such requests are for the
    /// relay's owners only.
    #[must_use]
    pub fn is_change(&self) -> bool {
        !matches!(self, Self::Explain { text: None, .. })
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The rules were changed, or on a dry run would be.
    Changed(Change),
    /// The last change stays.
    Confirmed,
    /// The running rules as the text of a file.
    Rules(String),
    /// Which rule takes the datagram, or why none does.
    Explained(String),
    /// A tap began.
    #[serde(skip)]
    Tapping(Tapping),
    /// The relay ends.
    Stopping,
}

/// What a change did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The difference between the rules before and after, one text per line.
    pub lines: Vec<String>,
    /// What paused and for how long, one sentence each; on a dry run, what would pause and why.
    pub pauses: Vec<String>,
    /// False on a dry run.
    pub applied: bool,
    /// The rules and outputs that wait, each with its reason.
    pub pending: Vec<String>,
    /// How long the change waits for its confirmation, in seconds.
    pub confirm_within_seconds: Option<u64>,
}

/// Why a request was refused. Everything is as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The rules have mistakes, as `relay check` prints them.
    Mistakes(String),
    /// A reload would discard what was changed by command; the rules, each with what was done.
    WouldDiscard(Vec<String>),
    /// There is no rule of this name.
    NoSuchRule(String),
    /// Too many requests wait.
    Busy,
    /// The last change waits for its confirmation.
    Unconfirmed,
    /// No change waits for its confirmation.
    NothingToConfirm,
    /// There is no change to take back.
    NothingToUndo,
    /// There is nothing to tap, or too much is tapped already; why, and what to do.
    CannotTap(String),
    /// The kernel, or this machine, refused it.
    Refused {
        /// What was tried, on what, and what to do.
        reason: String,
        /// Whether everything is as before.
        restored: bool,
    },
    /// The relay ends.
    Ending,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mistakes(text) => f.write_str(text.trim_end()),
            Self::WouldDiscard(rules) => write!(
                f,
                "a reload would discard what was changed by command: {}; `relay save FILE` keeps \
                 it, `--discard-runtime` discards it",
                rules.join(", ")
            ),
            Self::NoSuchRule(name) => write!(
                f,
                "there is no rule {}; `relay rules` lists them",
                crate::config::quoted(name)
            ),
            Self::Busy => f.write_str("the relay is busy with other requests; try again"),
            Self::Unconfirmed => f.write_str(
                "the last change waits for its confirmation: `relay confirm` keeps it, `relay \
                 undo` takes it back",
            ),
            Self::NothingToConfirm => f.write_str(
                "no change waits for its confirmation: it was confirmed or taken back already",
            ),
            Self::NothingToUndo => f.write_str("there is no change to take back"),
            Self::CannotTap(reason) => f.write_str(reason),
            Self::Refused { reason, restored } => {
                let now = if *restored {
                    "everything is as before"
                } else {
                    "`relay status` shows what runs now"
                };
                write!(f, "{reason}. The change was refused; {now}")
            }
            Self::Ending => f.write_str("the relay ends"),
        }
    }
}

/// Takes the answer to one request. It must not wait.
pub type Reply = Box<dyn FnOnce(Result<Answer, Refusal>) + Send>;

/// What both sides share.
struct Shared {
    requests: Mutex<VecDeque<(Request, Reply)>>,
    published: Mutex<Published>,
    /// Somebody waits for a snapshot.
    wanted: AtomicBool,
    bell: Bell,
    /// Rings when a snapshot is published.
    news: OnceLock<Bell>,
}

/// The last snapshot.
#[derive(Default)]
struct Published {
    snapshot: Option<Arc<Snapshot>>,
    /// When it was made; `None` if something may have changed since.
    at: Option<Instant>,
    /// A change is under way, and the snapshot is from its beginning.
    changing: bool,
}

impl Published {
    fn is_fresh(&self) -> bool {
        self.changing || self.at.is_some_and(|at| at.elapsed() < FRESH)
    }
}

/// The side of other threads.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

/// The side of the main thread.
pub struct Mailbox(Arc<Shared>);

/// Both sides.
///
/// # Errors
///
/// The kernel refuses an eventfd.
pub fn pair() -> io::Result<(Handle, Mailbox)> {
    let shared = Arc::new(Shared {
        requests: Mutex::default(),
        published: Mutex::default(),
        wanted: AtomicBool::new(false),
        bell: Bell::new()?,
        news: OnceLock::new(),
    });
    Ok((Handle(Arc::clone(&shared)), Mailbox(shared)))
}

/// A thread that panicked with the lock left the value whole: every change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// The last snapshot, however old; `None` before the relay is ready.
    #[must_use]
    pub fn last_snapshot(&self) -> Option<Arc<Snapshot>> {
        lock(&self.0.published).snapshot.clone()
    }

    /// The last snapshot if it is less than a second old and nothing has changed since, or if a
    /// change is under way: then there is no other until that is over.
    #[must_use]
    pub fn fresh_snapshot(&self) -> Option<Arc<Snapshot>> {
        let published = lock(&self.0.published);
        let fresh = published.is_fresh();
        fresh.then(|| published.snapshot.clone()).flatten()
    }

    /// Asks the main thread for a snapshot. It is there once the bell of [`Handle::tell`] rings.
    pub fn want_snapshot(&self) {
        self.0.wanted.store(true, Relaxed);
        self.0.bell.ring();
    }

    /// Rings `bell` from now on whenever a snapshot is published. Only the first call counts.
    pub fn tell(&self, bell: Bell) {
        let _ = self.0.news.set(bell);
    }

    /// Asks for something. `reply` is called once: by the main thread, or, if too many requests
    /// wait, at once.
    pub fn ask(&self, request: Request, reply: Reply) {
        let mut requests = lock(&self.0.requests);
        if requests.len() >= MOST {
            drop(requests);
            reply(Err(Refusal::Busy));
            return;
        }
        requests.push_back((request, reply));
        drop(requests);
        self.0.bell.ring();
    }
}

impl Mailbox {
    /// Readable while requests wait.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.bell.fd()
    }

    /// The oldest request that waits.
    pub fn take(&self) -> Option<(Request, Reply)> {
        // Before the look, so that no request waits without a ring.
        self.0.bell.silence();
        let mut requests = lock(&self.0.requests);
        let first = requests.pop_front();
        if !requests.is_empty() {
            self.0.bell.ring();
        }
        first
    }

    /// Whether somebody waits for a snapshot, once. To be asked after [`Mailbox::take`].
    #[must_use]
    pub fn snapshot_is_wanted(&self) -> bool {
        self.0.wanted.swap(false, Relaxed)
    }

    /// Whether the last snapshot is less than a second old and nothing has changed since.
    #[must_use]
    pub fn snapshot_is_fresh(&self) -> bool {
        lock(&self.0.published).is_fresh()
    }

    /// A change begins, which may take long: until [`Mailbox::changed`] the last snapshot is what
    /// there is.
    pub fn changing(&self) {
        lock(&self.0.published).changing = true;
    }

    /// Something may have changed since the last snapshot.
    pub fn changed(&self) {
        let mut published = lock(&self.0.published);
        published.at = None;
        published.changing = false;
    }

    /// Replaces the snapshot.
    pub fn publish(&self, snapshot: Snapshot) {
        let mut published = lock(&self.0.published);
        published.snapshot = Some(Arc::new(snapshot));
        published.at = Some(Instant::now());
        drop(published);
        if let Some(bell) = self.0.news.get() {
            bell.ring();
        }
    }
}

impl Drop for Mailbox {
    /// Whoever waits gets an answer.
    fn drop(&mut self) {
        while let Some((_, reply)) = self.take() {
            reply(Err(Refusal::Ending));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn empty() -> Snapshot {
        serde_json::from_value(serde_json::json!({
            "version": "", "pid": 1, "taken_at": 0, "uptime_seconds": 0.0, "state": "healthy",
            "problems": [], "last_change": null, "interfaces": [], "rules": [],
            "totals": {
                "packets_received": 0, "packets_matched": 0, "packets_sent": 0, "dropped": {},
            },
            "rates": {"packets_received": 0.0, "packets_sent": 0.0, "dropped": 0.0},
        }))
        .unwrap()
    }

    #[test]
    fn a_snapshot_is_wanted_once_it_is_old_or_something_has_changed_but_not_during_a_change() {
        let (handle, mailbox) = pair().unwrap();
        let news = Bell::new().unwrap();
        handle.tell(news.clone());
        let rings = || crate::daemon::wait::wait([Some(news.fd())], Instant::now()) == [true];
        assert!(handle.last_snapshot().is_none());
        handle.want_snapshot();
        assert!(mailbox.take().is_none() && mailbox.snapshot_is_wanted());
        assert!(!mailbox.snapshot_is_wanted(), "once");
        assert!(!rings());
        mailbox.publish(empty());
        assert!(rings() && handle.fresh_snapshot().is_some());
        mailbox.changing();
        std::thread::sleep(FRESH);
        assert!(handle.fresh_snapshot().is_some(), "there is no other");
        mailbox.changed();
        assert!(handle.fresh_snapshot().is_none() && handle.last_snapshot().is_some());
        mailbox.publish(empty());
        assert!(handle.fresh_snapshot().is_some());
        std::thread::sleep(FRESH);
        assert!(handle.fresh_snapshot().is_none() && !mailbox.snapshot_is_fresh());
    }

    #[test]
    fn requests_are_answered_in_order_and_too_many_at_once() {
        let (handle, mailbox) = pair().unwrap();
        let (send, answers) = channel();
        for number in 0..=MOST {
            let send = send.clone();
            let name = number.to_string();
            handle.ask(
                Request::Remove { name },
                Box::new(move |answer| send.send((number, answer)).unwrap()),
            );
        }
        assert_eq!(answers.recv().unwrap(), (MOST, Err(Refusal::Busy)));
        for number in 0..MOST - 1 {
            let (request, reply) = mailbox.take().unwrap();
            assert_eq!(
                request,
                Request::Remove {
                    name: number.to_string()
                }
            );
            reply(Ok(Answer::Confirmed));
            assert_eq!(answers.recv().unwrap(), (number, Ok(Answer::Confirmed)));
        }
        drop(mailbox);
        assert_eq!(answers.recv().unwrap(), (MOST - 1, Err(Refusal::Ending)));
    }
}
