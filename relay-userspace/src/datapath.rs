//! The forwarding loops. Per frame: receive, look up, rewrite, transmit. One thread per worker; no
//! allocation, lock, log line or needless system call per frame.
//!
//! [`xdp`] and [`uring`] are the two backends. Both share the flow table, the batch, the GSO
//! packets and the TX sockets.

mod arena;
mod backlog;
pub mod batch;
mod change;
mod error;
mod expired;
pub mod flow_table;
pub mod gso_packets;
mod latency;
mod mapping;
pub mod monitor;
pub mod next_hops;
pub mod open_runs;
pub mod output_link;
pub mod remote;
mod sampled;
mod senders;
pub mod slots;
pub mod socket_drops;
pub mod stats;
mod sync;
pub mod tap;
mod timings;
#[cfg(feature = "poison-chunks")]
mod trap;
pub mod tx_socket;
pub mod uring;
pub mod vnet_header;
mod waiting;
mod watched;
mod worker;
pub mod xdp;

pub use self::{
    error::SetupError,
    expired::LastExpired,
    latency::{Latencies, Latency},
    remote::{FlowCounters, OutputCounters, Prepared, Remote, Retired},
    sampled::Sample,
    slots::{Entry, OutputIdentity},
    watched::now as clock,
    worker::{Bound, Fanouts, Worker, bind},
};
