//! Finds the process that holds an interface's XDP hook, for the error of a refused attach.
//!
//! The kernel describes every `bpf_link` in the `fdinfo` of the process that holds it
//! (`bpf_link_show_fdinfo`, kernel/bpf/syscall.c), so the error can name the process and not only
//! the program.

use std::{fs, path::Path};

/// One sentence: the process and program attached to `interface`, and what to do.
pub fn describe(interface: &str, index: u32) -> String {
    match find(index) {
        Some(holder) => format!(
            "process {} ({}) holds it with the XDP program {}; stop that process, or give one of the two another interface",
            holder.process, holder.command, holder.program
        ),
        None => format!(
            "an XDP program is attached already, and no visible process holds it; `ip -details link show dev {interface}` \
             names it, `ip link set dev {interface} xdp off` removes one that was attached by hand"
        ),
    }
}

struct Holder {
    process: u32,
    command: String,
    program: String,
}

/// Searches all processes of this network namespace; in another one, the index means another
/// interface.
fn find(index: u32) -> Option<Holder> {
    let own = fs::read_link("/proc/self/ns/net").ok()?;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(process) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let path = entry.path();
        if fs::read_link(path.join("ns/net")).ok().as_ref() != Some(&own) {
            continue;
        }
        if let Some(program) = program_on(&path, index) {
            let command = fs::read_to_string(path.join("comm")).unwrap_or_default();
            return Some(Holder {
                process,
                command: command.trim().to_owned(),
                program: name(program),
            });
        }
    }
    None
}

/// The id of the program that the process at `path` attached to interface `index` by a link.
fn program_on(path: &Path, index: u32) -> Option<u32> {
    for entry in fs::read_dir(path.join("fdinfo")).ok()?.flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        if field("link_type") == Some("xdp")
            && field("ifindex").and_then(|text| text.parse().ok()) == Some(index)
        {
            return field("prog_id")?.parse().ok();
        }
    }
    None
}

fn name(program: u32) -> String {
    let name = aya::programs::loaded_programs()
        .flatten()
        .find(|info| info.id() == program)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .unwrap_or_default();
    format!("\"{name}\" (id {program})")
}
