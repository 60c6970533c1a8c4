//! Changes of an interface that are taken back at once, so that the model need not know of them.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use relay_tests::frames::{arp_request, neighbour_solicitation};
use relay_tests::raw::RawSender;
use relay_tests::veth::{Endpoint, format_mac};

use crate::model::{Link, Model};
use crate::system::Wire;

/// How long a change lasts: longer than the relay waits until it acts on one.
const FOR: Duration = Duration::from_millis(300);

/// The relay's interface has another MTU for a while, if it is there.
pub fn other_mtu(wire: &Wire, model: &Model, mtu: u32) -> Result<()> {
    let (host, name) = (&wire.near.namespace, wire.near.interface.as_str());
    if model.link(name) == Link::Absent {
        return Ok(());
    }
    host.ip(&format!("link set {name} mtu {mtu}"))?;
    thread::sleep(FOR);
    host.ip(&format!("link set {name} mtu 1500")).map(drop)
}

/// The relay's interface has no addresses for a while, if it is up and no route leads through it,
/// which would go with the address.
pub fn without_address(wire: &Wire, model: &Model) -> Result<()> {
    let (host, name) = (&wire.near.namespace, wire.near.interface.as_str());
    if model.link(name) != Link::Up || model.led == Some(name) {
        return Ok(());
    }
    let address = wire.near.address;
    let ipv6 = wire.near.ipv6.context("an IPv6 address")?;
    host.ip(&format!("address del {address}/24 dev {name}"))?;
    host.ip(&format!("-6 address del {ipv6}/64 dev {name}"))?;
    thread::sleep(FOR);
    host.ip(&format!("address add {address}/24 dev {name}"))?;
    host.ip(&format!("-6 address add {ipv6}/64 dev {name} nodad"))?;
    Ok(())
}

/// The host at the far end has another Ethernet address for a while, if the link is up.
pub fn other_next_hop(wire: &Wire, model: &Model) -> Result<()> {
    let Wire { near, far } = wire;
    if model.link(&near.interface) != Link::Up {
        return Ok(());
    }
    let (host, name) = (&far.namespace, &far.interface);
    announce_changes(far)?;
    let set = |mac: [u8; 6]| host.ip(&format!("link set {name} address {}", format_mac(mac)));
    let mut other = far.mac;
    if let Some(last) = other.last_mut() {
        *last ^= 0x80;
    }
    set(other)?;
    thread::sleep(FOR);
    set(far.mac)?;
    // The kernel does not believe two addresses within a second.
    let sender = RawSender::open(far)?;
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(400));
        sender.send(&arp_request(far, near))?;
        sender.send(&neighbour_solicitation(far, near)?)?;
    }
    Ok(())
}

/// A host says so when its Ethernet address changes.
pub fn announce_changes(host: &Endpoint) -> Result<()> {
    let name = &host.interface;
    let set = |key: &str| host.namespace.sysctl(&format!("{key}_notify"), "1");
    set(&format!("ipv4/conf/{name}/arp"))?;
    set(&format!("ipv6/conf/{name}/ndisc"))
}
