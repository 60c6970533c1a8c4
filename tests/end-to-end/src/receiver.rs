//! Receivers as applications have them: UDP sockets that have joined a group.
//!
//! One thread serves all sockets of a receiver; each socket keeps its own [`Tally`].

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use crate::background::Background;
use crate::payload;
use crate::sys::{self, Batch, RECEIVE_BUFFER};
use crate::tally::{Stream, Tally};
use crate::veth::Endpoint;

/// `IPV6_MULTICAST_ALL` (linux/in6.h).
const IPV6_MULTICAST_ALL: libc::c_int = 29;

/// After the last expected datagram a receiver listens for this long, to catch more than expected.
pub const QUIET: Duration = Duration::from_millis(150);

/// One group or address and port to listen to, and the flow whose payloads should arrive there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The group to join, or an address of the host.
    pub group: IpAddr,
    /// The port to bind.
    pub port: u16,
    /// The flow that is expected.
    pub flow: u32,
}

impl Listen {
    /// Expects `flow` at `group`:`port`.
    pub fn new(group: impl Into<IpAddr>, port: u16, flow: u32) -> Self {
        let group = group.into();
        Self { group, port, flow }
    }
}

/// Counting UDP receivers on one interface.
#[derive(Debug)]
pub struct UdpReceiver {
    background: Background<Vec<Tally>>,
}

impl UdpReceiver {
    /// Joins every group on `endpoint` and starts to count, one tally per entry, in their order.
    /// Entries with the same group and port share a socket: each counts its own flow, and the first
    /// of them also the datagrams of no entry's flow.
    pub fn start(endpoint: &Endpoint, listen: &[Listen]) -> Result<Self> {
        // One entry per socket: the positions in `listen` that it serves.
        let mut served: Vec<Vec<usize>> = Vec::new();
        for (i, entry) in listen.iter().enumerate() {
            let same = |others: &&mut Vec<usize>| {
                let first = others.first().and_then(|&first| listen.get(first));
                first.is_some_and(|l| (l.group, l.port) == (entry.group, entry.port))
            };
            match served.iter_mut().find(same) {
                Some(others) => others.push(i),
                None => served.push(vec![i]),
            }
        }
        let sockets = endpoint.namespace.run(|| {
            let first = served
                .iter()
                .filter_map(|positions| listen.get(*positions.first()?));
            first
                .map(|entry| open(endpoint, entry))
                .collect::<Result<Vec<_>>>()
        })?;
        let tallies: Vec<Tally> = listen
            .iter()
            .map(|l| {
                Tally::new(
                    format!("{} {}:{}", endpoint.interface, l.group, l.port),
                    l.flow,
                )
            })
            .collect();
        let mut batch = Batch::new(64, 10_000);
        let drain =
            move |socket_number: usize, socket: BorrowedFd<'_>, tallies: &Mutex<Vec<Tally>>| {
                let count = batch.receive(socket)?;
                let drops = sys::socket_drops(socket)?;
                let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
                let positions = served.get(socket_number).map_or(&[][..], Vec::as_slice);
                for message in batch.messages() {
                    let flow = payload::header(message.bytes).map(|(flow, _)| flow);
                    let mine = |&&i: &&usize| tallies.get(i).is_some_and(|t| Some(t.flow) == flow);
                    let position = positions.iter().find(mine).or(positions.first());
                    if let Some(tally) = position.and_then(|&i| tallies.get_mut(i)) {
                        tally.socket_drops = u64::from(drops);
                        tally.record(message.bytes, message.source);
                    }
                }
                Ok(count)
            };
        let background = Background::start(&endpoint.interface, sockets, tallies, drain)?;
        Ok(Self { background })
    }

    /// Waits until every socket has received at least `count` datagrams; false after `timeout`.
    pub fn wait_for(&self, count: u64, timeout: Duration) -> bool {
        self.wait_until(timeout, |tallies| {
            tallies.iter().all(|t| t.received >= count)
        })
    }

    /// Waits until the tallies satisfy `condition`; false after `timeout`.
    pub fn wait_until(&self, timeout: Duration, condition: impl Fn(&[Tally]) -> bool) -> bool {
        self.background
            .wait_until(timeout, |tallies| condition(tallies))
    }

    /// Waits until nothing has arrived for [`QUIET`].
    pub fn settle(&self) {
        self.background
            .settle(QUIET, |tallies| tallies.iter().map(|t| t.received).sum());
    }

    /// Looks at the counts so far without copying them.
    pub fn look(&self, look: impl FnOnce(&[Tally])) {
        self.background.with(|tallies| look(tallies));
    }

    /// The counts so far, one tally per entry of `listen`.
    pub fn tallies(&self) -> Vec<Tally> {
        self.background.with(Vec::clone)
    }

    /// Waits for `expected`, then for quiet, and fails unless every socket has received exactly
    /// that many of its own flow, which takes the place of the stream's.
    #[track_caller]
    pub fn assert_all_exact(&self, expected: &Stream, timeout: Duration) {
        self.wait_for(expected.count, timeout);
        self.settle();
        for tally in self.tallies() {
            tally.assert_exact(&Stream {
                flow: tally.flow,
                ..*expected
            });
        }
    }
}

/// A socket that receives one group and port on one interface only.
fn open(endpoint: &Endpoint, listen: &Listen) -> Result<OwnedFd> {
    let what = || {
        format!(
            "listening to {}:{} on {}",
            listen.group, listen.port, endpoint.interface
        )
    };
    let opened = || -> Result<OwnedFd> {
        let family = match listen.group {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        let address = SockaddrStorage::from(SocketAddr::new(listen.group, listen.port));
        bind(socket.as_raw_fd(), &address)?;
        if listen.group.is_multicast() {
            join(socket.as_fd(), endpoint, listen.group).context("joining the group")?;
        }
        Ok(socket)
    };
    opened().with_context(what)
}

/// Joins a group on one interface, and takes none that others have joined.
fn join(socket: BorrowedFd<'_>, endpoint: &Endpoint, group: IpAddr) -> Result<()> {
    let index = i32::try_from(endpoint.index).map_err(|_| anyhow!("interface index"))?;
    let none: libc::c_int = 0;
    match group {
        IpAddr::V4(group) => {
            sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, &none)?;
            let request = libc::ip_mreqn {
                imr_multiaddr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(group.octets()),
                },
                imr_address: libc::in_addr { s_addr: 0 },
                imr_ifindex: index,
            };
            sys::set_option(socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request)?;
        }
        IpAddr::V6(group) => {
            sys::set_option(socket, libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, &none)?;
            let request = libc::ipv6_mreq {
                ipv6mr_multiaddr: libc::in6_addr {
                    s6_addr: group.octets(),
                },
                ipv6mr_interface: endpoint.index,
            };
            sys::set_option(
                socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_ADD_MEMBERSHIP,
                &request,
            )?;
        }
    }
    Ok(())
}
