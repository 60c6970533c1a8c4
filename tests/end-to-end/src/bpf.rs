//! Links of XDP programs and maps, by `bpf(2)`: what an administrator does to links by force, and how
//! many entries maps have.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use anyhow::{Context, Result, bail};

/// `union bpf_attr` (linux/bpf.h) as the commands on links use it: the id or the descriptor of a
/// link, and zeros.
#[repr(C)]
#[derive(Default)]
struct LinkCommand {
    link: u32,
    rest: [u32; 31],
}

/// The same as the commands on the elements of a map use it.
#[repr(C)]
struct ElementCommand {
    map: u32,
    _padding: u32,
    key: *const u8,
    next_key: *mut u8,
    rest: [u64; 13],
}

fn bpf(command: libc::c_long, link: u32) -> io::Result<c_int> {
    let attributes = LinkCommand {
        link,
        ..LinkCommand::default()
    };
    // SAFETY: it has no pointers.
    unsafe { bpf_with(command, attributes) }
}

/// # Safety
///
/// `attributes` begins as `union bpf_attr` does for the command, and its pointers lead to what that
/// says, or nowhere.
unsafe fn bpf_with<T>(command: libc::c_long, mut attributes: T) -> io::Result<c_int> {
    // SAFETY: the structure is as large as the call says, and outlives the call; its pointers are
    // the caller's concern.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_mut(&mut attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as c_int)
}

/// How many entries the map with this id has, if it is a hash map; `None` of other maps, whose
/// entries are all there from the beginning. If the map changes meanwhile, the number is one of many
/// that it may have had.
pub fn hash_map_entries(id: u32) -> Result<Option<usize>> {
    const MAP_GET_FD_BY_ID: libc::c_long = 14;
    const HASH: u32 = 1;
    const LRU_HASH: u32 = 9;
    let fd = bpf(MAP_GET_FD_BY_ID, id).with_context(|| format!("opening map {id}"))?;
    // SAFETY: `fd` was opened just now and has no other owner.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let number = |name: &str| -> Option<u32> { field(&text, name)?.parse().ok() };
    let (Some(kind), Some(key_size), Some(most)) = (
        number("map_type"),
        number("key_size"),
        number("max_entries"),
    ) else {
        bail!("no map in {text}");
    };
    if ![HASH, LRU_HASH].contains(&kind) {
        return Ok(None);
    }
    let mut key: Option<Vec<u8>> = None;
    let mut count = 0;
    // A map that changes may begin anew.
    while count <= 2 * most as usize {
        let mut next = vec![0; key_size as usize];
        match next_key(&map, key.as_deref(), &mut next) {
            Ok(()) => count += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) => return Err(error).with_context(|| format!("reading map {id}")),
        }
        key = Some(next);
    }
    Ok(Some(count))
}

/// Writes the key behind `key`, or the first one, over `next`, which is as long as a key.
fn next_key(map: &OwnedFd, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<()> {
    const MAP_GET_NEXT_KEY: libc::c_long = 4;
    let attributes = ElementCommand {
        map: map.as_raw_fd().cast_unsigned(),
        _padding: 0,
        key: key.map_or(ptr::null(), <[u8]>::as_ptr),
        next_key: next.as_mut_ptr(),
        rest: [0; 13],
    };
    // SAFETY: the pointers lead to keys of the length that the map says, or nowhere, and what they
    // lead to outlives the call.
    unsafe { bpf_with(MAP_GET_NEXT_KEY, attributes) }.map(drop)
}

/// A line `name: value` of a file's description.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
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
        let of_link = |name: &str| field(&text, name);
        if of_link("link_type") == Some("xdp") && of_link("ifindex") == Some(&index.to_string()) {
            return Ok(of_link("link_id").and_then(|id| id.parse().ok()));
        }
    }
    Ok(None)
}
