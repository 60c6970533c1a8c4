//! What the process itself takes of this machine, from /proc.

use std::{fs, sync::OnceLock, time::SystemTime};

use nix::{
    sys::resource::{Resource, UsageWho, getrlimit, getrusage},
    sys::time::TimeValLike as _,
    unistd::{SysconfVar, sysconf},
};

use crate::observe::snapshot::ProcessStatus;

/// What it takes now. What cannot be read is 0.
pub fn now() -> ProcessStatus {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    let cpu = usage.map_or(0, |usage| {
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    });
    let memory = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = memory
        .split(' ')
        .map(|pages| pages.parse().unwrap_or(0_u64));
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|page| u64::try_from(page).ok()).unwrap_or(0);
    let [mapped, resident] = [pages.next(), pages.next()].map(|pages| pages.unwrap_or(0) * page);
    let entries = |folder| fs::read_dir(folder).map_or(0, |entries| entries.count() as u64);
    ProcessStatus {
        cpu_seconds: cpu as f64 / 1e6,
        resident_bytes: resident,
        virtual_bytes: mapped,
        // One of them is the folder's own.
        open_files: entries("/proc/self/fd").saturating_sub(1),
        most_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        threads: entries("/proc/self/task"),
        started_at: started_at(),
    }
}

/// When the process started, in seconds since the epoch. Found out once, so that a clock that is
/// set does not move it.
fn started_at() -> f64 {
    static AT: OnceLock<f64> = OnceLock::new();
    *AT.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0.0, |since| since.as_secs_f64());
        now - age().unwrap_or(0.0)
    })
}

/// How old the process is, in seconds: field 22 of /proc/self/stat (man 5 proc_pid_stat) is when it
/// started, in ticks since boot.
fn age() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses, which may have anything in it.
    let (_, fields) = stat.rsplit_once(')')?;
    let started: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    Some(uptime - started / ticks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_takes_is_read() {
        let status = now();
        assert!(status.resident_bytes > 1 << 20, "{status:?}");
        assert!(status.virtual_bytes >= status.resident_bytes, "{status:?}");
        assert!(
            (3..=status.most_files).contains(&status.open_files),
            "{status:?}"
        );
        assert!(status.threads >= 1, "{status:?}");
        let epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let age = epoch.as_secs_f64() - status.started_at;
        assert!((0.0..3600.0).contains(&age), "{age} s old");
        assert_eq!(now().started_at, status.started_at);
    }
}
