//! One attachment of the XDP program: a `bpf_link`, which the kernel detaches when this process
//! ends, however it ends.
//!
//! aya falls back to netlink if the kernel answers EINVAL to a link, and a program attached by
//! netlink outlives the relay. So this one system call is made here.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::errno::Errno;

/// `BPF_LINK_CREATE`, of `enum bpf_cmd` (include/uapi/linux/bpf.h; since Linux 5.9 for XDP).
const BPF_LINK_CREATE: libc::c_int = 28;
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

/// An attached program. Dropping it detaches the program.
#[derive(Debug)]
pub struct Link(#[expect(dead_code, reason = "held, never used")] OwnedFd);

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
}
