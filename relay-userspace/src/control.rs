//! The control socket: how other processes ask a running relay, and change it.
//!
//! One thread of its own serves all clients. It never touches what runs: it reads the last snapshot
//! and puts requests into the main thread's mailbox, so no client can delay the datapath, and none
//! can delay another for longer than the bounds below allow. The protocol is varlink
//! (docs/control-protocol.md).

mod client;
mod connection;
mod fault;
mod http;
pub mod inbox;
mod interface;
mod listener;
pub mod message;
pub mod methods;
mod outbox;
mod permits;
mod rights;
mod server;
mod service;
mod status_texts;
mod tap_client;
mod tap_stream;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

pub use self::{
    client::{Client, ClientError, RefusedBy},
    fault::Fault,
    http::{HttpError, HttpServers},
    server::{ControlError, Server, SocketOptions},
    tap_client::{TapClient, TapEvent},
};

use crate::config::MAX_FILE_BYTES;

/// The folder of the sockets.
pub const FOLDER: &str = "/run/relay";
/// The name of a relay that was given none.
pub const DEFAULT_NAME: &str = "default";
/// The mode of the socket file: every user may ask; what each may do is checked per client.
pub const DEFAULT_MODE: u32 = 0o666;

/// Clients at once.
const MOST_CLIENTS: usize = 64;
/// Of those, clients that may only read: they must not keep the relay's owners out.
const MOST_GUESTS: usize = 48;
/// Requests of guests that wait for the main thread: they must not fill its mailbox.
const MOST_GUEST_REQUESTS: usize = 2;
/// The bytes of a message from a client that may change things: a rule file as JSON, in which line
/// ends, quotes and backslashes take two bytes each, and the names beside it.
const MOST_BYTES: usize = 2 * MAX_FILE_BYTES as usize + (1 << 20);
/// The bytes of a message from a guest, and of one that is not large.
const SMALL: usize = 64 << 10;
/// Large messages in memory, until they are answered.
const MOST_LARGE: usize = 4;
/// A client without progress for this long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// How often a client that watches gets the status.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The socket of the relay with this name.
#[must_use]
pub fn default_path(name: &str) -> PathBuf {
    PathBuf::from(format!("{FOLDER}/{name}.sock"))
}
