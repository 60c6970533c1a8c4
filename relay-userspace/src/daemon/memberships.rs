//! Multicast memberships: AF_XDP sockets cannot join groups, so UDP sockets join for them.
//!
//! A membership makes the kernel send and answer IGMP, and programs the NIC's filter. It lives as
//! long as its socket has it. The sockets are never bound, so the kernel queues no datagram on
//! them. Groups are left newest first: any other order takes time that grows with the square of the
//! groups.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    time::Instant,
};

use nix::errno::Errno;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::{host::socket_options, plan::Plan};

/// The default of `net.ipv4.igmp_max_memberships`. More would make each join slower: the kernel
/// searches the groups that the socket has.
const GROUPS_PER_SOCKET: usize = 20;

/// An interface's index, and a group that is joined there.
pub type Membership = (u32, Ipv4Addr);

/// The groups that are joined. Dropping it leaves them.
#[derive(Debug, Default)]
pub struct Memberships {
    joined: BTreeMap<Membership, Joined>,
    /// Every one has at least one group.
    sockets: BTreeMap<u64, Holder>,
    /// The sockets that take another group, as far as is known.
    with_room: BTreeSet<u64>,
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

/// A socket that holds memberships.
#[derive(Debug)]
struct Holder {
    socket: Socket,
    groups: usize,
}

/// Why a group could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// No socket could be opened for it.
    #[error("opening socket {number} for group memberships: {}", remedy(source))]
    Socket {
        /// Counted from 1.
        number: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused the membership.
    #[error("joining group {group} on interface {interface}: {}", remedy(source))]
    Join {
        /// The input interface.
        interface: String,
        /// The group.
        group: Ipv4Addr,
        /// The kernel's reason.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::ENOBUFS) => "raise `sysctl net.ipv4.igmp_max_memberships`, it must not be 0",
        Some(libc::ENODEV) => "the interface has gone, or its MTU is too small for IPv4",
        Some(libc::ENOMEM) => "raise `sysctl net.core.optmem_max`, or free memory",
        Some(libc::EMFILE) => "raise the limit of open files, `ulimit -n`; 20 groups take one",
        Some(libc::ENFILE) => "raise `sysctl fs.file-max`",
        _ => "`ip maddress show` lists what is joined",
    };
    format!("{error}; {hint}")
}

impl Memberships {
    /// Joins every distinct (input interface, group) of `plan`.
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

    /// Leaves every group that is not in `wanted`, and returns whether that was done before
    /// `deadline`; call it again for the rest. Leaving is slow only where newer groups of the same
    /// interface stay: the kernel passes all of them, for each group that is left.
    pub fn leave_others(&mut self, wanted: &BTreeSet<Membership>, deadline: Instant) -> bool {
        self.leave_unless(|membership| wanted.contains(&membership), Some(deadline))
    }

    /// Forgets the memberships of an interface, given by its index, that has gone: the kernel has
    /// ended them. [`Self::join_missing`] sees by itself that an index has no interface, but not
    /// that a new one has the same index.
    pub fn forget(&mut self, interface: u32) {
        self.leave_unless(|(index, _)| index != interface, None);
    }

    /// The number of (interface, group) pairs that are joined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.joined.len()
    }

    /// Nothing is joined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty()
    }

    /// Joins a group on a socket that has room, or on a new one.
    fn join_one(
        &mut self,
        (index, group): Membership,
        name: impl Fn(u32) -> String,
    ) -> Result<(), MembershipError> {
        let failed = |source| MembershipError::Join {
            interface: name(index),
            group,
            source,
        };
        while let Some(number) = self.with_room.first().copied() {
            let Some(holder) = self.sockets.get_mut(&number) else {
                self.with_room.remove(&number);
                continue;
            };
            match join(&holder.socket, group, index) {
                Ok(()) => {
                    holder.groups += 1;
                    if holder.groups >= GROUPS_PER_SOCKET {
                        self.with_room.remove(&number);
                    }
                    self.note((index, group), number);
                    return Ok(());
                }
                // If the limit was lowered, a socket takes fewer groups.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.with_room.remove(&number);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let socket = open().map_err(|source| MembershipError::Socket {
            number: self.sockets.len() + 1,
            source,
        })?;
        join(&socket, group, index).map_err(failed)?;
        let number = self.next;
        self.sockets.insert(number, Holder { socket, groups: 1 });
        self.with_room.insert(number);
        self.note((index, group), number);
        Ok(())
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
        let indices: BTreeSet<u32> = self.joined.keys().map(|&(index, _)| index).collect();
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
    /// the front for the group to leave (`__ip_mc_dec_group` in net/ipv4/igmp.c): oldest first,
    /// leaving n groups would take n²/2 steps.
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
        let (index, group) = membership;
        // The kernel takes it from the socket in any case, also if the interface has gone.
        let interface = InterfaceIndexOrAddress::Index(index);
        let _ = holder.socket.leave_multicast_v4_n(&group, &interface);
        holder.groups -= 1;
        if holder.groups == 0 {
            self.sockets.remove(&number);
            self.with_room.remove(&number);
        } else {
            self.with_room.insert(number);
        }
    }
}

impl Drop for Memberships {
    fn drop(&mut self) {
        self.leave_unless(|_| false, None);
    }
}

/// Every distinct pair of an input interface's index and a group that `plan` needs.
#[must_use]
pub fn wanted(plan: &Plan) -> BTreeSet<Membership> {
    let flows = plan.flows.iter();
    flows
        .filter_map(|flow| Some((plan.interfaces.get(flow.interface)?.index, flow.group)))
        .collect()
}

/// How many sockets the memberships of `plan` take.
#[must_use]
pub fn sockets_for(plan: &Plan) -> usize {
    let limit = fs::read_to_string("/proc/sys/net/ipv4/igmp_max_memberships").ok();
    let limit = limit.and_then(|limit| limit.trim().parse().ok());
    let each = limit.map_or(GROUPS_PER_SOCKET, |limit: usize| {
        limit.clamp(1, GROUPS_PER_SOCKET)
    });
    wanted(plan).len().div_ceil(each)
}

/// Whether there is an interface with this index in the network namespace of `socket`, which may be
/// any UDP socket that sends nothing. True if the kernel does not say.
fn exists(socket: &Socket, index: u32) -> bool {
    let index = index.to_be() as libc::c_int;
    let set = socket_options::set(
        socket.as_raw_fd(),
        libc::IPPROTO_IP,
        libc::IP_UNICAST_IF,
        index,
    );
    set != Err(Errno::EADDRNOTAVAIL)
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Without this, a socket that is bound receives the groups of every other socket on the host.
    socket.set_multicast_all_v4(false)?;
    Ok(socket)
}

fn join(socket: &Socket, group: Ipv4Addr, index: u32) -> io::Result<()> {
    socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{in_namespace, run};

    /// The groups of 239.0.0.0/8 that /proc lists for an interface of this thread's namespace.
    fn listed(name: &str) -> BTreeSet<Ipv4Addr> {
        let text = fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
        let mut here = false;
        let mut groups = BTreeSet::new();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap();
            if !line.starts_with('\t') {
                here = words.next() == Some(name);
            } else if here {
                // The address as the kernel holds it, big-endian, read as a native number.
                let bits = u32::from_str_radix(first, 16).unwrap();
                groups.insert(Ipv4Addr::from(bits.to_ne_bytes()));
            }
        }
        groups.retain(|group| group.octets()[0] == 239);
        groups
    }

    fn group(number: u16) -> Ipv4Addr {
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(239, 1, high, low)
    }

    fn groups(numbers: std::ops::RangeInclusive<u16>) -> BTreeSet<Ipv4Addr> {
        numbers.map(group).collect()
    }

    fn on(index: u32, numbers: std::ops::RangeInclusive<u16>) -> BTreeSet<Membership> {
        numbers.map(|number| (index, group(number))).collect()
    }

    fn name(index: u32) -> String {
        format!("if{index}")
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// `va` and `vb`, with the indices 71 and 72.
    fn pair() {
        run("ip link add name va index 71 type veth peer name vb index 72");
        run("ip link set va up");
        run("ip link set vb up");
    }

    #[test]
    fn more_groups_than_a_socket_takes_are_joined_and_left_on_drop() {
        in_namespace(|| {
            pair();
            let mut wanted = on(71, 1..=70);
            wanted.extend(on(72, 1..=1));
            let mut joined = Memberships::default();
            joined.join_missing(&wanted, name).unwrap();
            assert_eq!(joined.len(), 71);
            assert_eq!(joined.sockets.len(), 4);
            assert_eq!(listed("va"), groups(1..=70));
            assert_eq!(listed("vb"), groups(1..=1));
            drop(joined);
            assert_eq!(listed("va"), BTreeSet::new());
            assert_eq!(listed("vb"), BTreeSet::new());
        });
    }

    #[test]
    fn only_what_is_missing_is_joined_and_what_was_left_makes_room() {
        in_namespace(|| {
            pair();
            let mut joined = Memberships::default();
            joined.join_missing(&on(71, 1..=40), name).unwrap();
            assert_eq!(joined.sockets.len(), 2);
            // Half of the groups of each socket.
            let kept: BTreeSet<_> = on(71, 1..=40)
                .into_iter()
                .filter(|(_, group)| group.octets()[3] % 2 == 0)
                .collect();
            assert!(joined.leave_others(&kept, later()));
            assert_eq!(joined.len(), 20);
            assert_eq!(listed("va").len(), 20);
            let mut more = kept.clone();
            more.extend(on(72, 1..=20));
            joined.join_missing(&more, name).unwrap();
            assert_eq!(joined.len(), 40);
            assert_eq!(joined.sockets.len(), 2, "there was room for 20 more");
            assert_eq!(listed("vb"), groups(1..=20));
            joined.join_missing(&more, name).unwrap();
            assert!(joined.leave_others(&on(72, 1..=20), later()));
            assert_eq!(listed("va"), BTreeSet::new());
            assert_eq!(listed("vb"), groups(1..=20));
            assert!(!joined.leave_others(&BTreeSet::new(), Instant::now()));
            assert_eq!(joined.len(), 20, "the deadline has passed");
            assert!(joined.leave_others(&BTreeSet::new(), later()));
            assert!(joined.is_empty() && joined.sockets.is_empty());
            assert!(joined.with_room.is_empty());
            assert_eq!(listed("vb"), BTreeSet::new());
        });
    }

    #[test]
    fn a_lowered_limit_takes_more_sockets() {
        in_namespace(|| {
            pair();
            let mut joined = Memberships::default();
            joined.join_missing(&on(71, 1..=10), name).unwrap();
            fs::write("/proc/sys/net/ipv4/igmp_max_memberships", "7").unwrap();
            joined.join_missing(&on(71, 1..=30), name).unwrap();
            assert_eq!(joined.sockets.len(), 4, "10, 7, 7 and 6");
            assert_eq!(listed("va"), groups(1..=30));
        });
    }

    #[test]
    fn a_refused_membership_names_interface_group_and_remedy_and_leaves_those_of_its_call() {
        in_namespace(|| {
            pair();
            let mut joined = Memberships::default();
            joined.join_missing(&on(71, 1..=1), name).unwrap();
            let mut wanted = on(71, 1..=30);
            wanted.extend(on(4711, 1..=1));
            let error = joined.join_missing(&wanted, name).unwrap_err().to_string();
            assert!(
                error.contains("joining group 239.1.0.1 on interface if4711: "),
                "{error}"
            );
            assert!(error.contains("the interface has gone"), "{error}");
            assert_eq!(listed("va"), groups(1..=1));
            assert_eq!(joined.sockets.len(), 1);

            fs::write("/proc/sys/net/ipv4/igmp_max_memberships", "0").unwrap();
            let error = joined.join_missing(&on(71, 1..=2), name);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("on interface if71: "), "{error}");
            assert!(error.contains("igmp_max_memberships"), "{error}");
            assert_eq!(listed("va"), groups(1..=1));
        });
    }

    #[test]
    fn an_interface_that_is_there_again_is_joined_anew_whatever_its_index() {
        in_namespace(|| {
            pair();
            let mut joined = Memberships::default();
            joined.join_missing(&on(71, 1..=30), name).unwrap();
            run("ip link delete va");
            // Another index: the old one is forgotten by itself.
            run("ip link add name va index 81 type veth peer name vb index 82");
            run("ip link set va up");
            joined.join_missing(&on(81, 1..=30), name).unwrap();
            assert_eq!(joined.len(), 30);
            assert_eq!(joined.sockets.len(), 2);
            assert_eq!(listed("va"), groups(1..=30));
            // The same index: the caller has to say so.
            run("ip link delete va");
            run("ip link add name va index 81 type veth peer name vb index 82");
            run("ip link set va up");
            joined.forget(81);
            assert_eq!(joined.len(), 0);
            joined.join_missing(&on(81, 1..=30), name).unwrap();
            assert_eq!(listed("va"), groups(1..=30));
        });
    }

    #[test]
    fn ten_thousand_groups_are_replaced_and_left_without_a_long_wait() {
        in_namespace(|| {
            pair();
            let mut joined = Memberships::default();
            let (old, new) = (on(71, 1..=10_000), on(71, 10_001..=20_000));
            joined.join_missing(&old, name).unwrap();
            joined.join_missing(&new, name).unwrap();
            let mut turns = 1;
            while !joined.leave_others(&new, Instant::now() + Duration::from_millis(100)) {
                turns += 1;
                assert!(turns < 200);
            }
            assert_eq!(joined.len(), 10_000);
            let begun = Instant::now();
            drop(joined);
            assert!(begun.elapsed() < Duration::from_secs(5));
            assert_eq!(listed("va"), BTreeSet::new());
        });
    }
}
