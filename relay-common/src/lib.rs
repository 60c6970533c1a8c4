//! What the kernel programs and user space both read: the [`wire`] decoder and the map layouts of [`abi`].
//!
//! The kernel programs and the forwarding loops must agree on every frame, so there is one decoder and
//! one definition of every map key. Nothing here allocates, loops without a bound or panics.
#![no_std]

pub mod abi;
pub mod wire;
