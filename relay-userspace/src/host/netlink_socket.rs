//! Netlink messages as bytes: one socket, one request at a time, attributes as an iterator.
//!
//! For requests that are repeated while frames move: it starts no thread, keeps no memory except
//! one buffer, and every wait ends.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            send, setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

/// The kernel never sends a larger message, except to a request for virtual functions
/// (`NLMSG_GOODSIZE`, and the most that a dump may fill).
const BUFFER: usize = 64 << 10;
/// How long an answer may take. The kernel answers before `send` returns, unless it is out of
/// memory.
const PATIENCE_SECONDS: i64 = 1;

/// `struct nlmsghdr` (include/uapi/linux/netlink.h): length, type, flags, sequence number, port.
const HEADER: usize = 16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const DUMP_INTR: u16 = 0x10;

/// A netlink socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Socket {
    /// Opens a socket that receives the multicast `groups` (one bit per group) besides answers.
    pub(super) fn open(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; BUFFER].into(),
        })
    }

    /// The descriptor, to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends one request, and passes type and payload of every answer to `take`.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or EAGAIN if no answer arrived in time.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        payload: &[u8],
        take: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.transact(kind, ACK, payload, take).map(drop)
    }

    /// Makes an object, or changes the one that there is.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or EAGAIN if no answer arrived in time.
    pub(super) fn create(&mut self, kind: u16, payload: &[u8]) -> io::Result<()> {
        self.transact(kind, ACK | CREATE, payload, |_, _| {})
            .map(drop)
    }

    /// Requests a list. False if it changed meanwhile, so that it must be requested again.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or EAGAIN if no answer arrived in time.
    pub(super) fn list(
        &mut self,
        kind: u16,
        payload: &[u8],
        take: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        self.transact(kind, DUMP, payload, take)
    }

    fn transact(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
        mut take: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut request = Vec::with_capacity(HEADER + payload.len());
        request.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        request.extend(sequence.to_ne_bytes());
        request.extend(0_u32.to_ne_bytes());
        request.extend(payload);
        send(self.fd.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut complete = true;
        loop {
            let received = match self.receive(MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for message in messages(received) {
                // An answer that arrived too late for an earlier request.
                if message.sequence != sequence {
                    continue;
                }
                complete &= message.flags & DUMP_INTR == 0;
                match message.kind {
                    // The kernel ends a dump that has failed with the error.
                    DONE => match i32_at(message.payload, 0) {
                        Some(code @ ..0) => return Err(io::Error::from_raw_os_error(-code)),
                        _ => return Ok(complete),
                    },
                    // Error 0 is the acknowledgement.
                    ERROR => match i32_at(message.payload, 0) {
                        Some(0) => return Ok(complete),
                        code => {
                            return Err(io::Error::from_raw_os_error(
                                -code.unwrap_or(-libc::EPROTO),
                            ));
                        }
                    },
                    kind => take(kind, message.payload),
                }
            }
        }
    }

    /// Passes the waiting messages of the multicast groups to `take`, without waiting for more.
    ///
    /// # Errors
    ///
    /// ENOBUFS if the kernel has dropped some.
    pub(super) fn hear(&mut self, mut take: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(received) => messages(received).for_each(|one| take(one.kind, one.payload)),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self, flags: MsgFlags) -> Result<&[u8], Errno> {
        // With MSG_TRUNC, recv returns the message's own length, which may exceed the buffer.
        let len = recv(
            self.fd.as_raw_fd(),
            &mut self.buffer,
            flags | MsgFlags::MSG_TRUNC,
        )?;
        self.buffer.get(..len).ok_or(Errno::EMSGSIZE)
    }
}

/// One message.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            payload: bytes.get(HEADER..len)?,
        };
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`: the type, without the flags in its upper bits, and the value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & (libc::NLA_TYPE_MASK as u16);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute to a payload.
pub(super) fn push(payload: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = 4 + value.len();
    payload.extend((len as u16).to_ne_bytes());
    payload.extend(kind.to_ne_bytes());
    payload.extend(value);
    payload.resize(payload.len() + aligned(len) - len, 0);
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

fn at<const N: usize>(bytes: &[u8], start: usize) -> Option<[u8; N]> {
    bytes.get(start..start + N)?.try_into().ok()
}

/// A number in the machine's byte order, at `start`.
pub(super) fn u16_at(bytes: &[u8], start: usize) -> Option<u16> {
    at(bytes, start).map(u16::from_ne_bytes)
}

/// A number in the machine's byte order, at `start`.
pub(super) fn u32_at(bytes: &[u8], start: usize) -> Option<u32> {
    at(bytes, start).map(u32::from_ne_bytes)
}

/// A number in the machine's byte order, at `start`.
pub(super) fn i32_at(bytes: &[u8], start: usize) -> Option<i32> {
    at(bytes, start).map(i32::from_ne_bytes)
}

/// A string as the kernel sends it, with or without the 0 at its end.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(value.get(..end.unwrap_or(value.len())).unwrap_or_default())
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written_and_a_cut_one_ends_them() {
        let mut payload = Vec::new();
        push(&mut payload, 3, b"out0\0");
        push(&mut payload, 4 | 0x8000, &1500_u32.to_ne_bytes());
        push(&mut payload, 9, &[]);
        let read: Vec<_> = attributes(&payload).collect();
        assert_eq!(read.len(), 3);
        assert_eq!((read[0].0, text(read[0].1)), (3, "out0".to_owned()));
        assert_eq!((read[1].0, u32_at(read[1].1, 0)), (4, Some(1500)));
        assert_eq!(read[2], (9, &[][..]));
        for len in 0..payload.len() {
            assert!(attributes(&payload[..len]).count() < 3);
        }
        // A length of 0 must not loop for ever.
        assert_eq!(attributes(&[0; 64]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }
}
