//! A thread that drains sockets into a shared state, and the ways to wait for that state.
//!
//! Every receiver of the testbed is one of these, so waiting is the same everywhere: for a
//! condition (woken by the thread that fills the state, never by polling), or for quiet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

struct Shared<T> {
    state: Mutex<T>,
    changed: Condvar,
    stop: EventFd,
    /// Why the thread ended before it was told to.
    failed: OnceLock<String>,
}

impl<T> Shared<T> {
    /// Ends the test: counts that stand still would let it pass where nothing may arrive.
    #[track_caller]
    fn assert_alive(&self) {
        let failed = self.failed.get();
        assert!(failed.is_none(), "a receiving thread ended: {failed:?}");
    }

    fn fail(&self, error: String) {
        eprintln!("testbed: a receiving thread ends: {error}");
        // The first one counts.
        let _ = self.failed.set(error);
        self.changed.notify_all();
    }
}

/// A receiving thread and its state; dropping it ends the thread.
pub struct Background<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T> std::fmt::Debug for Background<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Background")
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

/// A poisoned lock means only that a thread of the test panicked while it looked; the counts are
/// true.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static> Background<T> {
    /// Starts a thread that calls `drain(position, socket, state)` whenever a socket has a message.
    /// `drain` receives one batch and returns how many messages it had.
    pub fn start(
        name: &str,
        sockets: Vec<OwnedFd>,
        state: T,
        drain: impl FnMut(usize, BorrowedFd<'_>, &Mutex<T>) -> io::Result<usize> + Send + 'static,
    ) -> Result<Self> {
        // A program that a test starts at this moment must not inherit it.
        let stop = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)
            .context("creating an eventfd")?;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            stop,
            failed: OnceLock::new(),
        });
        let thread = thread::Builder::new()
            .name(format!("receive-{name}"))
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&sockets, &shared, drain)
            })
            .context("starting a receiving thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Looks at the state. Panics if the thread ended by an error.
    #[track_caller]
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        self.shared.assert_alive();
        self.as_it_is(look)
    }

    /// Looks at the state, also if the thread ended by an error.
    pub fn as_it_is<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&lock(&self.shared.state))
    }

    /// Waits until `condition` holds; false if it still does not after `timeout`. Panics if the
    /// thread ended by an error.
    #[track_caller]
    pub fn wait_until(&self, timeout: Duration, mut condition: impl FnMut(&T) -> bool) -> bool {
        let guard = lock(&self.shared.state);
        let failed = || self.shared.failed.get().is_some();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(guard, timeout, |state| !condition(state) && !failed());
        let (guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        self.shared.assert_alive();
        !result.timed_out()
    }

    /// Waits until `count` has not changed for `quiet`.
    pub fn settle(&self, quiet: Duration, count: impl Fn(&T) -> u64) {
        let mut last = self.with(&count);
        while self.wait_until(quiet, |state| count(state) != last) {
            last = self.with(&count);
        }
    }
}

impl<T> Background<T> {
    /// Ends the thread after it has drained what is there.
    pub fn stop(&mut self) {
        // A counter at its limit is already readable.
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened; the state shows what is missing.
            let _ = thread.join();
        }
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread: polls, drains every readable socket, and wakes the threads that wait.
fn run<T>(
    sockets: &[OwnedFd],
    shared: &Shared<T>,
    mut drain: impl FnMut(usize, BorrowedFd<'_>, &Mutex<T>) -> io::Result<usize>,
) {
    let mut fds: Vec<_> = sockets
        .iter()
        .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN))
        .collect();
    fds.push(PollFd::new(shared.stop.as_fd(), PollFlags::POLLIN));
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => {
                shared.fail(format!("poll: {e}"));
                return;
            }
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let stopped = fds.last().is_some_and(ready);
        for (i, socket) in sockets.iter().enumerate() {
            if !stopped && !fds.get(i).is_some_and(ready) {
                continue;
            }
            // What is in the socket when the thread is stopped still counts, so drain to the end.
            loop {
                match drain(i, socket.as_fd(), &shared.state) {
                    Ok(0) => break,
                    Ok(_) if stopped => {}
                    Ok(_) => break,
                    // An interface that goes down is reported once on its packet sockets.
                    Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => break,
                    Err(e) => {
                        shared.fail(e.to_string());
                        return;
                    }
                }
            }
        }
        shared.changed.notify_all();
        if stopped {
            return;
        }
    }
}

/// Waits until `condition` holds by polling it every 10 ms: for states of another process or of the
/// kernel, which come with no event. Returns how long that took, `None` after `timeout`.
pub fn eventually(timeout: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if condition() {
            return Some(start.elapsed());
        }
        if start.elapsed() > timeout {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
