//! Receives many messages with one system call, each with what the kernel says about it.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::errno::check;

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The bytes, cut off at the batch's buffer size.
    pub bytes: &'a [u8],
    /// The length on the wire.
    pub full_length: usize,
    /// The sender, on UDP sockets.
    pub source: Option<SocketAddr>,
    /// The checksum is still to be completed, on packet sockets (`TP_STATUS_CSUMNOTREADY`).
    pub partial_checksum: bool,
    /// The VLAN tag that the kernel keeps beside the frame, on packet sockets: its tag control
    /// information.
    pub vlan: Option<u16>,
    /// The EtherType of that tag.
    pub tpid: u16,
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

    /// Receives the messages that are there, without waiting; returns how many.
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
        // SAFETY: every pointer in `messages` leads to a buffer of `self` or `vectors` of the
        // length beside it, and all of them outlive the call.
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
                let (partial_checksum, vlan, tpid) = auxiliary(&self.controls[i], control_length);
                Message {
                    bytes: &self.bytes[start..start + length.min(self.buffer_size)],
                    full_length: length,
                    source: source(&self.names[i]),
                    partial_checksum,
                    vlan,
                    tpid,
                }
            })
    }
}

/// The address and port in `name`, if it is an IP address.
fn source(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: a `sockaddr_storage` is large and aligned enough for every address; the
            // family says that it holds a `sockaddr_in`, which is valid for any bytes.
            let address = unsafe { *ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddr::from((ip, u16::from_be(address.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, and the family says that it holds a `sockaddr_in6`.
            let address = unsafe { *ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(SocketAddr::from((ip, u16::from_be(address.sin6_port))))
        }
        _ => None,
    }
}

/// Partial checksum, VLAN tag and its EtherType from a `PACKET_AUXDATA` control message.
fn auxiliary(control: &Control, length: usize) -> (bool, Option<u16>, u16) {
    let header = size_of::<libc::cmsghdr>();
    if length < header + size_of::<libc::tpacket_auxdata>() {
        return (false, None, 0);
    }
    // SAFETY: `control` is aligned to 8 and holds a whole `cmsghdr`, valid for any bytes.
    let head = unsafe { ptr::read(control.0.as_ptr().cast::<libc::cmsghdr>()) };
    if head.cmsg_level != libc::SOL_PACKET || head.cmsg_type != libc::PACKET_AUXDATA {
        return (false, None, 0);
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
    (
        data.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0,
        vlan,
        data.tp_vlan_tpid,
    )
}
