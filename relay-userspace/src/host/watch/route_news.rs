//! Notifications about routes and neighbours, on a socket of their own: a router with a full table
//! has many of them, and they must not push out those about interfaces.
//!
//! The socket receives nothing until somebody asks for it, so a relay without unicast outputs pays
//! nothing.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::sys::socket::{SockProtocol, setsockopt, sockopt::RcvBuf};

use crate::host::{
    neighbours::{self, Neighbour, OnLink},
    netlink_socket::Socket,
    socket_options,
};

/// RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE and
/// RTNLGRP_NEXTHOP (include/uapi/linux/rtnetlink.h).
const GROUPS: [libc::c_int; 6] = [3, 7, 8, 11, 19, 32];
/// Bytes of notifications that may wait. The kernel drops those beyond.
const WAITING: usize = 1 << 20;

/// Receives the notifications.
#[derive(Debug)]
pub struct RouteNews(Socket);

/// Begins and ends that they are received, from any thread.
#[derive(Debug)]
pub struct RouteGroups {
    fd: OwnedFd,
    are_joined: AtomicBool,
}

/// The content of the notifications read at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeardOfRoutes {
    /// Routes, policy rules or next hop objects have changed.
    pub routes: bool,
    /// What the kernel says of neighbours, in order; `None` of those that it has forgotten.
    pub neighbours: Vec<(OnLink, Option<Neighbour>)>,
    /// The kernel dropped notifications: everything may have changed.
    pub lost: bool,
}

impl RouteNews {
    /// Opens the socket, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open() -> io::Result<(Self, RouteGroups)> {
        let socket = Socket::open(SockProtocol::NetlinkRoute, 0)?;
        // With a smaller buffer the kernel is likelier to drop notifications, which `lost` reports.
        let _ = setsockopt(&socket.fd(), RcvBuf, &WAITING);
        let fd = socket.fd().try_clone_to_owned()?;
        let are_joined = AtomicBool::new(false);
        Ok((Self(socket), RouteGroups { fd, are_joined }))
    }

    /// The descriptor, which is readable when notifications wait.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    /// Reads all waiting notifications.
    pub fn read(&mut self) -> HeardOfRoutes {
        let mut heard = HeardOfRoutes::default();
        let read = self.0.hear(|kind, payload| match kind {
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                let is_known = kind == libc::RTM_NEWNEIGH;
                let news = neighbours::neighbour(payload);
                let news = news.map(|(host, now)| (host, is_known.then_some(now)));
                heard.neighbours.extend(news);
            }
            _ => heard.routes = true,
        });
        heard.lost = read.is_err();
        heard
    }
}

impl RouteGroups {
    /// Begins or ends that notifications are received.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn receive(&self, wanted: bool) -> io::Result<()> {
        if wanted == self.are_joined.load(Ordering::Relaxed) {
            return Ok(());
        }
        let option = match wanted {
            true => libc::NETLINK_ADD_MEMBERSHIP,
            false => libc::NETLINK_DROP_MEMBERSHIP,
        };
        for group in GROUPS {
            socket_options::set(self.fd.as_raw_fd(), libc::SOL_NETLINK, option, group)?;
        }
        self.are_joined.store(wanted, Ordering::Relaxed);
        Ok(())
    }
}
