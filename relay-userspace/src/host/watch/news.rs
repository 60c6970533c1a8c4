//! Notifications of changes of interfaces.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::sys::socket::{SockProtocol, setsockopt, sockopt::RcvBuf};

use super::{
    Now, address_of,
    ethtool_messages::{ETHTOOL, channels, family, features},
    link,
};
use crate::host::{
    netlink_socket::{Socket, u32_at},
    socket_options,
};

/// RTNLGRP_LINK, RTNLGRP_TC, RTNLGRP_IPV4_IFADDR and RTNLGRP_IPV6_IFADDR
/// (include/uapi/linux/rtnetlink.h), as a mask.
const GROUPS: u32 = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 8;
/// Bytes of notifications that may wait. The kernel drops those beyond, and then the relay requests
/// everything anew.
const WAITING: usize = 256 << 10;
/// The family of a `struct ifinfomsg` that is about the interface itself.
const FAMILY_ANY: u8 = libc::AF_UNSPEC as u8;

/// Receives notifications of changes.
#[derive(Debug)]
pub struct News {
    route: Socket,
    /// For features: the route socket only reports that they changed, and a request for them takes
    /// a lock that a process that changes them may hold for long. And for the numbers of queues,
    /// which nothing else reports.
    ethtool: Option<Socket>,
}

/// The content of the notifications read at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// The indices of interfaces that changed or have gone.
    pub touched: BTreeSet<u32>,
    /// The indices of interfaces that have gone: deleted, or moved to another network namespace.
    /// One that came back since, with the same index, is in [`Self::links`] as well.
    pub gone: BTreeSet<u32>,
    /// The states of links that were reported, in order. They may have changed again.
    pub links: Vec<(u32, Now)>,
    /// The addresses that an interface got (true) or lost, in order.
    pub addresses: Vec<(IpAddr, bool)>,
    /// By index, the reports whether an interface takes UDP GSO packets whole, in order.
    pub takes_gso: Vec<(u32, bool)>,
    /// By index, the numbers of queues that were reported, in order.
    pub queues: Vec<(u32, Queues)>,
    /// The kernel dropped notifications: everything may have changed.
    pub lost: bool,
}

/// How many queues of an interface are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queues {
    /// RX queues.
    pub rx: u32,
    /// TX queues.
    pub tx: u32,
}

impl News {
    /// Subscribes to changes of the links, addresses, queueing disciplines, features and queues in
    /// the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn subscribe() -> io::Result<Self> {
        let route = Socket::open(SockProtocol::NetlinkRoute, GROUPS)?;
        // With a smaller buffer the kernel is likelier to drop notifications, which `lost` reports.
        let _ = setsockopt(&route.fd(), RcvBuf, &WAITING);
        let mut generic = Socket::open(SockProtocol::NetlinkGeneric, 0)?;
        let monitor = family(&mut generic, ETHTOOL)?.and_then(|family| family.monitor);
        let fd = generic.fd().as_raw_fd();
        let joined = monitor.is_some_and(|group| {
            let group = group.cast_signed();
            socket_options::set(fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group).is_ok()
        });
        Ok(Self {
            route,
            ethtool: joined.then_some(generic),
        })
    }

    /// The descriptors, which are readable when notifications wait.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ethtool = self.ethtool.iter().map(Socket::fd);
        std::iter::once(self.route.fd()).chain(ethtool)
    }

    /// Reads all waiting notifications.
    pub fn read(&mut self) -> Heard {
        let mut heard = Heard::default();
        if let Some(ethtool) = &mut self.ethtool {
            let read = ethtool.hear(|_, payload| {
                if let Some((index, takes)) = features(payload) {
                    heard.touched.insert(index);
                    heard.takes_gso.push((index, takes));
                } else if let Some((index, queues)) = channels(payload) {
                    heard.touched.insert(index);
                    heard.queues.push((index, queues));
                }
            });
            heard.lost = read.is_err();
        }
        let read = self.route.hear(|kind, payload| {
            // ifinfomsg, ifaddrmsg and tcmsg have the index at the same place.
            let Some(index) = u32_at(payload, 4) else {
                return;
            };
            heard.touched.insert(index);
            match kind {
                libc::RTM_NEWADDR | libc::RTM_DELADDR => {
                    let address = address_of(payload);
                    let is_there = kind == libc::RTM_NEWADDR;
                    heard.addresses.extend(address.map(|one| (one, is_there)));
                }
                libc::RTM_NEWLINK => heard.links.extend(link(payload).map(|now| (index, now))),
                // A bridge reports so that an interface is none of its ports any more, with its own
                // family.
                libc::RTM_DELLINK if payload.first() == Some(&FAMILY_ANY) => {
                    heard.gone.insert(index);
                }
                _ => {}
            }
        });
        heard.lost |= read.is_err();
        heard
    }
}
