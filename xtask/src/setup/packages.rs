//! The packages of the operating system: what is needed, what for, and the package's name in each
//! family of distributions.
//!
//! What counts is whether the thing itself is there (a program on the path, a header), not whether
//! a package manager knows of it; so a machine with its own builds passes too.

mod needs;
mod probe;

use std::{fmt::Write as _, path::Path, process::Command};

use anyhow::{Result, bail};

pub use self::needs::Purpose;
use self::needs::{NEEDS, Need};
use crate::process;

/// A family of distributions.
#[derive(Clone, Copy, Debug)]
enum Family {
    Debian,
    Fedora,
    Arch,
}

impl Family {
    fn packages(self, needs: &[&Need]) -> String {
        let mut names: Vec<&str> = Vec::new();
        for need in needs {
            let list = match self {
                Self::Debian => need.debian,
                Self::Fedora => need.fedora,
                Self::Arch => need.arch,
            };
            for name in list.split(' ') {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names.join(" ")
    }
}

/// Installs what is missing, or says exactly what to install.
pub fn ensure(purpose: Purpose) -> Result<()> {
    let missing: Vec<&Need> = NEEDS
        .iter()
        .filter(|need| need.purpose <= purpose && !need.probe.is_there())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        println!("  missing: {} ({})", need.what, need.why);
    }
    if process::on_path("apt-get") && process::is_root() {
        let names = Family::Debian.packages(&missing);
        apt_install(&names.split(' ').collect::<Vec<_>>())?;
        let still: Vec<&str> = missing
            .iter()
            .filter(|need| !need.probe.is_there())
            .map(|need| need.what)
            .collect();
        if !still.is_empty() {
            bail!(
                "apt-get installed {names}, but these are still not found: {}",
                still.join(", ")
            );
        }
        return Ok(());
    }
    bail!("{}", how_to_install(&missing))
}

fn how_to_install(missing: &[&Need]) -> String {
    let mut text = String::from("install these and run the command again:\n");
    for (name, command, family) in [
        ("Debian, Ubuntu", "apt-get install", Family::Debian),
        ("Fedora", "dnf install", Family::Fedora),
        ("Arch", "pacman -S", Family::Arch),
    ] {
        let _ = writeln!(
            text,
            "  {name}: sudo {command} {}",
            family.packages(missing)
        );
    }
    text.pop();
    text
}

/// Installs packages with apt-get; its lists are updated first, since a fresh machine has old ones
/// or none.
pub fn apt_install(names: &[&str]) -> Result<()> {
    println!("  installing with apt-get: {}", names.join(" "));
    let log = std::env::temp_dir().join(format!("relay-xtask-apt-{}.log", std::process::id()));
    apt_update(&log)?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive");
    process::long("apt-get install", &mut install, &log, None)?;
    let _ = std::fs::remove_file(&log);
    Ok(())
}

fn apt_update(log: &Path) -> Result<()> {
    let mut update = Command::new("apt-get");
    update.arg("update");
    process::long("apt-get update", &mut update, log, None)
}

/// Whether apt could install a package, as far as its present lists tell.
pub fn apt_knows(name: &str) -> bool {
    process::on_path("apt-cache")
        && process::capture(Command::new("apt-cache").args(["policy", name]))
            .is_ok_and(|policy| has_candidate(&policy))
}

/// Brings the lists of apt up to date, for [`apt_knows`].
pub fn apt_refresh() -> Result<()> {
    let log = std::env::temp_dir().join(format!("relay-xtask-apt-{}.log", std::process::id()));
    apt_update(&log)?;
    let _ = std::fs::remove_file(&log);
    Ok(())
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|candidate| candidate.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_once_each_and_in_order() {
        let clang: Vec<&Need> = NEEDS.iter().filter(|n| n.what.contains("clang")).collect();
        assert_eq!(Family::Debian.packages(&clang), "clang libclang-dev");
        assert_eq!(Family::Fedora.packages(&clang), "clang clang-devel");
        assert_eq!(Family::Arch.packages(&clang), "clang");
    }

    #[test]
    fn the_advice_has_a_full_command_for_each_family() {
        let all: Vec<&Need> = NEEDS.iter().collect();
        let advice = how_to_install(&all);
        for part in [
            "sudo apt-get install gcc",
            " zlib1g-dev ",
            "sudo dnf install gcc",
            "elfutils-libelf-devel",
            "sudo pacman -S gcc",
        ] {
            assert!(advice.contains(part), "{part} is not in:\n{advice}");
        }
    }

    #[test]
    fn building_needs_no_test_tools() {
        let build: Vec<&str> = NEEDS
            .iter()
            .filter(|n| n.purpose <= Purpose::Build)
            .map(|n| n.what)
            .collect();
        assert!(!build.contains(&"ethtool"));
        assert!(build.contains(&"m4"));
    }

    #[test]
    fn only_the_benchmark_needs_what_it_compares_with() {
        let names = |purpose| {
            let needs: Vec<&Need> = NEEDS.iter().filter(|n| n.purpose <= purpose).collect();
            Family::Debian.packages(&needs)
        };
        for name in ["socat", "smcroute", "dpdk-dev", "librte-meta-net"] {
            assert!(!names(Purpose::Test).contains(name), "{name}");
            assert!(names(Purpose::Bench).contains(name), "{name}");
        }
    }

    #[test]
    fn a_package_without_candidate_cannot_be_installed() {
        assert!(has_candidate(
            "p:\n  Installed: (none)\n  Candidate: 1.96.0\n"
        ));
        assert!(!has_candidate(
            "p:\n  Installed: (none)\n  Candidate: (none)\n"
        ));
        assert!(!has_candidate(""));
    }
}
