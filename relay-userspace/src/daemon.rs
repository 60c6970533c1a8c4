//! The life of a running relay: what is wanted, what runs, and what brings the one to the other.
//!
//! The main thread does it all: it waits for signals, commands, news of interfaces and the clock
//! ([`Service`]), makes a plan of what is wanted and what the host offers, and changes what runs as
//! little as it can (`reconcile`, `running`). It may block, allocate and log; the workers that
//! forward never wait for it.

mod affinity;
mod backoff;
mod carrier;
pub mod claim;
mod commands;
pub mod descriptors;
mod desired;
mod error;
mod file_watch;
pub mod helper_thread;
pub mod memberships;
mod metrics_place;
mod next_hops;
mod offloads;
pub mod privileges;
mod reconcile;
mod refusals;
pub mod requests;
mod running;
mod service;
mod service_manager;
mod signals;
mod sinks;
mod status;
pub mod taps;
pub mod this_machine;
mod totals;
mod wait;
mod watchdog;
mod watcher;

pub use self::{
    error::RunError,
    file_watch::FileWatch,
    metrics_place::Serve,
    service::{Ended, Service, Settings},
};
