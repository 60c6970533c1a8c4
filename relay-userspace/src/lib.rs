//! The multicast relay as a library; the binary `relay` is a thin shell around it.
//!
//! Read in the order a frame needs the parts: [`cli`], [`config`], [`rules`], [`nic`], [`plan`],
//! [`membership`].

pub mod cli;
pub mod config;
pub mod exit;
pub mod membership;
pub mod nic;
pub mod plan;
pub mod rules;
pub mod run;
#[cfg(test)]
mod testing;
