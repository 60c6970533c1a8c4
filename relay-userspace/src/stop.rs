//! The signals that end the relay, as something to wait for.
//!
//! Waiting takes no CPU time until one comes: the thread that waits may share a CPU with a worker.

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::pipe,
};

/// Becomes readable with SIGTERM or SIGINT.
#[derive(Debug)]
pub struct Stop(UnixStream);

impl Stop {
    /// Takes over the handling of the signals.
    ///
    /// # Errors
    ///
    /// The system call's.
    pub fn on_signals() -> io::Result<Self> {
        let (stop, handler) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, handler.try_clone()?)?;
        }
        Ok(Self(stop))
    }

    /// Waits for a signal; false if none has come at `deadline`.
    pub fn comes_before(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: whole milliseconds, and 0 would be no waiting at all.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
            let mut set = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut set, timeout.unwrap_or(PollTimeout::MAX)) {
                Ok(0) if Instant::now() >= deadline => return false,
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return true,
                // Never on a healthy system; the line a second goes on, and SIGKILL still ends the relay.
                Err(_) => {
                    thread::sleep(left);
                    return false;
                }
            }
        }
    }
}
