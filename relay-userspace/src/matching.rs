//! Which frames belong to which flow: what a flow matches, and how that becomes entries of the
//! tables that [`relay_common::matching`] looks flows up in.
//!
//! Pure: an [`Index`] knows all flows and says which entries to write, one by one, when a flow is
//! opened or closed. The kernel side writes them into maps, the datapath into tables of its own,
//! and a look-up between two writes finds a flow that was right before or is right after.
//!
//! Flows that are equally specific and could take one datagram must not be open at once: the plan
//! refuses them.

mod exact;
mod index;
mod key;
mod port_classes;
mod shapes;
mod table;
#[cfg(test)]
mod tests;
mod write;

pub use self::{index::Index, key::MatchKey, shapes::TooManyShapes, table::Table, write::Write};
