//! The capabilities that running needs, checked before the relay touches anything, so that a
//! missing one is named with its remedy instead of surfacing as the `EPERM` of some call.

pub mod give_up;

use std::fs;

use thiserror::Error;

use crate::plan::{Backend, Plan};

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

impl Capability {
    fn is_split_off(self) -> bool {
        SPLIT_OFF.contains(&self.number)
    }
}

const NET_BIND_SERVICE: Capability = Capability {
    number: 10,
    name: "CAP_NET_BIND_SERVICE",
    purpose: "hold UDP ports below 1024",
};
const NET_ADMIN: Capability = Capability {
    number: 12,
    name: "CAP_NET_ADMIN",
    purpose: "attach the XDP program",
};
const NET_RAW: Capability = Capability {
    number: 13,
    name: "CAP_NET_RAW",
    purpose: "open AF_XDP and packet sockets",
};
const IPC_LOCK: Capability = Capability {
    number: 14,
    name: "CAP_IPC_LOCK",
    purpose: "pin packet memory",
};
const PERFMON: Capability = Capability {
    number: 38,
    name: "CAP_PERFMON",
    purpose: "pass the verifier: the program computes with pointers to write log messages",
};
const BPF: Capability = Capability {
    number: 39,
    name: "CAP_BPF",
    purpose: "load the kernel program and its maps",
};

/// The capabilities for a plan with an interface on XDP.
pub const FOR_XDP: &[Capability] = &[NET_ADMIN, NET_RAW, IPC_LOCK, PERFMON, BPF];
/// The capabilities that a relay keeps, as far as it has them: those for any plan, and the one for
/// ports below 1024 that it holds (see `daemon/sinks.rs`), without which it goes on.
pub const KEPT: &[Capability] = &[NET_BIND_SERVICE, NET_ADMIN, NET_RAW, IPC_LOCK, PERFMON, BPF];
/// The capabilities for a plan whose interfaces are all on io_uring.
pub const FOR_IO_URING: &[Capability] = &[NET_RAW, BPF];

/// The capabilities that `plan` needs.
#[must_use]
pub fn needed(plan: &Plan) -> &'static [Capability] {
    if plan.is_on(Backend::Xdp) {
        FOR_XDP
    } else {
        FOR_IO_URING
    }
}

/// Capabilities are missing.
#[derive(Debug, Error)]
#[error(
    "missing privilege: {}. Run as root, or grant what is needed: `sudo setcap {}+ep {executable}`, or in a systemd \
     unit `AmbientCapabilities={}`",
    list(missing),
    names(needed).join(",").to_lowercase(),
    names(needed).join(" ")
)]
pub struct MissingPrivilege {
    missing: Vec<Capability>,
    needed: &'static [Capability],
    executable: String,
}

fn names(capabilities: &[Capability]) -> Vec<&'static str> {
    capabilities.iter().map(|each| each.name).collect()
}

fn list(missing: &[Capability]) -> String {
    let each: Vec<String> = missing
        .iter()
        .map(|capability| format!("{} (to {})", capability.name, capability.purpose))
        .collect();
    each.join(", ")
}

/// Checks the effective capabilities of this process against what `plan` needs.
///
/// # Errors
///
/// Names the missing ones. If `/proc` is unreadable, none counts as missing: the kernel's own
/// refusals follow.
pub fn check(plan: &Plan) -> Result<(), MissingPrivilege> {
    check_for(needed(plan))
}

fn check_for(needed: &'static [Capability]) -> Result<(), MissingPrivilege> {
    let missing = missing(own(), needed);
    if missing.is_empty() {
        return Ok(());
    }
    let executable = std::env::current_exe().map_or_else(
        |_| "relay".to_owned(),
        |path| path.to_string_lossy().into_owned(),
    );
    Err(MissingPrivilege {
        missing,
        needed,
        executable,
    })
}

/// Checks the capabilities that a start needs, whatever can run now: those of `forced`, or else of
/// io_uring, which has the fewest.
///
/// # Errors
///
/// Names the missing ones.
pub fn check_at_start(forced: Option<Backend>) -> Result<(), MissingPrivilege> {
    check_for(match forced {
        Some(Backend::Xdp) => FOR_XDP,
        Some(Backend::IoUring) | None => FOR_IO_URING,
    })
}

/// Whether sockets may have larger buffers than `net.core.rmem_max` and `wmem_max` allow.
#[must_use]
pub fn may_exceed_buffer_limits() -> bool {
    missing(own(), &[NET_ADMIN]).is_empty()
}

/// The effective set of this process; all capabilities if `/proc` is unreadable.
fn own() -> u64 {
    let status = fs::read_to_string("/proc/self/status").ok();
    status.as_deref().and_then(effective).unwrap_or(u64::MAX)
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64, needed: &[Capability]) -> Vec<Capability> {
    let has = |number: u32| effective >> number & 1 == 1;
    needed
        .iter()
        .copied()
        .filter(|capability| {
            !(has(capability.number) || capability.is_split_off() && has(SYS_ADMIN))
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
        assert!(missing(u64::MAX, FOR_XDP).is_empty());
        let names = |effective, needed| names(&missing(effective, needed));
        assert_eq!(
            names(0, FOR_XDP),
            [
                "CAP_NET_ADMIN",
                "CAP_NET_RAW",
                "CAP_IPC_LOCK",
                "CAP_PERFMON",
                "CAP_BPF"
            ]
        );
        assert_eq!(
            names(1 << 12 | 1 << 13 | 1 << SYS_ADMIN, FOR_XDP),
            ["CAP_IPC_LOCK"]
        );
        assert_eq!(
            names(1 << 12 | 1 << 14 | 1 << 38 | 1 << 39, FOR_XDP),
            ["CAP_NET_RAW"]
        );
        assert_eq!(names(0, FOR_IO_URING), ["CAP_NET_RAW", "CAP_BPF"]);
        assert!(names(1 << 13 | 1 << 39, FOR_IO_URING).is_empty());
    }

    #[test]
    fn the_remedy_grants_what_the_plan_needs_and_no_more() {
        let refused = MissingPrivilege {
            missing: vec![BPF],
            needed: FOR_IO_URING,
            executable: "/bin/relay".into(),
        };
        let said = refused.to_string();
        assert!(
            said.contains("missing privilege: CAP_BPF (to load"),
            "{said}"
        );
        assert!(
            said.contains("`sudo setcap cap_net_raw,cap_bpf+ep /bin/relay`"),
            "{said}"
        );
        assert!(
            said.contains("`AmbientCapabilities=CAP_NET_RAW CAP_BPF`"),
            "{said}"
        );
    }
}
