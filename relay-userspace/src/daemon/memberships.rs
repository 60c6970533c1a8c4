//! Multicast memberships: AF_XDP sockets cannot join groups, so UDP sockets join for them.
//!
//! A membership makes the kernel send and answer IGMP or MLD, and programs the NIC's filter. It
//! lives as long as its socket has it. The sockets are never bound, so the kernel queues no
//! datagram on them. Memberships are left newest first: any other order takes time that grows with
//! the square of their number.
//!
//! A socket has a group of an interface either of any source or of some sources. Of one group, both
//! kinds may be wanted, and more sources than one socket takes: then they are on several sockets,
//! and the kernel asks the network for all that any of them wants.

mod error;
mod holder;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::fd::AsRawFd as _,
    time::Instant,
};

use nix::errno::Errno;
use socket2::Socket;

pub use self::error::MembershipError;
use self::holder::{GROUPS_PER_SOCKET, Group, Holder, IpVersion, SOURCES_PER_GROUP};
pub use crate::plan::Membership;
use crate::{
    host::{self, socket_options},
    plan::Plan,
};

/// The groups that are joined. Dropping it leaves them.
#[derive(Debug, Default)]
pub struct Memberships {
    joined: BTreeMap<Membership, Joined>,
    /// Every one has at least one group.
    sockets: BTreeMap<u64, Holder>,
    /// The sockets that take another group, as far as is known.
    with_room: BTreeSet<(IpVersion, u64)>,
    /// How many memberships there have ever been, and so the number of the next one. A socket has
    /// the number of its first membership.
    next: u64,
}

/// Where a group is joined.
#[derive(Debug, Clone, Copy)]
struct Joined {
    /// The greater, the newer.
    number: u64,
    socket: u64,
}

impl Memberships {
    /// Joins every distinct membership of `plan`.
    ///
    /// # Errors
    ///
    /// The first membership that the kernel refuses; those joined before it are left again.
    pub fn join(plan: &Plan) -> Result<Self, MembershipError> {
        let mut memberships = Self::default();
        memberships.join_missing(&wanted(plan), |index| {
            let mut interfaces = plan.interfaces.iter();
            let found = interfaces.find(|interface| interface.index == index);
            found.map_or_else(String::new, |interface| interface.name.clone())
        })?;
        Ok(memberships)
    }

    /// Joins those of `wanted` that are not joined yet. `name` gives an interface's name by its
    /// index, for errors. Memberships of interfaces that no longer exist are forgotten before.
    ///
    /// # Errors
    ///
    /// The first membership that the kernel refuses; those joined by this call are left again.
    pub fn join_missing(
        &mut self,
        wanted: &BTreeSet<Membership>,
        name: impl Fn(u32) -> String,
    ) -> Result<(), MembershipError> {
        self.forget_vanished();
        let missing = wanted.iter().filter(|one| !self.joined.contains_key(one));
        let missing: Vec<_> = missing.copied().collect();
        let mut joined = Vec::with_capacity(missing.len());
        for membership in missing {
            if let Err(error) = self.join_one(membership, &name) {
                joined.into_iter().rev().for_each(|one| self.leave(one));
                return Err(error);
            }
            joined.push(membership);
        }
        Ok(())
    }

    /// Leaves every membership that is not in `wanted`, and returns whether that was done before
    /// `deadline`; call it again for the rest. Leaving is slow only where newer groups of the same
    /// interface stay: the kernel passes all of them, for each group that is left.
    pub fn leave_others(&mut self, wanted: &BTreeSet<Membership>, deadline: Instant) -> bool {
        self.leave_unless(|membership| wanted.contains(&membership), Some(deadline))
    }

    /// Forgets the memberships of an interface, given by its index, that has gone: the kernel has
    /// ended them. [`Self::join_missing`] sees by itself that an index has no interface, but not
    /// that a new one has the same index.
    pub fn forget(&mut self, interface: u32) {
        self.leave_unless(|membership| membership.interface != interface, None);
    }

    /// Forgets the memberships over IPv6 that the kernel has ended because the interface's IPv6
    /// ended, also where that is back; returns whether there were any. [`Self::join_missing`] joins
    /// them again.
    pub fn forget_ended(&mut self) -> bool {
        if !self.joined.keys().any(|one| one.group.is_ipv6()) {
            return false;
        }
        let Ok(there) = host::ipv6_groups() else {
            return false;
        };
        let before = self.joined.len();
        let stays = |one: Membership| match one.group {
            IpAddr::V4(_) => true,
            IpAddr::V6(group) => there.contains(&(one.interface, group)),
        };
        self.leave_unless(stays, None);
        self.joined.len() < before
    }

    /// The interface index and the group of each socket that has joined one.
    pub fn sockets(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        let joined = self.joined.iter();
        // A socket has joined a group once, of however many sources.
        let sockets: BTreeSet<_> = joined
            .map(|(one, joined)| (one.interface, one.group, joined.socket))
            .collect();
        sockets.into_iter().map(|(index, group, _)| (index, group))
    }

    /// The number of memberships.
    #[must_use]
    pub fn len(&self) -> usize {
        self.joined.len()
    }

    /// Nothing is joined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty()
    }

    /// Joins on a socket that has room, or on a new one.
    fn join_one(
        &mut self,
        membership: Membership,
        name: impl Fn(u32) -> String,
    ) -> Result<(), MembershipError> {
        let failed = |source: Errno| MembershipError::Join {
            interface: name(membership.interface),
            membership,
            source: source.into(),
        };
        for number in self.candidates(membership) {
            let Some(holder) = self.sockets.get_mut(&number) else {
                continue;
            };
            match holder.join(membership) {
                Ok(()) => {
                    if !holder.has_room() {
                        self.with_room.remove(&(holder.version, number));
                    }
                    self.note(membership, number);
                    return Ok(());
                }
                // If a limit was lowered, a socket takes less.
                Err(Errno::ENOBUFS) => {
                    if !holder.fill(membership) {
                        self.with_room.remove(&(holder.version, number));
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let version = IpVersion::of(membership.group);
        let opened = Holder::open(version);
        let mut holder = opened.map_err(|source| MembershipError::Socket {
            number: self.sockets.len() + 1,
            source,
        })?;
        holder.join(membership).map_err(failed)?;
        let number = self.next;
        self.sockets.insert(number, holder);
        self.with_room.insert((version, number));
        self.note(membership, number);
        Ok(())
    }

    /// The sockets that may take a membership: first the one that has its group of another source.
    fn candidates(&self, membership: Membership) -> Vec<u64> {
        let group = (membership.interface, membership.group);
        let of_same_group = |one: &(&Membership, &Joined)| (one.0.interface, one.0.group) == group;
        let before = self.joined.range(..membership).next_back();
        let after = self.joined.range(membership..).next();
        let neighbours = [before, after].into_iter().flatten().filter(of_same_group);
        let neighbours = neighbours.map(|(_, joined)| joined.socket);
        let version = IpVersion::of(membership.group);
        let with_room = self.with_room.range((version, 0)..=(version, u64::MAX));
        let with_room = with_room.map(|&(_, number)| number);
        let takes = |number: &u64| {
            let holder = self.sockets.get(number);
            holder.is_some_and(|holder| holder.takes(membership))
        };
        neighbours.chain(with_room).filter(takes).take(4).collect()
    }

    fn note(&mut self, membership: Membership, socket: u64) {
        let number = self.next;
        self.next += 1;
        self.joined.insert(membership, Joined { number, socket });
    }

    /// Forgets the memberships of every interface that no longer exists.
    fn forget_vanished(&mut self) {
        let Some(any) = self.sockets.values().next() else {
            return;
        };
        let indices: BTreeSet<u32> = self.joined.keys().map(|one| one.interface).collect();
        let vanished = indices
            .into_iter()
            .filter(|&index| !exists(&any.socket, index));
        for index in vanished.collect::<Vec<_>>() {
            self.forget(index);
        }
    }

    /// Leaves what does not stay, and returns whether that was done before `deadline`.
    ///
    /// The kernel keeps the groups of an interface in a list, newest first, and searches it from
    /// the front for the group to leave (`__ip_mc_dec_group` in net/ipv4/igmp.c,
    /// `__ipv6_dev_mc_dec` in net/ipv6/mcast.c): oldest first, leaving n groups would take n²/2
    /// steps.
    fn leave_unless(
        &mut self,
        stays: impl Fn(Membership) -> bool,
        deadline: Option<Instant>,
    ) -> bool {
        let others = self.joined.iter().filter(|(one, _)| !stays(**one));
        let others = others.map(|(one, joined)| (Reverse(joined.number), *one));
        let newest_first: BTreeMap<Reverse<u64>, Membership> = others.collect();
        for membership in newest_first.into_values() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return false;
            }
            self.leave(membership);
        }
        true
    }

    /// Leaves a group, and closes its socket if it has no other.
    fn leave(&mut self, membership: Membership) {
        let Some(Joined { socket: number, .. }) = self.joined.remove(&membership) else {
            return;
        };
        let Some(holder) = self.sockets.get_mut(&number) else {
            return;
        };
        holder.leave(membership);
        let place = (holder.version, number);
        if holder.is_empty() {
            self.sockets.remove(&number);
            self.with_room.remove(&place);
        } else if holder.has_room() {
            self.with_room.insert(place);
        }
    }
}

impl Drop for Memberships {
    fn drop(&mut self) {
        self.leave_unless(|_| false, None);
    }
}

/// Every distinct membership that `plan` needs.
#[must_use]
pub fn wanted(plan: &Plan) -> BTreeSet<Membership> {
    plan.memberships()
}

/// How many sockets the memberships of `plan` take, at most.
#[must_use]
pub fn sockets_for(plan: &Plan) -> usize {
    let limit = |name: &str, most: usize| {
        let limit = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
        let limit = limit.and_then(|limit| limit.trim().parse().ok());
        limit.map_or(most, |limit: usize| limit.clamp(1, most))
    };
    // One group has a place on a socket for each time that its sources fill one, and for any
    // source.
    let sources_each = limit("igmp_max_msf", SOURCES_PER_GROUP);
    let mut places: BTreeMap<IpVersion, usize> = BTreeMap::new();
    let mut most = BTreeMap::<Group, (usize, usize)>::new();
    for membership in wanted(plan) {
        let group = (membership.interface, membership.group);
        let (sources, any) = most.entry(group).or_default();
        match membership.source {
            Some(_) => *sources += 1,
            None => *any = 1,
        }
    }
    // The places of one group are on different sockets.
    let mut apart = BTreeMap::<IpVersion, usize>::new();
    for ((_, group), (sources, any)) in most {
        let of_group = sources.div_ceil(sources_each) + any;
        let version = IpVersion::of(group);
        *places.entry(version).or_default() += of_group;
        let apart = apart.entry(version).or_default();
        *apart = (*apart).max(of_group);
    }
    let groups_each = limit("igmp_max_memberships", GROUPS_PER_SOCKET);
    let sockets = places.iter().map(|(version, places)| {
        let apart = apart.get(version).copied().unwrap_or(0);
        places.div_ceil(groups_each).max(apart)
    });
    sockets.sum()
}

/// Whether there is an interface with this index in the network namespace of `socket`, which may be
/// any UDP socket that sends nothing. True if the kernel does not say.
fn exists(socket: &Socket, index: u32) -> bool {
    let index = index.to_be() as libc::c_int;
    // An IPv6 socket has this option as well.
    let set = socket_options::set(
        socket.as_raw_fd(),
        libc::IPPROTO_IP,
        libc::IP_UNICAST_IF,
        index,
    );
    set != Err(Errno::EADDRNOTAVAIL)
}
