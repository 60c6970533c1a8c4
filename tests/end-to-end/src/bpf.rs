//! Links of XDP programs, by `bpf(2)`: what an administrator does to them by force.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use anyhow::{Context, Result};

/// `union bpf_attr` (linux/bpf.h) as the commands on links use it: the id or the descriptor of a
/// link, and zeros.
#[repr(C)]
#[derive(Default)]
struct LinkCommand {
    link: u32,
    rest: [u32; 31],
}

fn bpf(command: libc::c_long, link: u32) -> io::Result<c_int> {
    let mut attributes = LinkCommand {
        link,
        ..LinkCommand::default()
    };
    // SAFETY: the structure is as large as the call says, has no pointers, and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_mut(&mut attributes),
            size_of::<LinkCommand>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as c_int)
}

/// Detaches the XDP program that `process` has attached to the interface with `index`, as
/// `bpftool link detach` does.
pub fn detach_xdp(process: u32, index: u32) -> Result<()> {
    const LINK_GET_FD_BY_ID: libc::c_long = 30;
    const LINK_DETACH: libc::c_long = 34;
    let id = link_of(process, index)?.context("the process has no link of an XDP program there")?;
    let fd = bpf(LINK_GET_FD_BY_ID, id).with_context(|| format!("opening link {id}"))?;
    // SAFETY: `fd` was opened just now and has no other owner.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let fd = link.as_raw_fd().cast_unsigned();
    bpf(LINK_DETACH, fd).with_context(|| format!("detaching link {id}"))?;
    Ok(())
}

/// The id of the link. It is read from the process's `fdinfo`, because the kernel's list of links
/// does not say in which namespace an interface is.
fn link_of(process: u32, index: u32) -> Result<Option<u32>> {
    let folder = format!("/proc/{process}/fdinfo");
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        if field("link_type") == Some("xdp") && field("ifindex") == Some(&index.to_string()) {
            return Ok(field("link_id").and_then(|id| id.parse().ok()));
        }
    }
    Ok(None)
}
