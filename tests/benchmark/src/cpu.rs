//! The CPU time of a process and its threads.

use std::fs;

use anyhow::{Context, Result};

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
