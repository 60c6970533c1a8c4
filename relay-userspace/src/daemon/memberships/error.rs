//! Why a group could not be joined, and what to do.

use std::{fmt, io, net::IpAddr};

use super::Membership;
use crate::host::limits;

/// Why a group could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// No socket could be opened for it.
    #[error("opening socket {number} for group memberships: {}", of_socket(source))]
    Socket {
        /// Counted from 1.
        number: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused the membership.
    #[error(
        "joining group {} on interface {interface}: {}",
        Shown(membership),
        remedy(membership, source)
    )]
    Join {
        /// The input interface.
        interface: String,
        /// The group, and its source.
        membership: Membership,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// "239.1.1.1", or "232.1.1.1 of source 10.1.1.7"
struct Shown<'m>(&'m Membership);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.group)?;
        match self.0.source {
            Some(source) => write!(f, " of source {source}"),
            None => Ok(()),
        }
    }
}

fn of_socket(error: &io::Error) -> String {
    if let Some(remedy) = limits::of_files(error) {
        return format!("{error}{remedy}; 20 groups take one");
    }
    let hint = match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => "this kernel has no IPv6, or boots with `ipv6.disable=1`",
        _ => "`ip maddress show` lists what is joined",
    };
    format!("{error}; {hint}")
}

fn remedy(membership: &Membership, error: &io::Error) -> String {
    let hint = match (error.raw_os_error(), membership.group) {
        (Some(libc::ENOBUFS), IpAddr::V4(_)) => {
            "raise `sysctl net.ipv4.igmp_max_memberships`, it must not be 0, or `sysctl \
             net.core.optmem_max`"
        }
        (Some(libc::ENODEV | libc::EINVAL), IpAddr::V6(_)) => {
            "the interface has gone, or it has no IPv6: its MTU must be at least 1280"
        }
        (Some(libc::ENODEV), IpAddr::V4(_)) => {
            "the interface has gone, or its MTU is too small for IPv4"
        }
        (Some(libc::ENOBUFS | libc::ENOMEM), _) => {
            "raise `sysctl net.core.optmem_max`, or free memory"
        }
        _ => "`ip maddress show` lists what is joined",
    };
    format!("{error}; {hint}")
}
