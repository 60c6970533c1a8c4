//! Devices on top of a wire's end: macvlan, bridge and VLAN. They have no native XDP.
//!
//! A device takes over the address of the end that it is made on, so that it can take the place of
//! that end in a [`crate::topology::Testbed`]. It is removed with its namespace.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;

use crate::veth::{Endpoint, finish, format_mac};

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

/// A VLAN device `name` on `wire` with an address of its own: frames that leave by it carry the tag
/// `id` of `protocol`, 802.1Q or 802.1ad. It leaves the tag beside the bytes of a frame while the
/// device below takes it so.
pub fn vlan(
    wire: &Endpoint,
    name: &str,
    protocol: &str,
    id: u16,
    address: Ipv4Addr,
) -> Result<Endpoint> {
    let (namespace, link) = (&wire.namespace, &wire.interface);
    namespace.ip(&format!(
        "link add link {link} name {name} type vlan protocol {protocol} id {id}"
    ))?;
    namespace.ip(&format!("address add {address}/24 dev {name}"))?;
    namespace.ip(&format!("link set {name} up"))?;
    finish(Arc::clone(namespace), name.to_owned(), wire.mac, address)
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
