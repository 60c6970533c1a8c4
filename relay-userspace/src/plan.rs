//! Rules, host facts and constraints become a [`Plan`]: what will run, resolved to indices.
//!
//! Building a plan is pure: it reads no file and touches no interface, so `relay plan` can print
//! it, and tests need no network. [`build`] is strict; [`arrange`] plans what can run now and says
//! why the rest has to wait. [`diff`] compares two sets of rules, and [`explain`] says what becomes
//! of one datagram.

mod arrange;
mod backend;
mod backend_choice;
mod build;
mod chunk_size;
mod connected_interfaces;
mod constraints;
mod diff;
mod explain;
mod finding;
mod flow_key;
mod group_notes;
mod header_text;
mod ids;
mod interface_checks;
mod io_uring_workers;
mod local_notes;
mod loops;
mod mac;
mod memberships;
mod missing_interfaces;
mod model;
mod moved_sources;
mod named_interfaces;
mod notes;
mod offloads;
mod own_addresses;
mod print;
mod queues;
mod received_checksums;
mod routes;
mod shapes;
mod sinks;
mod source_address;
mod sources;
#[cfg(test)]
mod tests;
mod tx_methods;
mod used_interface;
mod wording;
mod worker_key;

pub use self::{
    arrange::{Arrangement, arrange},
    backend::Backend,
    build::build,
    constraints::{Constraints, Refusal},
    diff::{Difference, diff},
    explain::{Datagram, Explanation, Verdict, explain},
    flow_key::FlowKey,
    header_text::HeaderText,
    ids::{FlowId, Id, InterfaceId, List, OutputId},
    mac::{Mac, of_group},
    memberships::Membership,
    model::{
        Flow, Interface, LinkDestination, Mode, Output, PendingOutput, Plan, Port, TxMethod,
        WaitsFor, WorkerPlan,
    },
    moved_sources::{MovedSource, moved_sources},
    received_checksums::Checksums,
    routes::destinations,
    sinks::Sink,
    worker_key::{PortKey, WorkerKey, worker_keys},
};
