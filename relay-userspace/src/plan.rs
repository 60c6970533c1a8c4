//! Rules, host facts and constraints become a [`Plan`]: what will run, resolved to indices.
//!
//! Building a plan is pure: it reads no file and touches no interface, so `relay plan` can print
//! it, and tests need no network.

mod backend;
mod backend_choice;
mod build;
mod connected_interfaces;
mod constraints;
mod group_notes;
mod ids;
mod interface_checks;
mod io_uring_workers;
mod loops;
mod mac;
mod missing_interfaces;
mod model;
mod named_interfaces;
mod notes;
mod print;
mod queues;
mod received_checksums;
#[cfg(test)]
mod tests;
mod tx_methods;
mod used_interface;
mod wording;

pub(crate) use self::tx_methods::max_zero_copy_mtu;
pub use self::{
    backend::Backend,
    build::build,
    constraints::{Constraints, Refusal},
    ids::{FlowId, Id, InterfaceId, List, OutputId},
    mac::{Mac, of_group},
    model::{Flow, Interface, Mode, Output, Plan, Port, TxMethod, WorkerPlan},
    received_checksums::Checksums,
};
