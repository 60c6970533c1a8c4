//! The multicast relay as a library; the binary `relay` is a thin shell around it.
//!
//! Read in the order a frame needs the parts: [`rules`], [`plan`], [`rewrite`], [`stats`].

pub mod backend;
pub mod kernel;
pub mod plan;
pub mod privileges;
pub mod report;
pub mod rewrite;
pub mod rules;
pub mod stats;
