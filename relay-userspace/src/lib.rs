//! The multicast relay as a library; the binary `relay` is a thin shell around it.
//!
//! Read in the order a frame needs the parts: [`config`], [`rules`], [`nic`], [`plan`].

pub mod config;
pub mod exit;
pub mod nic;
pub mod plan;
pub mod rules;
