//! Whether this process can use io_uring here, found out before anything is set up.
//!
//! Linux 6.2 is needed: since then packet sockets take and give UDP GSO packets. The ring itself
//! needs 6.1 (`IORING_SETUP_DEFER_TASKRUN`), so a kernel that makes it has every other io_uring
//! feature that the relay uses. Administrators disable io_uring by sysctl, container runtimes by
//! seccomp.

use std::{fs, io};

use nix::errno::Errno;

use super::ring::ring;
use crate::{datapath::error::SetupError, host::limits};

/// The sysctl that disables io_uring (Documentation/admin-guide/sysctl/kernel.rst, Linux 6.6).
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// Makes a ring and closes it.
///
/// # Errors
///
/// Why there is no ring, and what to do.
pub fn probe() -> Result<(), SetupError> {
    match ring(2) {
        Ok(ring) if ring.params().is_feature_nodrop() && ring.params().is_feature_ext_arg() => {
            Ok(())
        }
        Ok(_) => Err(refused(Errno::EINVAL.into(), None)),
        Err(error) => Err(explain(error)),
    }
}

/// Why there is no ring, and what to do.
pub(super) fn explain(error: io::Error) -> SetupError {
    refused(error, fs::read_to_string(SYSCTL).ok().as_deref())
}

/// `disabled` is the value of the sysctl, if the kernel has it.
fn refused(error: io::Error, disabled: Option<&str>) -> SetupError {
    let other = || match (error.raw_os_error(), disabled.map(str::trim)) {
        (Some(libc::EPERM), Some("2")) => {
            "; kernel.io_uring_disabled is 2, which forbids it to every process: `sysctl -w kernel.io_uring_disabled=0` allows it"
        }
        (Some(libc::EPERM), Some("1")) => {
            "; kernel.io_uring_disabled is 1, which forbids it to processes without privilege: `sysctl -w kernel.io_uring_disabled=0` \
             allows it, or give the relay CAP_SYS_ADMIN or a group that `sysctl kernel.io_uring_group` names"
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "; a seccomp filter or a security module forbids it, as container runtimes do by default: allow io_uring_setup, \
             io_uring_enter and io_uring_register in the container's seccomp profile"
        }
        (Some(libc::ENOSYS), _) => {
            "; this kernel was built without it (CONFIG_IO_URING), or a seccomp filter hides it: allow io_uring_setup, \
             io_uring_enter and io_uring_register in the container's seccomp profile"
        }
        (Some(libc::EINVAL), _) => "; Linux 6.2 or later is needed",
        (Some(libc::ENOMEM), _) => {
            "; memory is short: raise `ulimit -l` or the memory limit of its control group"
        }
        _ => "; only interfaces with native XDP work without it",
    };
    let remedy = limits::of_files(&error).unwrap_or_else(other);
    let of_memory = limits::of_memory(&error);
    SetupError::IoUring {
        what: "making a ring (io_uring_setup)",
        error,
        remedy: format!("{remedy}{of_memory}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_forbids_it_is_named_with_the_remedy() {
        let cases = [
            (
                libc::EPERM,
                Some("2\n"),
                "sysctl -w kernel.io_uring_disabled=0",
            ),
            (libc::EPERM, Some("1\n"), "CAP_SYS_ADMIN"),
            (libc::EPERM, Some("0\n"), "seccomp"),
            (libc::EPERM, None, "seccomp"),
            (libc::ENOSYS, None, "CONFIG_IO_URING"),
            (libc::EINVAL, Some("0\n"), "Linux 6.2"),
        ];
        for (number, disabled, word) in cases {
            let error = refused(io::Error::from_raw_os_error(number), disabled).to_string();
            assert!(error.starts_with("cannot use io_uring: "), "{error}");
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn it_is_there_on_the_machine_of_the_tests() {
        probe().unwrap();
    }
}
