//! Waiting for several file descriptors and a deadline at once.

use std::{
    os::fd::BorrowedFd,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// Waits until one of `fds` is readable, or until `deadline`. Returns which of them are, in their
/// order; all are false at the deadline. `None` stands for a descriptor that is not open now, and
/// is never readable. Takes no CPU time while it waits.
pub fn wait<const N: usize>(fds: [Option<BorrowedFd<'_>>; N], deadline: Instant) -> [bool; N] {
    let mut readable = [false; N];
    let open = fds.iter().flatten();
    let mut set: Vec<PollFd<'_>> = open.map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: the timeout has whole milliseconds, and 0 would not wait at all.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1));
        match poll(&mut set, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(0) if Instant::now() >= deadline => return readable,
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => break,
            // Never on a healthy system. What is done at deadlines goes on, and SIGKILL still ends
            // the relay.
            Err(_) => {
                thread::sleep(left);
                return readable;
            }
        }
    }
    let places = readable.iter_mut().zip(&fds);
    let places = places.filter_map(|(place, fd)| fd.is_some().then_some(place));
    for (place, polled) in places.zip(&set) {
        // An event that nix does not know counts as one: reading tells what it is.
        *place = polled.any().unwrap_or(true);
    }
    readable
}

/// Waits until one of `fds` is readable, for a thread that has nothing else to do. Returns whether
/// the first of them is.
pub fn wait_for_ever<'a>(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> bool {
    let fds = fds.into_iter();
    let mut set: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    // Whatever it returns, the caller reads everything without waiting.
    let _ = poll(&mut set, PollTimeout::NONE);
    set.first().is_some_and(|first| first.any() == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Bell;

    #[test]
    fn it_tells_which_of_the_open_ones_are_readable_and_ends_at_the_deadline() {
        let (one, two) = (Bell::new().unwrap(), Bell::new().unwrap());
        let soon = || Instant::now() + Duration::from_millis(20);
        let fds = || [Some(one.fd()), None, Some(two.fd())];
        let started = Instant::now();
        assert_eq!(wait(fds(), soon()), [false; 3]);
        assert!(started.elapsed() >= Duration::from_millis(20));
        two.ring();
        assert_eq!(
            wait(fds(), started + Duration::from_secs(60)),
            [false, false, true]
        );
        one.ring();
        one.ring();
        assert_eq!(wait(fds(), soon()), [true, false, true]);
        one.silence();
        two.silence();
        assert_eq!(wait(fds(), soon()), [false; 3]);
    }
}
