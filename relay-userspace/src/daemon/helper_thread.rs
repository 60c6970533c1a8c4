//! Waits for the end of a helper thread, but not for ever: nothing can end one that hangs, such as
//! one that a debugger holds, and the process ends all the same.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use log::error;

use super::running::ending::PATIENCE;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// Waits for a thread that was asked to end. Names it in the log if it does not.
pub fn join(thread: JoinHandle<()>) {
    join_within(PATIENCE, thread);
}

fn join_within(patience: Duration, thread: JoinHandle<()>) {
    let deadline = Instant::now() + patience;
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            let name = thread.thread().name().unwrap_or("a thread");
            error!(
                "{name} hangs: it has not ended within {} s; the relay ends without it",
                patience.as_secs()
            );
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
    // A panic was printed when it happened.
    let _ = thread.join();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn one_that_hangs_is_left_behind_and_one_that_ends_is_waited_for() {
        let (let_go, held) = channel::<()>();
        let hangs = thread::spawn(move || _ = held.recv());
        let started = Instant::now();
        join_within(Duration::from_millis(100), hangs);
        assert!(started.elapsed() >= Duration::from_millis(100));
        drop(let_go);
        let (tell, told) = channel();
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            tell.send(()).unwrap();
        });
        join_within(Duration::from_secs(60), ends);
        assert_eq!(told.try_recv(), Ok(()));
    }
}
