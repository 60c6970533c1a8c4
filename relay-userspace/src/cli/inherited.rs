//! What the process has from the one that started it, and does not want.

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// Lets every signal come that the parent had blocked, which would keep SIGTERM from ending the
/// relay; and takes the end of a file's allowed size (`ulimit -f`, `LimitFSIZE`) as an error of the
/// write, where SIGXFSZ would end the relay with its log. Called before any thread is started.
pub fn put_right() {
    // Neither can fail for these arguments.
    let _ = SigSet::empty().thread_set_mask();
    // SAFETY: no handler is installed.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}
