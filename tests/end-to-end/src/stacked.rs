//! Devices on top of a wire's end: macvlan, bridge and VLAN. They have no native XDP.
//!
//! A device takes over the address of the end that it is made on, so that it can take the place of
//! that end in a [`crate::topology::Testbed`]. It is removed with its namespace.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;

use crate::veth::{Endpoint, finish, format_mac, wait_for_carrier};

/// A macvlan device `name` on `wire`.
pub fn macvlan(wire: &Endpoint, name: &str) -> Result<Endpoint> {
    let link = &wire.interface;
    create(
        wire,
        name,
        &format!("link {link} name {name}"),
        "macvlan mode bridge",
    )
}

/// A bridge `name` whose only port is `wire`.
pub fn bridge(wire: &Endpoint, name: &str) -> Result<Endpoint> {
    create(wire, name, &format!("name {name}"), "bridge")
}

/// The device of a VLAN on `below`, which may be such a device itself: what it sends leaves `below`
/// with a tag of this protocol, `802.1Q` or `802.1ad`. It has the MAC of `below`, and its sockets
/// use the address of `below`.
pub fn vlan(below: &Endpoint, protocol: &str, id: u16) -> Result<Endpoint> {
    let Endpoint {
        namespace,
        interface,
        mac,
        address,
        ..
    } = below;
    let name = format!("{interface}.{id}");
    namespace.ip(&format!(
        "link add link {interface} name {name} type vlan protocol {protocol} id {id}"
    ))?;
    namespace.ip(&format!("link set {name} up"))?;
    finish(Arc::clone(namespace), name, *mac, *address)
}

/// A wire `name` into a bridge in the namespace of `wire`, whose only other port `wire` is. The
/// kernel takes a VLAN tag out of a frame that the bridge receives, so it leaves `wire` with the
/// tag beside its bytes, unless `tx-vlan-offload` is off there. Not configured with the addresses
/// that it has.
pub fn behind_bridge(wire: &Endpoint, name: &str) -> Result<Endpoint> {
    let (namespace, interface) = (&wire.namespace, &wire.interface);
    let mut mac = wire.mac;
    mac[3] |= 0x80; // another MAC than that of any wire
    let (mac_text, port, bridge) = (format_mac(mac), format!("{name}p"), format!("{name}b"));
    namespace.ip(&format!(
        "link add {name} address {mac_text} type veth peer {port}"
    ))?;
    namespace.ip(&format!("link add name {bridge} type bridge"))?;
    for port in [interface, &port] {
        namespace.ip(&format!("link set {port} master {bridge}"))?;
    }
    for device in [&bridge, &port] {
        namespace.ip(&format!("link set {device} up"))?;
    }
    namespace.ip(&format!("link set {name} up"))?;
    wait_for_carrier(namespace, &bridge)?;
    let made = finish(Arc::clone(namespace), name.to_owned(), mac, wire.address)?;
    Ok(Endpoint {
        ipv6: wire.ipv6,
        ..made
    })
}

fn create(wire: &Endpoint, name: &str, what: &str, kind: &str) -> Result<Endpoint> {
    let Endpoint {
        namespace,
        interface,
        address,
        ..
    } = wire;
    let mut mac = wire.mac;
    mac[3] |= 0x80; // another MAC than that of any wire
    let has_address = *address != Ipv4Addr::UNSPECIFIED;
    namespace.ip(&format!(
        "link add {what} address {} type {kind}",
        format_mac(mac)
    ))?;
    if kind == "bridge" {
        namespace.ip(&format!("link set {interface} master {name}"))?;
    }
    if has_address {
        namespace.ip(&format!("address del {address}/24 dev {interface}"))?;
        namespace.ip(&format!("address add {address}/24 dev {name}"))?;
    }
    namespace.ip(&format!("link set {name} up"))?;
    finish(Arc::clone(namespace), name.to_owned(), mac, *address)
}
