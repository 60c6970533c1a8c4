//! Wires of the testbed: veth pairs between two namespaces.
//!
//! A pair is returned only when both ends have a carrier: the kernel starts a device's transmit
//! queue a moment after the link comes up, and frames sent before that are lost.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etherparse::{Ethernet2Header, Ipv4Header, UdpHeader};
use nix::sys::socket::sockopt;

use crate::encapsulation::ipv6_of;
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
    /// With IPv6: the address that stands for the other one ([`ipv6_of`]), and a link-local one.
    pub ipv6: bool,
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
    /// The IPv6 address that is not link-local.
    pub ipv6: Option<Ipv6Addr>,
}

/// `mac` as text, with colons.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Makes a wire anew between `near` and `far`, with their names and addresses, as a device that was
/// plugged in again would have them. The indices are new.
pub fn plug(near: &Endpoint, far: &Endpoint) -> Result<(Endpoint, Endpoint)> {
    plug_set_up(near, far, || Ok(()))
}

/// The same; `set_up` runs before the ends go up, and a relay uses none that is down.
pub fn plug_set_up(
    near: &Endpoint,
    far: &Endpoint,
    set_up: impl FnOnce() -> Result<()>,
) -> Result<(Endpoint, Endpoint)> {
    let end = |of: &Endpoint| End {
        namespace: Arc::clone(&of.namespace),
        interface: of.interface.clone(),
        mac: of.mac,
        address: Some(of.address),
        ipv6: of.ipv6.is_some(),
        mtu: 1500,
        queues: 1,
    };
    connect_set_up(end(near), end(far), set_up)
}

/// Joins two hosts by a wire and waits until both ends have a carrier.
pub fn connect(a: End, b: End) -> Result<(Endpoint, Endpoint)> {
    connect_set_up(a, b, || Ok(()))
}

fn connect_set_up(
    a: End,
    b: End,
    set_up: impl FnOnce() -> Result<()>,
) -> Result<(Endpoint, Endpoint)> {
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
    set_up()?;
    for end in [&a, &b] {
        if let Some(address) = end.address {
            end.namespace
                .ip(&format!("address add {address}/24 dev {}", end.interface))?;
            if end.ipv6 {
                with_ipv6(&end.namespace, &end.interface, address)?;
            }
        }
        end.namespace
            .ip(&format!("link set {} up", end.interface))?;
    }
    let done = |end: End| -> Result<Endpoint> {
        let address = end.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let done = finish(end.namespace, end.interface, end.mac, address)?;
        Ok(Endpoint {
            ipv6: end.ipv6.then(|| ipv6_of(address)),
            ..done
        })
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
        ipv6: None,
    })
}

/// Gives an interface IPv6 with two addresses, which are usable at once and, but for the link-local
/// one, stay while the interface is down: what stands for `address`, and a link-local one.
fn with_ipv6(host: &Namespace, name: &str, address: Ipv4Addr) -> Result<()> {
    for (key, value) in [
        ("keep_addr_on_down", "1"),
        // What the host has to say of itself it says at once: the counters of a device do not tell
        // whose frames they count.
        ("router_solicitations", "0"),
        ("mldv1_unsolicited_report_interval", "10"),
        ("mldv2_unsolicited_report_interval", "10"),
    ] {
        host.sysctl(&format!("ipv6/conf/{name}/{key}"), value)?;
    }
    let [_, b, c, d] = address.octets();
    let addresses = [ipv6_of(address).to_string(), format!("fe80::{b}:{c}:{d}")];
    switch_on_ipv6(host, name, &addresses)
}

/// Switches IPv6 on at an interface, with these addresses and no other, which are usable at once.
fn switch_on_ipv6(host: &Namespace, name: &str, addresses: &[impl Display]) -> Result<()> {
    for (key, value) in [
        ("accept_dad", "0"),
        // No address but those.
        ("addr_gen_mode", "1"),
        ("disable_ipv6", "0"),
    ] {
        host.sysctl(&format!("ipv6/conf/{name}/{key}"), value)?;
    }
    for address in addresses {
        host.ip(&format!("-6 address add {address}/64 dev {name} nodad"))?;
    }
    Ok(())
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
    /// The address of the version of IP that `group` has; unspecified on an interface without one.
    pub fn address_for(&self, group: IpAddr) -> IpAddr {
        match group {
            IpAddr::V4(_) => self.address.into(),
            IpAddr::V6(_) => self.ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        }
    }

    /// The same end with IPv6 beside IPv4, see [`End::ipv6`].
    pub fn with_ipv6(self) -> Result<Self> {
        with_ipv6(&self.namespace, &self.interface, self.address)?;
        let ipv6 = Some(ipv6_of(self.address));
        Ok(Self { ipv6, ..self })
    }

    /// Switches IPv6 on, with these addresses and no other, which are usable at once.
    pub fn switch_on_ipv6(&self, addresses: &[&str]) -> Result<()> {
        switch_on_ipv6(&self.namespace, &self.interface, addresses)
    }

    /// Whether a feature of the interface is on, as `ethtool -k` says.
    pub fn has_feature(&self, feature: &str) -> Result<bool> {
        let shown = self.namespace.tool("ethtool", &["-k", &self.interface])?;
        let found = shown.lines().find_map(|line| {
            let (name, state) = line.trim().split_once(": ")?;
            (name == feature).then(|| state.starts_with("on"))
        });
        found.with_context(|| format!("{feature} in {shown}"))
    }

    /// Switches a feature of the interface on or off.
    pub fn set_feature(&self, feature: &str, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        let arguments = ["-K", &self.interface, feature, state];
        self.namespace.tool("ethtool", &arguments).map(drop)
    }

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
    pub fn has_joined(&self, group: impl Into<IpAddr>) -> Result<bool> {
        let shown = self
            .namespace
            .ip(&format!("maddress show dev {}", self.interface))?;
        let group = group.into().to_string();
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
