//! Wires of the testbed: veth pairs between two namespaces.
//!
//! A pair is returned only when both ends have a carrier: the kernel starts a device's transmit
//! queue a moment after the link comes up, and frames sent before that are lost.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etherparse::{Ethernet2Header, Ipv4Header, UdpHeader};
use nix::sys::socket::sockopt;

use crate::netns::Namespace;
use crate::sys::{self, RECEIVE_BUFFER, Receives};

/// Bytes of a frame in front of its UDP payload.
const HEADERS: u64 = (Ethernet2Header::LEN + Ipv4Header::MIN_LEN + UdpHeader::LEN) as u64;

/// What one end of a pair will be.
#[derive(Debug, Clone)]
pub struct End {
    /// The host that the end is in.
    pub namespace: Arc<Namespace>,
    /// The interface's name.
    pub interface: String,
    /// The hardware address.
    pub mac: [u8; 6],
    /// The address, in a /24; `None` leaves the interface without one.
    pub address: Option<Ipv4Addr>,
    /// The largest IP packet.
    pub mtu: u32,
    /// RX and TX queues.
    pub queues: u32,
}

/// One end of a pair that exists.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The host that the end is in.
    pub namespace: Arc<Namespace>,
    /// The interface's name.
    pub interface: String,
    /// The interface's index.
    pub index: u32,
    /// The hardware address.
    pub mac: [u8; 6],
    /// The address; unspecified on an interface without one.
    pub address: Ipv4Addr,
}

/// `mac` as text, with colons.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Makes a wire anew between `near` and `far`, with their names and addresses, as a device that was
/// plugged in again would have them. The indices are new.
pub fn plug(near: &Endpoint, far: &Endpoint) -> Result<(Endpoint, Endpoint)> {
    let end = |of: &Endpoint| End {
        namespace: Arc::clone(&of.namespace),
        interface: of.interface.clone(),
        mac: of.mac,
        address: Some(of.address),
        mtu: 1500,
        queues: 1,
    };
    connect(end(near), end(far))
}

/// Joins two hosts by a wire and waits until both ends have a carrier.
pub fn connect(a: End, b: End) -> Result<(Endpoint, Endpoint)> {
    let side = |end: &End| {
        format!(
            "name {} address {} mtu {} numrxqueues {queues} numtxqueues {queues}",
            end.interface,
            format_mac(end.mac),
            end.mtu,
            queues = end.queues
        )
    };
    let (netns, peer) = (b.namespace.name(), side(&b));
    a.namespace.ip(&format!(
        "link add {} type veth peer {peer} netns {netns}",
        side(&a)
    ))?;
    for end in [&a, &b] {
        if let Some(address) = end.address {
            end.namespace
                .ip(&format!("address add {address}/24 dev {}", end.interface))?;
        }
        end.namespace
            .ip(&format!("link set {} up", end.interface))?;
    }
    let done = |end: End| {
        let address = end.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        finish(end.namespace, end.interface, end.mac, address)
    };
    Ok((done(a)?, done(b)?))
}

/// Waits for the carrier of an interface that was just made, and finds out its index.
pub(crate) fn finish(
    namespace: Arc<Namespace>,
    interface: String,
    mac: [u8; 6],
    address: Ipv4Addr,
) -> Result<Endpoint> {
    wait_for_carrier(&namespace, &interface)?;
    let name = interface.as_str();
    let index = namespace.run(|| {
        nix::net::if_::if_nametoindex(name).with_context(|| format!("looking up interface {name}"))
    })?;
    Ok(Endpoint {
        namespace,
        interface,
        index,
        mac,
        address,
    })
}

/// Waits until the interface is up with carrier. Asking for one link by name makes the kernel bring
/// its transmit queue up to date before it answers (`linkwatch_sync_dev`).
pub fn wait_for_carrier(namespace: &Namespace, interface: &str) -> Result<()> {
    wait_for(namespace, interface, true)
}

/// Waits until the kernel has noticed that the interface has no carrier.
pub fn wait_for_no_carrier(namespace: &Namespace, interface: &str) -> Result<()> {
    wait_for(namespace, interface, false)
}

fn wait_for(namespace: &Namespace, interface: &str, carrier: bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let shown = namespace.ip(&format!("-oneline link show dev {interface}"))?;
        if shown.contains(" state UP ") == carrier {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "{interface} in {} is not {} carrier after 5 s: {shown}",
                namespace.name(),
                if carrier { "with" } else { "without" }
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Endpoint {
    /// With `false`, datagrams of local sockets leave with complete checksums instead of partial
    /// ones.
    pub fn set_checksum_offload(&self, on: bool) -> Result<()> {
        let name = self.interface.as_str();
        self.namespace.run(|| {
            sys::set_checksum_offload(name, on)
                .with_context(|| format!("setting checksum offload of {name} to {on}"))
        })
    }

    /// Makes a NIC receive the frames of every group; without that it receives those of the groups
    /// that a socket has joined.
    pub fn receive_all_groups(&self) -> Result<()> {
        let arguments = format!("link set {} allmulticast on", self.interface);
        self.namespace.ip(&arguments).map(drop)
    }

    /// Makes a NIC receive the frames of every destination and of every VLAN.
    pub fn receive_all(&self) -> Result<()> {
        let arguments = format!("link set {} promisc on", self.interface);
        self.namespace.ip(&arguments).map(drop)
    }

    /// Whether an XDP program is attached here.
    pub fn has_xdp_program(&self) -> Result<bool> {
        let name = &self.interface;
        let shown = self
            .namespace
            .ip(&format!("-details link show dev {name}"))?;
        Ok(shown.contains("xdp"))
    }

    /// Whether a program of this host has joined `group` here.
    pub fn has_joined(&self, group: Ipv4Addr) -> Result<bool> {
        let shown = self
            .namespace
            .ip(&format!("maddress show dev {}", self.interface))?;
        let group = group.to_string();
        Ok(shown.split_whitespace().any(|word| word == group))
    }

    /// Frames that have arrived here since the interface exists; a GSO packet is one.
    pub fn frames_received(&self) -> Result<u64> {
        Ok(self.received()?.1)
    }

    /// Datagrams of `size` bytes that have arrived here since the interface exists, alone or in GSO
    /// packets, each of which has one header. Nothing else may have arrived.
    pub fn datagrams_received(&self, size: usize) -> Result<u64> {
        let (bytes, frames) = self.received()?;
        Ok(bytes.saturating_sub(frames * HEADERS) / size as u64)
    }

    /// Bytes and frames.
    fn received(&self) -> Result<(u64, u64)> {
        let name = &self.interface;
        let shown = self.namespace.ip(&format!("-stats link show dev {name}"))?;
        let mut lines = shown
            .lines()
            .skip_while(|line| !line.trim().starts_with("RX:"));
        let numbers = lines.nth(1).unwrap_or_default();
        let mut numbers = numbers.split_whitespace().map_while(|n| n.parse().ok());
        let both = numbers.next().zip(numbers.next());
        both.with_context(|| format!("no counts of what was received in: {shown}"))
    }

    /// Opens a raw packet socket here.
    pub fn packet_socket(&self, receives: Receives) -> Result<std::os::fd::OwnedFd> {
        self.namespace.run(|| {
            let socket = sys::packet_socket(self.index, receives)
                .with_context(|| format!("opening a packet socket on {}", self.interface))?;
            nix::sys::socket::setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
                .context("enlarging a receive buffer")?;
            Ok(socket)
        })
    }
}
