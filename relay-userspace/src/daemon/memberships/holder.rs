//! One UDP socket and the memberships that it holds.

use std::{collections::BTreeMap, io, net::IpAddr, os::fd::AsRawFd as _};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::Membership;
use crate::host::{
    group_options::{self, What},
    socket_options,
};

/// The default of `net.ipv4.igmp_max_memberships`. More would make each join slower: the kernel
/// searches the groups that the socket has.
pub(super) const GROUPS_PER_SOCKET: usize = 20;
/// The default of `net.ipv4.igmp_max_msf`. IPv6 takes more, see `net.ipv6.mld_max_msf`.
pub(super) const SOURCES_PER_GROUP: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum IpVersion {
    V4,
    V6,
}

/// A socket that holds memberships.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) socket: Socket,
    pub(super) version: IpVersion,
    groups: BTreeMap<Group, Held>,
}

/// An interface's index, and a group.
pub(super) type Group = (u32, IpAddr);

/// How a socket has a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    OfAny,
    /// Of so many sources, and whether it takes another one.
    OfSources {
        count: usize,
        is_full: bool,
    },
}

impl IpVersion {
    pub(super) fn of(group: IpAddr) -> Self {
        match group {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl Holder {
    pub(super) fn open(version: IpVersion) -> io::Result<Self> {
        // The option is in no crate (include/uapi/linux/in6.h).
        const IPV6_MULTICAST_ALL: libc::c_int = 29;
        let domain = match version {
            IpVersion::V4 => Domain::IPV4,
            IpVersion::V6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        // Without this, a socket that is bound receives the groups of every other socket on the
        // host.
        match version {
            IpVersion::V4 => socket.set_multicast_all_v4(false)?,
            IpVersion::V6 => {
                let (level, option) = (libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL);
                socket_options::set(socket.as_raw_fd(), level, option, 0)?;
            }
        }
        Ok(Self {
            socket,
            version,
            groups: BTreeMap::new(),
        })
    }

    /// Whether it holds none.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether it takes another group, as far as is known.
    pub(super) fn has_room(&self) -> bool {
        self.groups.len() < GROUPS_PER_SOCKET
    }

    /// Whether it can take a membership beside those that it has, as far as is known.
    pub(super) fn takes(&self, membership: Membership) -> bool {
        match (self.held(membership), membership.source) {
            (None, _) => self.has_room(),
            (Some(Held::OfSources { is_full, .. }), Some(_)) => !is_full,
            (Some(_), _) => false,
        }
    }

    fn held(&self, membership: Membership) -> Option<Held> {
        let group = (membership.interface, membership.group);
        self.groups.get(&group).copied()
    }

    /// Notes that it takes no other source of a group that it has; false if it has no such group.
    pub(super) fn fill(&mut self, membership: Membership) -> bool {
        let group = (membership.interface, membership.group);
        match self.groups.get_mut(&group) {
            Some(Held::OfSources { is_full, .. }) => {
                *is_full = true;
                true
            }
            Some(Held::OfAny) | None => false,
        }
    }

    fn change(
        &self,
        what: What,
        membership: Membership,
        source: Option<IpAddr>,
    ) -> nix::Result<()> {
        let Membership {
            interface, group, ..
        } = membership;
        group_options::change(self.socket.as_raw_fd(), what, interface, group, source)
    }

    pub(super) fn join(&mut self, membership: Membership) -> nix::Result<()> {
        self.change(What::Join, membership, membership.source)?;
        let now = match (membership.source, self.held(membership)) {
            (None, _) => Held::OfAny,
            (Some(_), Some(Held::OfSources { count, .. })) => Held::of_sources(count + 1),
            (Some(_), _) => Held::of_sources(1),
        };
        let group = (membership.interface, membership.group);
        self.groups.insert(group, now);
        Ok(())
    }

    pub(super) fn leave(&mut self, membership: Membership) {
        let left = self.change(What::Leave, membership, membership.source);
        // If the interface has gone, the kernel knows no source any more. It takes the group from
        // the socket in any case.
        if left == Err(Errno::ENODEV) && membership.source.is_some() {
            let _ = self.change(What::Leave, membership, None);
        }
        let group = (membership.interface, membership.group);
        match self.groups.get_mut(&group) {
            Some(held @ Held::OfSources { count: 2.., .. }) => *held = held.one_less(),
            Some(_) | None => {
                self.groups.remove(&group);
            }
        }
    }
}

impl Held {
    fn of_sources(count: usize) -> Self {
        let is_full = count >= SOURCES_PER_GROUP;
        Self::OfSources { count, is_full }
    }

    fn one_less(self) -> Self {
        match self {
            Self::OfAny => Self::OfAny,
            Self::OfSources { count, .. } => Self::of_sources(count.saturating_sub(1)),
        }
    }
}
