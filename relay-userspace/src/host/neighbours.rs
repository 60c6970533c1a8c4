//! The kernel's table of neighbours: which Ethernet address a host on a link has.
//!
//! The kernel resolves and keeps fresh what it is asked to (`NTF_EXT_MANAGED`, Linux 5.16), so the
//! relay sends no ARP or neighbour discovery of its own.

use std::{io, net::IpAddr};

use nix::sys::socket::SockProtocol;

use super::{
    netlink_socket::{Socket, attributes, push, u16_at, u32_at},
    routes,
};

/// Attributes and flags of a neighbour (include/uapi/linux/neighbour.h).
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_USE: u8 = 0x01;
const NTF_PROXY: u8 = 0x08;
const NTF_EXT_LEARNED: u8 = 0x10;
const NTF_EXT_MANAGED: u32 = 1 << 0;
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE: u16 = 0x04;
const NUD_DELAY: u16 = 0x08;
const NUD_PROBE: u16 = 0x10;
const NUD_FAILED: u16 = 0x20;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// The states in which the kernel sends to a neighbour.
const NUD_VALID: u16 =
    NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY;
/// The size of a `struct ndmsg`.
const HEADER: usize = 12;

/// A host on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OnLink {
    /// The index of the interface.
    pub interface: u32,
    /// The host's address.
    pub address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    state: u16,
    flags: u8,
    is_managed: bool,
}

impl Neighbour {
    /// The Ethernet address that the kernel sends to now; `None` where it has none, or sends
    /// nothing.
    #[must_use]
    pub fn usable_mac(&self) -> Option<[u8; 6]> {
        self.mac.filter(|_| self.state & NUD_VALID != 0)
    }

    /// The kernel has asked for it in vain.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state & NUD_FAILED != 0
    }

    /// It stays as it is without anybody's doing: a person or a program has set it, or the device
    /// resolves nothing.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.state & (NUD_PERMANENT | NUD_NOARP) != 0
    }

    /// The kernel keeps it fresh by itself.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.is_managed
    }
}

#[cfg(test)]
impl Neighbour {
    /// A neighbour as the kernel could report it.
    pub(crate) fn fixture(state: u16, mac: Option<[u8; 6]>) -> Self {
        Self {
            mac,
            state,
            flags: 0,
            is_managed: true,
        }
    }
}

/// Reads and changes the table.
#[derive(Debug)]
pub struct Neighbours(Socket);

impl Neighbours {
    /// Opens a socket, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Socket::open(SockProtocol::NetlinkRoute, 0)?))
    }

    /// What the kernel knows of a host; `None` if it knows nothing.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn get(&mut self, host: OnLink) -> io::Result<Option<Neighbour>> {
        let mut found = None;
        let asked = self.0.ask(
            libc::RTM_GETNEIGH,
            &request(host, 0, None),
            |kind, answer| {
                if kind == libc::RTM_NEWNEIGH {
                    found = neighbour(answer).map(|(_, neighbour)| neighbour);
                }
            },
        );
        match asked {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    }

    /// Makes the kernel resolve a host and keep it fresh, by itself if it can. `before` is what it
    /// knows of it, which must not be fixed: the kernel would forget that.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn keep_fresh(&mut self, host: OnLink, before: Option<Neighbour>) -> io::Result<()> {
        self.set(host, before, Some(NTF_EXT_MANAGED))
    }

    /// Makes the kernel resolve a host, or ask whether it is still there, once; and if it has kept
    /// it fresh by itself, it does so no longer. `before` as for [`Self::keep_fresh`].
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn use_once(&mut self, host: OnLink, before: Option<Neighbour>) -> io::Result<()> {
        self.set(host, before, None)
    }

    fn set(&mut self, host: OnLink, before: Option<Neighbour>, ext: Option<u32>) -> io::Result<()> {
        // Without this flag the kernel would take it off.
        let learned = before.map_or(0, |before| before.flags & NTF_EXT_LEARNED);
        let payload = request(host, NTF_USE | learned, ext);
        self.0.create(libc::RTM_NEWNEIGH, &payload)
    }
}

fn request(host: OnLink, flags: u8, ext: Option<u32>) -> Vec<u8> {
    let family = match host.address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    // struct ndmsg: family, 3 bytes of padding, index, state, flags, type.
    let mut payload = vec![family as u8, 0, 0, 0];
    payload.extend(host.interface.to_ne_bytes());
    payload.extend([0, 0, flags, 0]);
    match host.address {
        IpAddr::V4(address) => push(&mut payload, NDA_DST, &address.octets()),
        IpAddr::V6(address) => push(&mut payload, NDA_DST, &address.octets()),
    }
    if let Some(ext) = ext {
        push(&mut payload, NDA_FLAGS_EXT, &ext.to_ne_bytes());
    }
    payload
}

/// The neighbour that a message is about; `None` where it is about something else that the kernel
/// reports so: what a bridge has learned, or what it answers for on behalf of others.
pub(super) fn neighbour(message: &[u8]) -> Option<(OnLink, Neighbour)> {
    let family = libc::c_int::from(*message.first()?);
    let flags = *message.get(10)?;
    if !matches!(family, libc::AF_INET | libc::AF_INET6) || flags & NTF_PROXY != 0 {
        return None;
    }
    let (mut address, mut mac, mut ext) = (None, None, 0);
    for (kind, value) in attributes(message.get(HEADER..)?) {
        match kind {
            NDA_DST => address = routes::address(value),
            NDA_LLADDR => mac = value.try_into().ok(),
            NDA_FLAGS_EXT => ext = u32_at(value, 0)?,
            _ => {}
        }
    }
    let host = OnLink {
        interface: u32_at(message, 4)?,
        address: address?,
    };
    let neighbour = Neighbour {
        mac,
        state: u16_at(message, 8)?,
        flags,
        is_managed: ext & NTF_EXT_MANAGED != 0,
    };
    Some((host, neighbour))
}
