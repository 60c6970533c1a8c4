//! One attachment of the XDP program: a `bpf_link`, which the kernel detaches when this process
//! ends, however it ends.
//!
//! aya falls back to netlink if the kernel answers EINVAL to a link, and a program attached by
//! netlink outlives the relay. So these system calls are made here.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::errno::Errno;

/// `BPF_OBJ_GET_INFO_BY_FD`, of `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// `BPF_LINK_CREATE`, of `enum bpf_cmd` (since Linux 5.9 for XDP).
const BPF_LINK_CREATE: libc::c_int = 28;
/// `BPF_LINK_DETACH`, of `enum bpf_cmd` (since Linux 5.9).
const BPF_LINK_DETACH: libc::c_int = 34;
/// `BPF_XDP`, of `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
/// `XDP_FLAGS_DRV_MODE` (include/uapi/linux/if_link.h): native mode or nothing.
const NATIVE: u32 = 1 << 2;

/// The head of `link_create` in `union bpf_attr`; the kernel takes the rest for zeros.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `link_detach` in `union bpf_attr`.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// `info` in `union bpf_attr`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of `struct bpf_link_info` of an XDP program's link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    /// 0 once the interface has gone, or the program was detached by force.
    ifindex: u32,
}

/// An attached program. Dropping it detaches the program.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Attaches `program` to the interface with this index, in native mode.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn attach(program: BorrowedFd<'_>, index: u32) -> io::Result<Self> {
        let attributes = LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            target_ifindex: index,
            attach_type: BPF_XDP,
            flags: NATIVE,
        };
        // SAFETY: the pointer is to a local of the size given.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_LINK_CREATE,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has opened the descriptor just now, and it has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Whether the program is still attached to the interface with this index: the kernel detaches
    /// it from an interface that goes, and an administrator can by force. True if the kernel does
    /// not answer.
    pub fn is_attached(&self, index: u32) -> bool {
        let mut info = LinkInfo::default();
        let attributes = GetInfo {
            bpf_fd: self.0.as_raw_fd() as u32,
            info_len: size_of_val(&info) as u32,
            info: (&raw mut info).expose_provenance() as u64,
        };
        // SAFETY: the pointers are to locals of the sizes given.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_OBJ_GET_INFO_BY_FD,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        Errno::result(answer).is_err() || info.ifindex == index
    }
}

/// Detaches before the descriptor is closed. Closing it detaches only if no other process has it,
/// and one that is being forked has every descriptor for a moment: until then the interface could
/// not be attached to again. If the kernel refuses, because the capabilities were given up, closing
/// has to do.
impl Drop for Link {
    fn drop(&mut self) {
        let attributes = LinkDetach {
            link_fd: self.0.as_raw_fd() as u32,
        };
        // SAFETY: the pointer is to a local of the size given.
        unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_LINK_DETACH,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
    }
}
