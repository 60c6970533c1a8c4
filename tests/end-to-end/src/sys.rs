//! The system calls that no dependency wraps: raw socket options, packet sockets, batched receive,
//! devices, and what is set between `fork` and `exec`.
//!
//! Every `unsafe` block of the testbed lives here, except those of `netns.rs` (`pre_exec`) and
//! `bpf.rs`. Buffers belong to safe types; pointers into them exist only for the length of one
//! call.

mod batch;
mod child;
mod device;
mod errno;
mod multicast_route;
mod socket;

pub use self::batch::{Batch, Message};
pub use self::child::{
    Usage, forbid_io_uring, give_up_privileges, lead_session_of_stderr, limit, limit_locked_memory,
    wait_with_usage,
};
pub use self::device::{open_tap, set_checksum_offload};
pub use self::multicast_route::multicast_route;
pub use self::socket::{
    OptionValue, RECEIVE_BUFFER, Receives, VNET_HEADER, packet_socket, send, set_option,
    socket_drops, socket_protocol, with_vnet_headers,
};
