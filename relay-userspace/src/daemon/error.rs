//! The errors that keep the relay from running, or end a run.

use std::io;

use thiserror::Error;

use super::{
    claim::ClaimError, descriptors::TooFew, memberships::MembershipError, offloads::OffloadError,
    privileges::MissingPrivilege,
};
use crate::{config::Mistakes, datapath::SetupError, host::limits, kernel::KernelError};

/// The errors that keep the relay from running, or end a run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The rules cannot run on this machine.
    #[error(transparent)]
    Rules(#[from] Mistakes),
    /// A capability is missing.
    #[error(transparent)]
    Privilege(#[from] MissingPrivilege),
    /// The relay would open more files than it may.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// Another relay receives on an input interface.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The kernel program could not be set up.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The sockets could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A group could not be joined.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// An offload could not be switched off.
    #[error(transparent)]
    Offload(#[from] OffloadError),
    /// A system call failed that never fails on a healthy system.
    #[error("cannot {what}: {error}{}", remedy(error))]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The kernel goes on refusing one thing after another.
    #[error(
        "the interfaces change faster than the relay can follow, or refuse one thing after another; the messages above \
         say what was tried"
    )]
    Unsettled,
    /// Rules or outputs would wait, and the user asked for none.
    #[error("not everything can run, and `--strict` asks for it: {0}")]
    Waiting(String),
    /// A worker has not taken its new rules.
    #[error(
        "worker {0} has not taken its new rules for 2 s. This is a defect of the relay, or of a driver; please report it"
    )]
    Untaken(usize),
    /// Workers ended by a defect of the relay.
    #[error(
        "{0} of the workers ended because of a defect of the relay; the messages above say where. Please report them"
    )]
    Defect(usize),
    /// Workers have not ended when the relay did.
    #[error(
        "worker {} had not ended when the relay did; the kernel releases all that it holds. This is a defect of the \
         relay, or of a driver; please report it",
        listed(.0)
    )]
    HangAtEnd(Vec<usize>),
    /// A worker stands still. Nothing can end its thread, so the process must end.
    #[error(
        "{worker} has stood still for {seconds} s, so the relay ends; the kernel releases all that it holds. This is a \
         defect of the relay, or of a driver; please report it"
    )]
    Hang {
        /// Its name.
        worker: String,
        /// For how long.
        seconds: u64,
    },
}

fn listed(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(" and worker ")
}

fn remedy(error: &io::Error) -> String {
    if let Some(remedy) = limits::of_files(error) {
        return remedy.into();
    }
    match error.raw_os_error() {
        Some(libc::EAGAIN) => limits::of_threads(),
        _ => limits::of_memory(error).into(),
    }
}
