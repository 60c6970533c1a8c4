//! The signals that end the relay, as something that a thread can wait for.
//!
//! Waiting takes no CPU time: the thread that waits may share a CPU with a worker.
//!
//! SIGHUP has two meanings. From a terminal that closes, it ends the relay as SIGTERM does, with
//! its report. From anything else, it asks a daemon to read its configuration anew. The relay
//! cannot do that yet: it logs so, and goes on.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use log::{info, warn};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::isatty,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    low_level::pipe,
};

/// The sockets that the signal handlers write into.
#[derive(Debug)]
pub struct Stop {
    /// Becomes readable with SIGTERM or SIGINT, and stays so.
    ends: UnixStream,
    /// Becomes readable with SIGHUP.
    hangups: UnixStream,
}

impl Stop {
    /// Takes over the handling of the signals.
    ///
    /// # Errors
    ///
    /// The system call fails.
    pub fn on_signals() -> io::Result<Self> {
        let (ends, handler) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, handler.try_clone()?)?;
        }
        let (hangups, handler) = UnixStream::pair()?;
        hangups.set_nonblocking(true)?;
        pipe::register(SIGHUP, handler)?;
        Ok(Self { ends, hangups })
    }

    /// Waits for a signal that ends the relay; false if none has come by `deadline`.
    pub fn comes_before(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: the timeout has whole milliseconds, and 0 would not wait at all.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
            let mut set = [&self.ends, &self.hangups]
                .map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN));
            match poll(&mut set, timeout.unwrap_or(PollTimeout::MAX)) {
                Ok(0) if Instant::now() >= deadline => return false,
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    let [ends, hangups] = set.map(|fd| fd.any().unwrap_or(true));
                    if ends || hangups && self.hangup_ends() {
                        return true;
                    }
                }
                // Never on a healthy system. The log's line per second goes on, and SIGKILL still
                // ends the relay.
                Err(_) => {
                    thread::sleep(left);
                    return false;
                }
            }
        }
    }

    /// Whether the SIGHUP that has come ends the relay. If so, it stays readable, as the other
    /// signals do.
    fn hangup_ends(&self) -> bool {
        if terminal_has_gone() {
            info!("SIGHUP: the terminal has gone");
            return true;
        }
        let mut signals = [0; 64];
        // Several may have come; one answer is enough.
        while (&self.hangups)
            .read(&mut signals)
            .is_ok_and(|count| count == signals.len())
        {}
        warn!(
            "SIGHUP is ignored: rules cannot be reloaded while the relay runs. To apply a changed file, restart it"
        );
        false
    }
}

/// A terminal that was closed answers every request with EIO (`hung_up_tty_ioctl` in
/// drivers/tty/tty_io.c).
fn terminal_has_gone() -> bool {
    let gone = |fd: BorrowedFd<'_>| isatty(fd) == Err(Errno::EIO);
    gone(io::stdin().as_fd()) || gone(io::stdout().as_fd()) || gone(io::stderr().as_fd())
}
