//! A bell: other threads ring it, and a thread waits for it together with its other file
//! descriptors.
//!
//! What there is to do is never in the bell itself. A thread leaves its message first and rings
//! then; the one that waits silences the bell first and reads the messages then. So no message
//! waits without a ring.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd. Clones are the same bell.
#[derive(Debug, Clone)]
pub struct Bell(Arc<EventFd>);

impl Bell {
    /// A bell that is silent.
    ///
    /// # Errors
    ///
    /// The kernel refuses an eventfd.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Makes [`Bell::fd`] readable.
    pub fn ring(&self) {
        // It fails only at the counter's limit, and then the bell rings already.
        let _ = self.0.write(1);
    }

    /// Ends the ringing. Read the messages after this, not before.
    pub fn silence(&self) {
        // It fails only if the bell is silent.
        let _ = self.0.read();
    }

    /// Readable while the bell rings.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
