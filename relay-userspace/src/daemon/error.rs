//! The errors that keep the relay from running, or end a run.

use std::io;

use thiserror::Error;

use super::{
    claim::ClaimError, descriptors::TooFew, memberships::MembershipError,
    privileges::MissingPrivilege,
};
use crate::{config::Mistakes, datapath::SetupError, kernel::KernelError};

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
    /// A system call failed that never fails on a healthy system.
    #[error("cannot {what}: {error}{}", remedy(error))]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// Workers ended by a defect of the relay.
    #[error(
        "{0} of the workers ended because of a defect of the relay; the messages above say where. Please report them"
    )]
    Defect(usize),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            "; raise the limit of threads, `ulimit -u`, or `TasksMax` of the unit"
        }
        Some(libc::EMFILE) => {
            "; raise the limit of open files, `ulimit -n`, or `LimitNOFILE` of the unit"
        }
        Some(libc::ENFILE) => "; raise `sysctl fs.file-max`",
        _ => "",
    }
}
