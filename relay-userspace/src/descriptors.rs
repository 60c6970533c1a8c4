//! File descriptors: how many the relay needs, and whether it may have them, before it starts.
//!
//! Half-way a missing descriptor looks like something else: a NIC that cannot be asked, a ring that
//! the kernel refuses, a carrier that does not come back.

use std::{fs, io};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;

use crate::{
    membership,
    plan::{Backend, Plan},
};

/// What asking about interfaces takes at once, beside what is open.
pub const TO_ASK: u64 = 8;
/// What the relay holds or opens for a moment whatever the plan: signals, netlink, `/proc`, the
/// programs, their maps and their links' info.
const WHATEVER_THE_PLAN: u64 = 40;
/// An AF_XDP socket, and the socket that libxdp opens to ask about its device.
const A_PORT: u64 = 2;
/// The packet sockets that a worker sends by on one interface, one for each way to the device.
const A_SENDER: u64 = 2;

/// The limit does not allow what is needed.
#[derive(Debug, Error)]
#[error(
    "{purpose} takes {needed} open files, and this process may have {allowed}: raise the limit, `ulimit -n {needed}`, \
     or in a systemd unit `LimitNOFILE={needed}`"
)]
pub struct TooFew {
    purpose: &'static str,
    needed: u64,
    allowed: u64,
}

/// Raises the limit of open files as far as this process may.
///
/// It stays what it is where that is refused; [`check`] tells whether it is enough.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Whether this process may open `more` files.
///
/// # Errors
///
/// It may not.
pub fn check(purpose: &'static str, more: u64) -> Result<(), TooFew> {
    let needed = open_now() + more;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((allowed, _)) if allowed < needed => Err(TooFew {
            purpose,
            needed,
            allowed,
        }),
        _ => Ok(()),
    }
}

/// How many files running `plan` opens.
#[must_use]
pub fn needed(plan: &Plan) -> u64 {
    let claims = plan.interfaces.iter().filter(|i| i.is_input).count();
    let workers: u64 = plan
        .workers
        .iter()
        .map(|worker| {
            let ring = match worker.backend {
                Backend::Xdp => 0,
                // The ring and the packet socket that receives.
                Backend::IoUring => 2,
            };
            let senders = worker.senders.len() as u64;
            ring + A_PORT * worker.ports.len() as u64 + A_SENDER * senders
        })
        .sum();
    let programs = plan.interfaces.iter().filter(|i| i.needs_program()).count();
    let joined = membership::sockets_for(plan) as u64;
    WHATEVER_THE_PLAN + claims as u64 + workers + programs as u64 + joined
}

/// The files that are open; three where `/proc` does not tell, or no file may be opened to ask.
fn open_now() -> u64 {
    let count = fs::read_dir("/proc/self/fd").map(|files| files.count() as u64);
    match count {
        // The one that lists them is among them.
        Ok(count) => count.saturating_sub(1),
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => allowed(),
        Err(_) => 3,
    }
}

fn allowed() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(3, |(soft, _)| soft)
}

/// Whether an error says that there are too few.
#[must_use]
pub fn are_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
