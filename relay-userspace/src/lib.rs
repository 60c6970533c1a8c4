//! The multicast relay as a library; the binary `relay` is a thin shell around it.
//!
//! Read in the order in which a frame needs the parts: [`config`] reads a rule file into [`rules`], [`nic`] finds out
//! about the interfaces, [`plan`] brings both together, [`kernel`] loads the XDP program, [`backend`] forwards with
//! the headers of [`rewrite`], to the [`link`]s; [`stats`], [`device_drops`], [`missed`] and [`report`] say what became of every frame.

pub mod backend;
mod checksum;
pub mod claim;
pub mod cli;
pub mod config;
pub mod descriptors;
pub mod device_drops;
pub mod exit;
pub mod kernel;
pub mod link;
pub mod logging;
pub mod membership;
pub mod missed;
pub mod nic;
pub mod output;
pub mod plan;
pub mod privileges;
pub mod report;
pub mod rewrite;
pub mod rules;
pub mod run;
pub mod stats;
pub mod stop;
#[cfg(test)]
mod testing;
