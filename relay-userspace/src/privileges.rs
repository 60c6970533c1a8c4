//! The capabilities that running needs, checked before anything is touched, so that a missing one is
//! named with its remedy instead of surfacing as some call's `EPERM`.

use std::fs;

use thiserror::Error;

/// One capability (`include/uapi/linux/capability.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    number: u32,
    /// The name as `setcap` and systemd spell it.
    pub name: &'static str,
    /// What the relay needs it for.
    pub purpose: &'static str,
}

/// `CAP_SYS_ADMIN` stands in for the capabilities that were split off from it.
const SYS_ADMIN: u32 = 21;
const SPLIT_OFF: [u32; 2] = [38, 39];

/// What `relay run` needs.
pub const NEEDED: [Capability; 5] = [
    Capability {
        number: 12,
        name: "CAP_NET_ADMIN",
        purpose: "attach the XDP program",
    },
    Capability {
        number: 13,
        name: "CAP_NET_RAW",
        purpose: "open AF_XDP sockets",
    },
    Capability {
        number: 14,
        name: "CAP_IPC_LOCK",
        purpose: "pin packet memory",
    },
    Capability {
        number: 38,
        name: "CAP_PERFMON",
        purpose: "pass the verifier: the program computes with pointers to write log messages",
    },
    Capability {
        number: 39,
        name: "CAP_BPF",
        purpose: "load the XDP program and its maps",
    },
];

/// Some are missing.
#[derive(Debug, Error)]
#[error(
    "missing privilege: {}. Run as root, or grant what is needed: `sudo setcap {}+ep {executable}`, or in a systemd \
     unit `AmbientCapabilities={}`",
    list(missing),
    NEEDED.map(|capability| capability.name.to_lowercase()).join(","),
    NEEDED.map(|capability| capability.name).join(" ")
)]
pub struct MissingPrivilege {
    missing: Vec<Capability>,
    executable: String,
}

fn list(missing: &[Capability]) -> String {
    let each: Vec<String> = missing
        .iter()
        .map(|capability| format!("{} (to {})", capability.name, capability.purpose))
        .collect();
    each.join(", ")
}

/// Checks the effective capabilities of this process.
///
/// # Errors
///
/// Names those that are missing. Where `/proc` does not tell, nothing is missing: the kernel's own
/// refusals follow.
pub fn check() -> Result<(), MissingPrivilege> {
    let Some(effective) = fs::read_to_string("/proc/self/status")
        .ok()
        .as_deref()
        .and_then(effective)
    else {
        return Ok(());
    };
    let missing = missing(effective);
    if missing.is_empty() {
        return Ok(());
    }
    let executable = std::env::current_exe().map_or_else(
        |_| "relay".to_owned(),
        |path| path.to_string_lossy().into_owned(),
    );
    Err(MissingPrivilege {
        missing,
        executable,
    })
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<Capability> {
    let has = |number: u32| effective >> number & 1 == 1;
    NEEDED
        .into_iter()
        .filter(|capability| {
            !(has(capability.number) || SPLIT_OFF.contains(&capability.number) && has(SYS_ADMIN))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read_from_the_status_file() {
        let status = "Name:\trelay\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        assert_eq!(effective(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\trelay\n"), None);
    }

    #[test]
    fn each_missing_capability_is_named_and_sys_admin_stands_for_two() {
        assert!(missing(u64::MAX).is_empty());
        let names = |effective| {
            missing(effective)
                .iter()
                .map(|c| c.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(0),
            [
                "CAP_NET_ADMIN",
                "CAP_NET_RAW",
                "CAP_IPC_LOCK",
                "CAP_PERFMON",
                "CAP_BPF"
            ]
        );
        assert_eq!(names(1 << 12 | 1 << 13 | 1 << SYS_ADMIN), ["CAP_IPC_LOCK"]);
        assert_eq!(
            names(1 << 12 | 1 << 14 | 1 << 38 | 1 << 39),
            ["CAP_NET_RAW"]
        );
    }
}
