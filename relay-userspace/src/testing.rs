//! Helpers of the tests that need the kernel: the unit tests and `tests/cli.rs`, which includes
//! this file.

use std::process::Command;

/// Runs `test` on a thread in a fresh network namespace, which its child processes inherit. The
/// namespace ends with the thread and them.
///
/// As after a plain setns(2), neither `/sys` nor `/proc` is mounted anew.
pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("a network namespace needs CAP_SYS_ADMIN: run the tests as root");
            test()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a command in the calling thread's network namespace; it must succeed. Returns its standard
/// output.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
