//! The kernel programs are loaded also where signals interrupt the loading thread all the time.
//!
//! A file of its own: what the kernel can do is asked once per process, and a process that has
//! asked cannot show what an interrupted question does.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may fail it like the test itself"
)]

use std::{
    os::unix::thread::JoinHandleExt as _,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static TAKEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    TAKEN.fetch_add(1, Ordering::Relaxed);
}

/// Does `work` on a thread that gets a signal every few microseconds.
fn interrupted<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let action = SigAction::new(
        SigHandler::Handler(count),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler adds to an atomic number and does nothing else.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    static DONE: AtomicBool = AtomicBool::new(false);
    DONE.store(false, Ordering::Release);
    let worker = thread::spawn(move || {
        let result = work();
        DONE.store(true, Ordering::Release);
        result
    });
    while !DONE.load(Ordering::Acquire) {
        // SAFETY: the thread has not been joined, so its handle is valid.
        let refused = unsafe { libc::pthread_kill(worker.as_pthread_t(), libc::SIGUSR1) };
        assert_eq!(refused, 0);
        thread::sleep(Duration::from_micros(5));
    }
    worker.join().unwrap()
}

#[test]
fn programs_are_loaded_by_a_thread_that_signals_interrupt_all_the_time() {
    for _ in 0..10 {
        let loaded = interrupted(|| {
            let xdp = relay::kernel::load().map(|ebpf| ebpf.maps().count());
            let filter = relay::kernel::load_filter().map(|ebpf| ebpf.maps().count());
            xdp.and_then(|xdp| Ok((xdp, filter?)))
        });
        let (xdp, filter) = loaded.unwrap();
        assert!(xdp > 0 && filter > 0);
    }
    assert!(
        TAKEN.load(Ordering::Relaxed) > 100,
        "hardly a signal interrupted the loading"
    );
}
