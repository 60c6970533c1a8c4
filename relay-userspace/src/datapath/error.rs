//! Why a worker could not be set up: what was tried, on what, and what to do.

use std::io;

use thiserror::Error;

use crate::{host::limits, kernel::KernelError, plan::Mode};

/// Why a worker could not be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The UMEM could not be registered.
    #[error(
        "cannot register a UMEM of {count} chunks of {size} bytes: {reason}; it counts as locked memory: grant CAP_IPC_LOCK \
         or raise `ulimit -l`{}",
        limits::of_addresses()
    )]
    Umem {
        /// Bytes per chunk.
        size: u32,
        /// How many chunks.
        count: u32,
        /// The kernel's reason.
        reason: String,
    },
    /// A socket could not be bound.
    #[error(
        "cannot bind an AF_XDP socket to queue {queue} of {interface} in {mode} mode: {error}{}{}",
        remedy_of_bind(*mode, error),
        limits::of_memory(error)
    )]
    Bind {
        /// The interface's name.
        interface: String,
        /// The queue.
        queue: u32,
        /// The mode asked for.
        mode: Mode,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The socket filter could not be put on a packet socket.
    #[error(transparent)]
    Filter(#[from] KernelError),
    /// A plan whose worker has a port on an interface that is not in it, which is a defect of the
    /// relay.
    #[error("the plan has a port on an interface that it does not have: please report it")]
    NoInterface,
    /// A plan that gives an io_uring worker no input, which is a defect of the relay.
    #[error("the plan has an io_uring worker without an input: please report it")]
    NoInput,
    /// A worker with a rule that has `local`, and no local device, which is a defect of the relay.
    #[error("a rule with `local` has no way back to the Linux stack: please report it")]
    NoLocalDevice,
    /// io_uring cannot be used.
    #[error("cannot use io_uring: {what}: {error}{remedy}")]
    IoUring {
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
        /// What to do.
        remedy: String,
    },
    /// The eventfd that wakes a worker.
    #[error(
        "cannot open an eventfd to wake a worker with: {0}{remedy}",
        remedy = limits::of_files(.0).unwrap_or_default()
    )]
    Bell(io::Error),
    /// The counters of a worker could not grow.
    #[error(
        "cannot make room for the counters of a worker's rules and outputs: {0}; use fewer rules or outputs, or allow the relay more \
         memory and addresses (`ulimit -v`, `sysctl vm.overcommit_memory`)"
    )]
    Counters(io::Error),
    /// The worker has not taken the last change of its table yet.
    #[error(
        "a worker has not taken its last rules yet: it hangs or has ended; try again; the relay ends by itself if it stays so"
    )]
    Untaken,
    /// A packet socket could not be set up.
    #[error(
        "cannot {what} on {interface}: {error}{}{}",
        remedy(error),
        limits::of_memory(error)
    )]
    Socket {
        /// The interface's name.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
}

/// What to do if the kernel refuses to bind an AF_XDP socket.
fn remedy_of_bind(mode: Mode, error: &io::Error) -> &'static str {
    match (mode, error.raw_os_error()) {
        (Mode::ZeroCopy, Some(libc::EINVAL)) => {
            "; a virtio-net device needs an IOMMU for it, `iommu_platform=on` in QEMU"
        }
        _ => remedy(error),
    }
}

/// What to do if the kernel refuses a socket.
fn remedy(error: &io::Error) -> &'static str {
    if let Some(remedy) = limits::of_files(error) {
        return remedy;
    }
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "; another program uses this queue: stop it, or leave the queue out with `queues`"
        }
        Some(libc::EINVAL) => "; look at the interface's queues with `ethtool -l` and at its MTU",
        Some(libc::EPERM | libc::EACCES) => "; CAP_NET_RAW is needed",
        Some(libc::ENODEV) => "; the interface has gone: `ip link show` lists those that exist",
        Some(libc::ENOMEM | libc::ENOBUFS) => "; memory is short: use fewer `queues`",
        _ => "",
    }
}
