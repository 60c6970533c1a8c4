//! The CPU time of a process and its threads, and a CPU for one thread.

use std::{fs, io};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Nanoseconds that all threads of a process have run, with the interrupts in their time, unless
/// the kernel accounts those separately (`CONFIG_IRQ_TIME_ACCOUNTING`).
pub fn process_ns(id: u32) -> Result<u64> {
    let folder = format!("/proc/{id}/task");
    let threads = fs::read_dir(&folder)
        .with_context(|| format!("reading {folder}: has the process ended?"))?;
    let mut sum = 0;
    for thread in threads {
        let path = thread?.path().join("schedstat");
        // A thread may have ended since the folder was read.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let run = text
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse::<u64>().ok());
        sum += run.with_context(|| format!("`{text}` in {}", path.display()))?;
    }
    Ok(sum)
}

/// Moves the calling thread to `cpu` and ahead of all other work there.
pub fn only_for_us(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a whole `sched_param` that outlives the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("asking for real-time scheduling");
    }
    Ok(())
}
