//! The machine of the numbers: without it they mean nothing.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Its facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The CPU's model name.
    pub cpu: String,
    /// CPUs that the kernel runs.
    pub cores: usize,
    /// Tasks that wanted a CPU in the minute before the start, on average: other work makes every
    /// number worse.
    pub load_before: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let cpus = read("/proc/cpuinfo")?;
        let load = read("/proc/loadavg")?;
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            // Not every architecture names its models.
            cpu: first(&cpus, "model name").unwrap_or("unknown").to_owned(),
            cores: cpus
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            load_before: load.split_whitespace().next().unwrap_or("?").to_owned(),
        })
    }
}

/// The value of the first line `key : value`.
fn first<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_key_is_found() {
        let text = "processor\t: 0\nmodel name\t: A: B\nprocessor\t: 1\nmodel name\t: C\n";
        assert_eq!(first(text, "model name"), Some("A: B"));
        assert_eq!(first(text, "model"), None);
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(Machine::here().unwrap().cores > 0);
    }
}
