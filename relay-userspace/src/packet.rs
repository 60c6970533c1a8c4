//! How a received datagram becomes an output's datagram: header templates and checksums.
//!
//! Pure arithmetic on bytes, shared by both backends. A [`Template`] is built once per output; a
//! [`Received`] is read once per frame; each copy then costs one header write and two folds. A
//! copy's UDP checksum is derived from the received one, so a payload damaged upstream stays
//! detectably damaged.

mod checksum;
mod headers;
mod kept;
mod patch;
mod received;
pub mod segments;
mod tags;
mod template;
#[cfg(test)]
mod tests;
mod ttl;

pub use self::{
    checksum::complete as complete_checksum,
    kept::{Keeping, Keeps, Kept, Offset},
    patch::{PATCH_ROOM, Patch, Patched},
    received::{Known, Received},
    template::{HEADERS_ROOM, Target, Template},
};
