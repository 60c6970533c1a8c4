//! The system calls that no dependency wraps: raw socket options, packet sockets, batched receive, seccomp.
//!
//! Every `unsafe` block of the testbed lives here, but those of `netns.rs` (`pre_exec`) and `bpf.rs`. Buffers
//! belong to safe types; pointers into them exist only for the length of one call.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::ptr;
use std::time::Duration;

/// `SO_MEMINFO` (asm-generic/socket.h) and the index of its drop counter (linux/sock_diag.h).
const SO_MEMINFO: c_int = 55;
const SK_MEMINFO_DROPS: usize = 8;
/// `PACKET_IGNORE_OUTGOING` (linux/if_packet.h).
const PACKET_IGNORE_OUTGOING: c_int = 23;

/// The result of a call that returns -1 for an error.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Plain C data that may be handed to `setsockopt` byte for byte.
///
/// # Safety
/// Only for types without padding, pointers or invalid bit patterns.
pub unsafe trait OptionValue: Copy {}
// SAFETY: an integer has no padding and no pointer.
unsafe impl OptionValue for c_int {}
// SAFETY: two addresses and an index, four bytes each.
unsafe impl OptionValue for libc::ip_mreqn {}

/// `setsockopt` with a plain value.
pub fn set_option<T: OptionValue>(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: `value` is valid for reads of its own size, and the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// How many messages the kernel dropped because this socket's buffer was full.
pub fn socket_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut values = [0u32; 9];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` is writable for `length` bytes; the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(values[SK_MEMINFO_DROPS])
}

/// What a packet socket hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// Nothing; it only sends.
    Nothing,
    /// Frames that arrive.
    Arriving,
    /// Frames that arrive and frames that local sockets send.
    Everything,
}

/// Opens a raw packet socket on the interface with `index`, in the calling thread's namespace. It
/// sends complete frames; what it hears comes with auxiliary data.
pub fn packet_socket(index: u32, hears: Hears) -> io::Result<OwnedFd> {
    // Protocol 0 keeps the socket silent until it is bound to the interface.
    // SAFETY: no pointer is passed.
    let fd =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was opened just now and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let one: c_int = 1;
    if hears != Hears::Nothing {
        set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_AUXDATA, &one)?;
    }
    if hears == Hears::Arriving {
        set_option(
            socket.as_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            &one,
        )?;
    }
    let protocol = if hears == Hears::Nothing {
        0
    } else {
        (libc::ETH_P_ALL as u16).to_be()
    };
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as c_int;
    // SAFETY: `address` is a whole `sockaddr_ll` and outlives the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    check(result)?;
    Ok(socket)
}

/// Sends one frame or datagram; all of it or an error.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: `bytes` is valid for reads of its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(sent) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(n) => Err(io::Error::other(format!(
            "sent {n} of {} bytes",
            bytes.len()
        ))),
    }
}

/// `ETHTOOL_STXCSUM` (linux/ethtool.h).
const TX_CHECKSUM: u32 = 0x17;

/// Turns checksum offload of `interface` on or off, in the calling thread's namespace. Off makes the kernel
/// complete every checksum before the device.
pub fn set_checksum_offload(interface: &str, on: bool) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value {
        command: TX_CHECKSUM,
        data: u32::from(on),
    };
    let mut request = request_for(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: no pointer is passed.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: `fd` was opened just now and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `request` and the `value` it points to are live for the call, as SIOCETHTOOL wants.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    Ok(())
}

/// include/uapi/linux/if_tun.h
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const IFF_TAP_NO_PI_VNET_HDR: libc::c_short = 0x0002 | 0x1000 | 0x4000;
/// `TUN_F_CSUM`, `TUN_F_USO4` and `TUN_F_USO6`, which come together.
const TUN_TAKES_GSO_PACKETS: libc::c_ulong = 0x01 | 0x20 | 0x40;

/// Makes a tap device in the calling thread's namespace, which lives as long as the file. What is
/// read has a `struct virtio_net_hdr` in front; there is no waiting. With `offload` it takes UDP
/// GSO packets whole.
pub fn open_tap(interface: &str, offload: bool) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = request_for(interface)?;
    request.ifr_ifru.ifru_flags = IFF_TAP_NO_PI_VNET_HDR;
    // SAFETY: `request` is live for the call, which reads and writes it.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    if offload {
        // SAFETY: the argument is a number.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, TUN_TAKES_GSO_PACKETS) })?;
    }
    Ok(file)
}

/// A request about `interface`.
fn request_for(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::other(format!(
            "interface name `{interface}` is too long"
        )));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// Makes `io_uring_setup` fail with `EPERM` in the program that `command` starts, as the seccomp profile of
/// a container does.
pub fn forbid_io_uring(command: &mut Command) {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut program = [
        // The number of the system call is the first word of `seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing; `program`
    // belongs to it and outlives the calls.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog {
                len: program.len() as u16,
                filter: program.as_mut_ptr(),
            };
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            let mode = libc::SECCOMP_MODE_FILTER;
            check(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter))?;
            Ok(())
        });
    }
}

/// Lets the program that `command` starts lock `bytes` of memory.
pub fn limit_locked_memory(command: &mut Command, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: between fork and exec the closure makes one system call, which reads `limit`, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            check(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit)).map(drop)
        });
    }
}

/// Lets the program that `command` starts have `soft` of a resource, such as [`libc::RLIMIT_NOFILE`],
/// and raise that to `hard`, or to the limit of this process if that is lower.
pub fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, soft: u64, hard: u64) {
    // SAFETY: between fork and exec the closure makes two system calls, on a local, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            let mut limit: libc::rlimit = mem::zeroed();
            check(libc::getrlimit(resource, &raw mut limit))?;
            limit.rlim_max = limit.rlim_max.min(hard);
            limit.rlim_cur = limit.rlim_max.min(soft);
            check(libc::setrlimit(resource, &raw const limit)).map(drop)
        });
    }
}

/// Makes the program that `command` starts the leader of a session whose terminal is its standard
/// error, as a login shell has one.
pub fn lead_session_of_stderr(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            check(libc::ioctl(libc::STDERR_FILENO, libc::TIOCSCTTY, 0)).map(drop)
        });
    }
}

/// Makes the calling thread, and no other, one of the user `nobody`, which has no capability. For good.
pub fn give_up_privileges() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65_534;
    // SAFETY: no pointer is passed. The C library's function would change all threads.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    check(result as c_int).map(drop)
}

/// What a process has used up.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// The time on CPUs, also in the kernel.
    pub cpu: Duration,
    /// The most memory that it had at once.
    pub peak_bytes: u64,
}

/// Waits for the end of a child, with what it used.
pub fn wait_with_usage(child: Child) -> io::Result<(ExitStatus, Usage)> {
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: both pointers are to locals; the child is of this process and nothing else waits for it,
    // because it was moved here.
    check(unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) })?;
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.unsigned_abs())
            + Duration::from_micros(value.tv_usec.unsigned_abs())
    };
    let usage = Usage {
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak_bytes: usage.ru_maxrss.unsigned_abs() * 1024,
    };
    Ok((ExitStatus::from_raw(status), usage))
}

/// What came with one received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The bytes, cut off at the batch's buffer size.
    pub bytes: &'a [u8],
    /// The length on the wire.
    pub full_length: usize,
    /// The sender, on UDP sockets.
    pub source: Option<SocketAddrV4>,
    /// The checksum is still to be completed, on packet sockets (`TP_STATUS_CSUMNOTREADY`).
    pub partial_checksum: bool,
    /// The VLAN tag that the kernel keeps beside the frame, on packet sockets.
    pub vlan: Option<u16>,
}

/// Space for the auxiliary data of a packet socket.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Buffers for one `recvmmsg`, allocated once.
pub struct Batch {
    buffer_size: usize,
    bytes: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    headers: Vec<(usize, usize)>,
}

impl Batch {
    /// Room for `messages` of at most `buffer_size` bytes each.
    pub fn new(messages: usize, buffer_size: usize) -> Self {
        // SAFETY: all-zero bytes are a valid `sockaddr_storage`.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            buffer_size,
            bytes: vec![0; messages * buffer_size],
            names: vec![name; messages],
            controls: vec![Control([0; 64]); messages],
            headers: Vec::with_capacity(messages),
        }
    }

    /// Receives what is there, without waiting; 0 when nothing is.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.headers.clear();
        let mut vectors: Vec<libc::iovec> = self
            .bytes
            .chunks_exact_mut(self.buffer_size)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: chunk.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(self.names.iter_mut().zip(self.controls.iter_mut()))
            .map(|(vector, (name, control))| {
                // SAFETY: all-zero bytes are a valid `mmsghdr`.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message.msg_hdr.msg_name = ptr::from_mut(name).cast();
                message.msg_hdr.msg_namelen = size_of_val(name) as libc::socklen_t;
                message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                message.msg_hdr.msg_controllen = control.0.len();
                message
            })
            .collect();
        // SAFETY: every pointer in `messages` leads to a buffer of `self` or `vectors` of the length
        // beside it, and all of them outlive the call.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                ptr::null_mut(),
            )
        };
        let count = match check(result) {
            Ok(count) => count as usize,
            Err(e)
                if e.kind() == io::ErrorKind::WouldBlock
                    || e.kind() == io::ErrorKind::Interrupted =>
            {
                0
            }
            Err(e) => return Err(e),
        };
        self.headers.extend(
            messages
                .iter()
                .take(count)
                .map(|m| (m.msg_len as usize, m.msg_hdr.msg_controllen)),
        );
        Ok(count)
    }

    /// The messages of the last [`Batch::receive`].
    pub fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        self.headers
            .iter()
            .enumerate()
            .map(|(i, &(length, control_length))| {
                let start = i * self.buffer_size;
                let (partial_checksum, vlan) = auxiliary(&self.controls[i], control_length);
                Message {
                    bytes: &self.bytes[start..start + length.min(self.buffer_size)],
                    full_length: length,
                    source: source(&self.names[i]),
                    partial_checksum,
                    vlan,
                }
            })
    }
}

/// The IPv4 address in `name`, if it is one.
fn source(name: &libc::sockaddr_storage) -> Option<SocketAddrV4> {
    if c_int::from(name.ss_family) != libc::AF_INET {
        return None;
    }
    // SAFETY: a `sockaddr_storage` is large and aligned enough for every address; the family says it
    // holds a `sockaddr_in`, which is valid for any bytes.
    let address = unsafe { *ptr::from_ref(name).cast::<libc::sockaddr_in>() };
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)))
}

/// Partial checksum and VLAN tag from a `PACKET_AUXDATA` control message.
fn auxiliary(control: &Control, length: usize) -> (bool, Option<u16>) {
    let header = size_of::<libc::cmsghdr>();
    if length < header + size_of::<libc::tpacket_auxdata>() {
        return (false, None);
    }
    // SAFETY: `control` is aligned to 8 and holds a whole `cmsghdr`, valid for any bytes.
    let head = unsafe { ptr::read(control.0.as_ptr().cast::<libc::cmsghdr>()) };
    if head.cmsg_level != libc::SOL_PACKET || head.cmsg_type != libc::PACKET_AUXDATA {
        return (false, None);
    }
    // SAFETY: the length was checked above; `tpacket_auxdata` is integers only.
    let data = unsafe {
        ptr::read_unaligned(
            control
                .0
                .as_ptr()
                .add(header)
                .cast::<libc::tpacket_auxdata>(),
        )
    };
    let vlan = (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(data.tp_vlan_tci);
    (data.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0, vlan)
}
