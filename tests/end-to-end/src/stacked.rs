//! Devices on top of a wire's end: macvlan and bridge. They have no native XDP.
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
