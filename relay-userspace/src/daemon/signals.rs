//! The signals that end the relay or ask it to reload its rules, as file descriptors.
//!
//! SIGTERM and SIGINT end it. SIGHUP has two meanings: from a terminal that closes, it ends the
//! relay as SIGTERM does, with its report; from anything else, it asks for a reload. A signal that
//! ends the relay is never taken off: once it has come, every later look and wait sees it.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use log::info;
use nix::{errno::Errno, unistd::isatty};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    low_level::pipe,
};

use super::{service_manager::Pings, wait::wait};
use crate::host::Bell;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM, SIGINT, or SIGHUP of a terminal that has gone: end the relay.
    End,
    /// SIGHUP: read the rule file anew.
    Reload,
}

/// The sockets that the signal handlers write into.
#[derive(Debug)]
pub struct Signals {
    /// Becomes readable with SIGTERM or SIGINT, and stays so.
    ends: UnixStream,
    /// Becomes readable with SIGHUP.
    hangups: UnixStream,
    /// Sent while the main thread waits for something else on purpose.
    pings: Pings,
    /// Rings when there is something that such a wait must not hold up.
    news: Option<Bell>,
}

impl Signals {
    /// Takes over the handling of the signals.
    ///
    /// # Errors
    ///
    /// The system call fails.
    pub fn handle() -> io::Result<Self> {
        let (ends, handler) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, handler.try_clone()?)?;
        }
        let (hangups, handler) = UnixStream::pair()?;
        hangups.set_nonblocking(true)?;
        pipe::register(SIGHUP, handler)?;
        Ok(Self {
            ends,
            hangups,
            pings: Pings::default(),
            news: None,
        })
    }

    /// Keeps the service manager's watchdog content during [`Signals::end_before`].
    pub fn ping_while_waiting(&mut self, pings: Pings) {
        self.pings = pings;
    }

    /// Lets this bell be heard by [`Signals::has_news`].
    pub fn interrupt_by(&mut self, news: Bell) {
        self.news = Some(news);
    }

    /// Whether the bell rings.
    #[must_use]
    pub fn has_news(&self) -> bool {
        let bell = self.news.as_ref().map(Bell::fd);
        wait([bell], Instant::now()) == [true]
    }

    /// The descriptors to wait on, see [`super::wait`]. When one is readable, call
    /// [`Signals::take`].
    #[must_use]
    pub fn fds(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [Some(self.ends.as_fd()), Some(self.hangups.as_fd())]
    }

    /// What the signals that have come ask for, without waiting. [`Request::End`] comes again with
    /// every call, [`Request::Reload`] once for all SIGHUPs that have come.
    #[must_use]
    pub fn take(&self) -> Option<Request> {
        let [ends, hangups] = wait(self.fds(), Instant::now());
        if ends {
            return Some(Request::End);
        }
        if !hangups {
            return None;
        }
        if terminal_has_gone() {
            info!("SIGHUP: the terminal has gone");
            return Some(Request::End);
        }
        let mut signals = [0; 64];
        // Several may have come; one answer is enough.
        while (&self.hangups)
            .read(&mut signals)
            .is_ok_and(|count| count == signals.len())
        {}
        Some(Request::Reload)
    }

    /// Waits for a signal that ends the relay; false if none has come by `deadline`. Leaves a
    /// reload for [`Signals::take`].
    ///
    /// The main thread calls this where it waits on purpose, for a fraction of a second each time,
    /// so the service manager gets the pings that are due.
    #[must_use]
    pub fn end_before(&self, deadline: Instant) -> bool {
        self.pings.ping(Instant::now());
        match wait(self.fds(), deadline) {
            [true, _] => true,
            [false, false] => false,
            [false, true] if terminal_has_gone() => true,
            // The reload stays readable: wait for the others alone.
            [false, true] => wait([Some(self.ends.as_fd())], deadline) == [true],
        }
    }
}

/// A terminal that was closed answers every request with EIO (`hung_up_tty_ioctl` in
/// drivers/tty/tty_io.c).
fn terminal_has_gone() -> bool {
    let gone = |fd: BorrowedFd<'_>| isatty(fd) == Err(Errno::EIO);
    gone(io::stdin().as_fd()) || gone(io::stdout().as_fd()) || gone(io::stderr().as_fd())
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use super::*;

    /// Without signals, which would be those of all tests of the process: the test writes what the
    /// handlers write. tests/end-to-end sends real ones.
    #[test]
    fn a_reload_is_asked_for_once_and_the_end_for_ever() {
        let (ends, mut end) = UnixStream::pair().unwrap();
        let (hangups, mut hangup) = UnixStream::pair().unwrap();
        hangups.set_nonblocking(true).unwrap();
        let signals = Signals {
            ends,
            hangups,
            pings: Pings::default(),
            news: None,
        };
        assert_eq!(signals.take(), None);
        hangup.write_all(b"XX").unwrap();
        assert!(!signals.end_before(Instant::now()));
        assert!(!signals.end_before(Instant::now() + Duration::from_millis(20)));
        assert_eq!(signals.take(), Some(Request::Reload));
        assert_eq!(signals.take(), None);
        end.write_all(b"X").unwrap();
        hangup.write_all(b"X").unwrap();
        assert!(signals.end_before(Instant::now() + Duration::from_secs(60)));
        assert_eq!(wait(signals.fds(), Instant::now()), [true, true]);
        for _ in 0..2 {
            assert_eq!(signals.take(), Some(Request::End));
        }
        assert!(signals.end_before(Instant::now()));
    }
}
