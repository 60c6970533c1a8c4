//! Loads programs on a thread that nothing interrupts.
//!
//! The kernel stops the verification of a program with `EAGAIN` as soon as the loading thread has a
//! signal pending or task work to run (`do_check`, kernel/bpf/verifier.c), and the control thread
//! has both: operators send it `SIGHUP`, and each io_uring ring that it made sends it task work
//! when the ring has ended, some time after it was closed (`io_ring_exit_work`,
//! io_uring/io_uring.c). aya tries a program once more; but what the kernel can do it asks once per
//! process, with small programs of its own, and takes an interrupted answer for a no. Without an
//! answer about global data it leaves out the maps of the objects' constants, and then no program
//! can be loaded until the process ends.

use std::{io, sync::Once, thread};

use aya::programs::ProgramError;
use nix::sys::signal::SigSet;

use super::error::{KernelError, loading};

/// Once per process: what the kernel can do.
static ASKED: Once = Once::new();

/// Asks the kernel what it can do, if that was not done yet; before an object is loaded for
/// `program`.
pub(super) fn ask_the_kernel(program: &'static str) -> Result<(), KernelError> {
    if ASKED.is_completed() {
        return Ok(());
    }
    quietly(|| {
        ASKED.call_once(|| {
            aya::features();
        });
    })
    .map_err(|error| loading(program, &error))
}

/// Loads `program` with `load`.
pub(super) fn load(
    program: &'static str,
    load: impl FnOnce() -> Result<(), ProgramError> + Send,
) -> Result<(), KernelError> {
    quietly(load)
        .map_err(|error| loading(program, &error))?
        .map_err(|error| loading(program, &error))
}

/// Does `work` on a thread of its own that takes no signals. It made no ring, so no task work comes
/// to it either.
fn quietly<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        // A thread begins with the mask of the one that starts it.
        let started = thread::Builder::new()
            .name("relay-load".into())
            .spawn_scoped(scope, work);
        before.thread_set_mask()?;
        started?
            .join()
            .map_err(|_| io::Error::other("the loading thread panicked"))
    })
}
