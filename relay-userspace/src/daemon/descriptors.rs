//! Checks before the start how many file descriptors the relay needs, and whether it may have them.
//!
//! Later on, a missing descriptor looks like something else: a NIC that does not answer, a ring
//! that the kernel refuses, a carrier that does not come back.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;

use super::memberships;
use crate::plan::{Backend, Plan};

/// Descriptors that asking about interfaces takes at once, beside those that are open.
pub const TO_ASK: u64 = 8;
/// Descriptors that the relay holds, or opens for a moment, with any plan: signals, netlink,
/// `/proc`, the programs, their maps and their links' info, the local device; and the control
/// socket and the metrics, each with its clients.
const WHATEVER_THE_PLAN: u64 = 42 + 2 * 70;
/// An AF_XDP socket, and the socket that libxdp opens to ask about its device.
const A_PORT: u64 = 2;
/// The two packet sockets of a TX socket: one goes straight to the device, one through its queue.
const A_TX_SOCKET: u64 = 2;

/// The limit of open files is below what is needed.
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
/// If the kernel refuses, the limit stays as it is; [`check`] says whether it is enough.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Checks whether this process may open `more` files.
///
/// # Errors
///
/// The limit is too low.
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

/// How many files the relay opens to run `plan`.
#[must_use]
pub fn needed(plan: &Plan) -> u64 {
    let claims = plan.interfaces.iter().filter(|i| i.is_input).count();
    let workers: u64 = plan
        .workers
        .iter()
        .map(|worker| {
            let ring = match worker.backend {
                // The bell, and the descriptor by which its sockets share their memory.
                Backend::Xdp => 2,
                // The bell, the ring, and the packet socket that receives.
                Backend::IoUring => 3,
            };
            let tx_sockets = worker.tx_sockets.len() as u64;
            let local = plan.local_inputs(worker).len() as u64;
            ring + A_PORT * worker.ports.len() as u64 + A_TX_SOCKET * tx_sockets + local
        })
        .sum();
    let programs = plan.interfaces.iter().filter(|i| i.needs_program()).count();
    let joined = memberships::sockets_for(plan) as u64;
    let held = plan.sinks().len() as u64;
    WHATEVER_THE_PLAN + claims as u64 + workers + programs as u64 + joined + held
}

/// The number of open files: the limit if none is left to read `/proc`, 3 if `/proc` is unreadable.
fn open_now() -> u64 {
    let count = fs::read_dir("/proc/self/fd").map(|files| files.count() as u64);
    match count {
        // The descriptor that lists them is among them.
        Ok(count) => count.saturating_sub(1),
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => allowed(),
        Err(_) => 3,
    }
}

fn allowed() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(3, |(soft, _)| soft)
}
