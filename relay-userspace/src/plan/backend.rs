//! The two backends.

use serde::Serialize;

/// What moves the frames of a worker. Connected interfaces have the same backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// An XDP program and AF_XDP sockets.
    Xdp,
    /// Packet sockets with a socket filter, read and written by io_uring, on any Ethernet
    /// interface.
    IoUring,
}
