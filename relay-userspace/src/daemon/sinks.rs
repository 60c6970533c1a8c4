//! UDP sockets that take and drop what the relay relays, so that the kernel does not answer it.
//!
//! On io_uring the kernel's own stack gets every frame as well, and answers a datagram to a port
//! that no program listens on with ICMP ([`Plan::sinks`](crate::plan::Plan::sinks)). A socket that
//! is bound prevents that; its filter accepts nothing, so it never holds a datagram.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use log::{Level, debug};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::{events::Event, host::limits, plan::Sink};

/// Room for nothing: the kernel makes the least of it that it allows.
const NO_ROOM: usize = 0;
/// `BPF_RET | BPF_K` (linux/bpf_common.h) with 0: no byte of the datagram.
const ACCEPT_NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// The ports that are held. Dropping it releases them.
#[derive(Debug, Default)]
pub struct Sinks {
    held: BTreeMap<Sink, Socket>,
    /// Those that could not be held, of which the log has said what matters.
    refused: BTreeSet<Sink>,
}

impl Sinks {
    /// Holds those of `wanted` that are not held yet, as far as possible. A port that a program
    /// listens on needs none; without the others relaying goes on, and the host may answer.
    pub fn hold(&mut self, wanted: &BTreeSet<Sink>) {
        for &sink in wanted {
            if self.held.contains_key(&sink) {
                continue;
            }
            match open(sink) {
                Ok(socket) => {
                    self.refused.remove(&sink);
                    self.held.insert(sink, socket);
                }
                Err(error) => self.say(sink, &error),
            }
        }
    }

    /// Tries again to hold those that could not be held: a program that listened may have ended.
    pub fn try_again(&mut self) {
        if !self.refused.is_empty() {
            let refused = self.refused.clone();
            self.hold(&refused);
        }
    }

    /// Releases all that are not in `wanted`.
    pub fn release_others(&mut self, wanted: &BTreeSet<Sink>) {
        self.held.retain(|sink, _| wanted.contains(sink));
        self.refused.retain(|sink| wanted.contains(sink));
    }

    /// Address and port of each that is held.
    pub fn held(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.held.keys().map(|sink| (sink.address, sink.port))
    }

    fn say(&mut self, sink: Sink, error: &io::Error) {
        let is_new = self.refused.insert(sink);
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => debug!("a program listens on {}", at(sink)),
            // The address has gone since, and the rule will wait for it.
            Some(libc::EADDRNOTAVAIL) => {}
            _ if is_new => {
                let text = format!(
                    "cannot hold the UDP port {}, so this host may answer its datagrams with ICMP \
                     (port unreachable): {error}{}",
                    at(sink),
                    remedy(error)
                );
                Event::new(module_path!(), Level::Warn, "UDP ports", &text)
                    .by_text()
                    .say();
            }
            _ => {}
        }
    }
}

/// Where it is bound.
fn at(sink: Sink) -> SocketAddr {
    match sink.address {
        IpAddr::V4(address) => SocketAddr::from((address, sink.port)),
        IpAddr::V6(address) => SocketAddrV6::new(address, sink.port, 0, sink.scope).into(),
    }
}

fn open(sink: Sink) -> io::Result<Socket> {
    let domain = Domain::for_address(at(sink));
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Before it is bound, so that no datagram comes in.
    socket.attach_filter(&[ACCEPT_NOTHING])?;
    socket.set_recv_buffer_size(NO_ROOM)?;
    socket.bind(&SockAddr::from(at(sink)))?;
    Ok(socket)
}

fn remedy(error: &io::Error) -> &'static str {
    if let Some(remedy) = limits::of_files(error) {
        return remedy;
    }
    match error.raw_os_error() {
        Some(libc::EACCES) => "; give it CAP_NET_BIND_SERVICE for ports below 1024",
        _ => "",
    }
}
