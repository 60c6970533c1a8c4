//! What a worker and control share: locks and atomic numbers.
//!
//! In a build with the feature `loom` they are those of a model checker, which runs a test once for
//! every order that the threads' steps may have (`cargo xtask loom`).

#[cfg(feature = "loom")]
pub use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};
#[cfg(not(feature = "loom"))]
pub use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};
