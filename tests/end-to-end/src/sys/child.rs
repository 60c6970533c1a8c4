//! What a program that a test starts may do, and how much it has used.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use super::errno::check;

/// Makes `io_uring_setup` fail with `EPERM` in the program that `command` starts, as the seccomp
/// profile of a container does.
pub fn forbid_io_uring(command: &mut Command) {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut program = [
        // The number of the system call is the first word of `seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing;
    // `program` belongs to it and outlives the calls.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog {
                len: program.len() as u16,
                filter: program.as_mut_ptr(),
            };
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            let mode = libc::SECCOMP_MODE_FILTER;
            check(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter))?;
            Ok(())
        });
    }
}

/// Lets the program that `command` starts lock `bytes` of memory at most.
pub fn limit_locked_memory(command: &mut Command, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: between fork and exec the closure makes one system call, which reads `limit`, and
    // allocates nothing.
    unsafe {
        command.pre_exec(move || {
            check(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit)).map(drop)
        });
    }
}

/// Lets the program that `command` starts have `soft` of a resource, such as
/// [`libc::RLIMIT_NOFILE`], and raise that to `hard`, or to the limit of this process if that is
/// lower.
pub fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, soft: u64, hard: u64) {
    // SAFETY: between fork and exec the closure makes two system calls, on a local, and allocates
    // nothing.
    unsafe {
        command.pre_exec(move || {
            let mut limit: libc::rlimit = mem::zeroed();
            check(libc::getrlimit(resource, &raw mut limit))?;
            limit.rlim_max = limit.rlim_max.min(hard);
            limit.rlim_cur = limit.rlim_max.min(soft);
            check(libc::setrlimit(resource, &raw const limit)).map(drop)
        });
    }
}

/// Makes the program that `command` starts the leader of a session whose terminal is its standard
/// error, as a login shell has one.
pub fn lead_session_of_stderr(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            check(libc::ioctl(libc::STDERR_FILENO, libc::TIOCSCTTY, 0)).map(drop)
        });
    }
}

/// Makes the calling thread, and no other, one of the user `nobody`, which has no capability. There
/// is no way back.
pub fn give_up_privileges() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65_534;
    // The C library's function would change all threads.
    // SAFETY: no pointer is passed.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    check(result as c_int).map(drop)
}

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// The CPU time, in the kernel too.
    pub cpu: Duration,
    /// The most memory that it had at once.
    pub peak_bytes: u64,
}

/// Waits for the end of a child; returns also what it has used.
pub fn wait_with_usage(child: Child) -> io::Result<(ExitStatus, Usage)> {
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: both pointers are to locals; the child is of this process and nothing else waits for
    // it, because it was moved here.
    check(unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) })?;
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.unsigned_abs())
            + Duration::from_micros(value.tv_usec.unsigned_abs())
    };
    let usage = Usage {
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak_bytes: usage.ru_maxrss.unsigned_abs() * 1024,
    };
    Ok((ExitStatus::from_raw(status), usage))
}
