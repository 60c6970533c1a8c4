//! Errors of setting up the kernel side: each says what was tried, on what, and what to do.

use relay_common::{abi, matching::List};
use thiserror::Error;

use crate::host::limits;

/// Why the kernel side could not be set up.
#[derive(Debug, Error)]
pub enum KernelError {
    /// This build has no kernel programs embedded.
    #[error("this build of relay has no kernel programs in it: build it with `cargo xtask build`")]
    NotEmbedded,
    /// The kernel refused a program or one of its maps.
    #[error("cannot load {program}: {reason}{remedy}")]
    Load {
        /// The program: "the XDP program" or "the socket filter".
        program: &'static str,
        /// The kernel's reason.
        reason: String,
        /// What to do, starting with a semicolon, or empty.
        remedy: &'static str,
    },
    /// A map is missing or of another type than expected: the object is of another version.
    #[error(
        "the kernel programs have no usable map {0}: they were built from other sources, run `cargo xtask build`"
    )]
    Map(&'static str),
    /// The kernel refused a map entry.
    #[error("cannot write {what} into the map {map}: {reason}")]
    MapWrite {
        /// The map's name.
        map: &'static str,
        /// The entry.
        what: String,
        /// The kernel's reason.
        reason: String,
    },
    /// A caller used a program that was not loaded, because the plan does not need it.
    #[error(
        "{0} is not loaded: no input interface of the plan needs it. Please report this defect"
    )]
    NotLoaded(&'static str),
    /// Another process's program, or one attached by hand, is attached already.
    #[error("cannot attach to {interface}: {holder}")]
    Occupied {
        /// The interface's name.
        interface: String,
        /// The process that holds the hook, if known, and what to do.
        holder: String,
    },
    /// The interface's driver refused the program.
    #[error("cannot attach the XDP program to {interface} in native mode: {reason}{remedy}")]
    Attach {
        /// The interface's name.
        interface: String,
        /// The kernel's reason.
        reason: String,
        /// The kernel's error number, if there is one.
        code: Option<i32>,
        /// What to do, starting with a semicolon, or empty.
        remedy: &'static str,
    },
    /// There is no way back to the Linux stack for frames of rules with `local`.
    #[error(
        "cannot give frames of rules with `local` that arrive on {interface} to this host as well: cannot {what}: \
         {reason}{remedy}"
    )]
    LocalDevice {
        /// The input interface's name.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        reason: String,
        /// The kernel's error number, if there is one.
        code: Option<i32>,
        /// What to do, starting with a semicolon, or empty.
        remedy: &'static str,
    },
    /// A packet socket refused the filter.
    #[error("cannot attach the socket filter to a packet socket: {reason}{remedy}")]
    AttachFilter {
        /// The kernel's reason.
        reason: String,
        /// What to do, starting with a semicolon, or empty.
        remedy: &'static str,
    },
    /// Every slot serves another interface.
    #[error(
        "cannot receive on {interface}: one relay receives on at most {max} interfaces; remove rules of another input \
         interface, or move rules to a second relay", max = abi::MAX_INTERFACES
    )]
    TooManyInterfaces {
        /// The interface's name.
        interface: String,
    },
    /// Every bucket has the limit of another rule.
    #[error(
        "the rule \"{rule}\" has a limit, and the running relay has room for {max} limits: remove the limit of another \
         rule, or restart the relay, which then makes room for twice as many as its rules have"
    )]
    TooManyLimits {
        /// The rule's name.
        rule: String,
        /// How many limits there is room for.
        max: u32,
    },
    /// The rules of an interface have too many shapes ([`relay_common::matching::Shape`]).
    #[error(
        "cannot take the rule \"{rule}\": the rules of one interface can have at most {max} combinations of prefix length \
         and kind of port (one, a range, any), for each IP version and with or without a source; give it a prefix \
         length that other rules have", max = List::LEN
    )]
    TooManyShapes {
        /// The rule's name.
        rule: String,
    },
    /// A flow was opened on an interface that is not served.
    #[error(
        "cannot take the rule \"{rule}\": its input interface is not served. Please report this defect"
    )]
    NotServed {
        /// The rule's name.
        rule: String,
    },
    /// The interface has a queue that the XSKMAP has no entry for.
    #[error("{interface} has a queue {queue}, and one relay can serve queues below {max}", max = abi::MAX_QUEUES)]
    TooManyQueues {
        /// The interface's name.
        interface: String,
        /// The queue.
        queue: u32,
    },
}

impl KernelError {
    /// The interface whose driver refuses native XDP, so that io_uring can serve it instead. `None`
    /// for errors that io_uring would not avoid, such as an occupied or vanished interface or a
    /// missing privilege.
    #[must_use]
    pub fn refused_interface(&self) -> Option<&str> {
        match self {
            Self::Attach {
                code: Some(libc::EPERM | libc::EACCES | libc::ENODEV | libc::EMFILE | libc::ENFILE),
                ..
            } => None,
            Self::Attach { interface, .. } => Some(interface),
            _ => None,
        }
    }
}

/// The error for a program or map that the kernel refused.
pub(super) fn loading(
    program: &'static str,
    error: &(dyn std::error::Error + 'static),
) -> KernelError {
    KernelError::Load {
        program,
        reason: chain(error),
        remedy: match (os_error(error), limits::of_files_by_code(os_error(error))) {
            (_, Some(remedy)) => remedy,
            (Some(libc::EPERM), None) => {
                "; CAP_BPF is needed, since `kernel.unprivileged_bpf_disabled` keeps others from loading programs, and in a \
                 container its seccomp profile must allow bpf()"
            }
            _ => "; `RUST_LOG=debug` shows the verifier's log. Linux 5.10 or later is needed",
        },
    }
}

/// The system's error number at the end of a chain of errors.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::raw_os_error)
        {
            return Some(code);
        }
        next = error.source();
    }
    None
}

/// An error and its causes, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The error for a map entry that the kernel refused; `what` is the entry.
pub(super) fn map_write(
    map: &'static str,
    what: impl Into<String>,
    error: &(dyn std::error::Error + 'static),
) -> KernelError {
    KernelError::MapWrite {
        map,
        what: what.into(),
        reason: chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_interface_that_refuses_native_xdp_itself_asks_for_the_other_backend() {
        let attach = |code| KernelError::Attach {
            interface: "in0".into(),
            reason: String::new(),
            code,
            remedy: "",
        };
        for code in [
            Some(libc::EOPNOTSUPP),
            Some(libc::ERANGE),
            Some(libc::ENOSPC),
            None,
        ] {
            assert_eq!(attach(code).refused_interface(), Some("in0"), "{code:?}");
        }
        for code in [
            libc::EPERM,
            libc::EACCES,
            libc::ENODEV,
            libc::EMFILE,
            libc::ENFILE,
        ] {
            assert_eq!(attach(Some(code)).refused_interface(), None, "{code}");
        }
        let occupied = KernelError::Occupied {
            interface: "in0".into(),
            holder: String::new(),
        };
        assert_eq!(occupied.refused_interface(), None);
        assert_eq!(KernelError::NotEmbedded.refused_interface(), None);
    }
}
