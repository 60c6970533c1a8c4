//! `cargo xtask clean-net`: removes the network namespaces that a killed run left behind.
//!
//! The testbed names its namespaces `relay-<pid>-...` after the process that made them. One is left
//! over if that process is gone, or if its number now belongs to a process that is younger than
//! the namespace.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use crate::process;

const NAMESPACES: &str = "/run/netns";
/// How much younger than the namespace a process must be before it cannot have made it: the clock
/// may have been set between the two.
const SLACK: Duration = Duration::from_secs(60);

/// Removes them and says which; one that cannot be removed makes the exit code a failure.
pub fn run() -> Result<ExitCode> {
    let mut removed = 0;
    let mut failed = false;
    for name in namespaces()? {
        let Some(pid) = maker(&name) else {
            if name.starts_with("relay-") {
                println!("kept {name}: its name is not one that our runs give");
            }
            continue;
        };
        if is_alive(pid, &name) {
            println!("kept {name}: process {pid}, which made it, is running");
            continue;
        }
        match process::capture(Command::new("ip").args(["netns", "delete", &name])) {
            Ok(_) => {
                println!("removed {name}: process {pid}, which made it, is gone");
                removed += 1;
            }
            Err(error) => {
                eprintln!("could not remove {name}: {error:#}");
                failed = true;
            }
        }
    }
    println!("{removed} network namespaces removed");
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn namespaces() -> Result<Vec<String>> {
    let entries = match fs::read_dir(NAMESPACES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("listing network namespaces in /run/netns"),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// The process in `relay-<pid>-<anything>`.
fn maker(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix("relay-")?.split_once('-')?;
    let digits = !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    (digits && !rest.is_empty()).then(|| pid.parse().ok())?
}

/// Whether the process that made a namespace still runs. When in doubt, it does.
fn is_alive(pid: u32, name: &str) -> bool {
    if !Path::new(&format!("/proc/{pid}")).exists() {
        return false;
    }
    let made = fs::metadata(Path::new(NAMESPACES).join(name)).and_then(|file| file.modified());
    match (made, started(pid)) {
        (Ok(made), Some(started)) => started <= made + SLACK,
        _ => true,
    }
}

fn started(pid: u32) -> Option<SystemTime> {
    let boot = boot_seconds(&fs::read_to_string("/proc/stat").ok()?)?;
    let ticks = start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    // The unit of /proc is fixed: 100 ticks a second.
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(boot) + Duration::from_millis(ticks * 10))
}

/// The line `btime` of /proc/stat.
fn boot_seconds(stat: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

/// Field 22 of /proc/PID/stat; field 2 is a name that may contain blanks and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maker_of_a_namespace_is_in_its_name() {
        assert_eq!(maker("relay-4711-0-source"), Some(4711));
        assert_eq!(maker("relay-1-x"), Some(1));
    }

    #[test]
    fn other_names_have_no_maker() {
        for name in [
            "relay",
            "relay-",
            "relay-1",
            "relay-1-",
            "relay--x",
            "relay-a-x",
            "relay-+1-x",
            "relay-99999999999-x",
            "other-1-x",
        ] {
            assert_eq!(maker(name), None, "{name}");
        }
    }

    #[test]
    fn the_start_of_a_process_is_read_past_a_strange_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 36789 1 2 3";
        assert_eq!(start_ticks(stat), Some(36789));
        assert_eq!(start_ticks("7 a"), None);
    }

    #[test]
    fn the_boot_time_is_read() {
        assert_eq!(
            boot_seconds("cpu 1 2\nbtime 1700000000\nx"),
            Some(1_700_000_000)
        );
        assert_eq!(boot_seconds("cpu 1 2\n"), None);
    }

    #[test]
    fn this_process_started_in_the_past() {
        let started = started(std::process::id()).unwrap();
        assert!(started <= SystemTime::now() + SLACK);
        assert!(started.elapsed().unwrap_or_default() < Duration::from_secs(24 * 3600));
    }
}
