//! Datagrams to one host: a rule that takes those to the relay's host, and a host behind a router.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Result;

use crate::encapsulation::ipv6_of;
use crate::frames::UdpFrame;
use crate::netns::Namespace;
use crate::raw::RawReceiver;
use crate::rules::Rule;
use crate::topology::Testbed;
use crate::veth::{End, Endpoint, connect};

/// The address of the relay's `in0`, and a port that [`to_the_host`] takes there.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// See [`HOST`].
pub const PORT: u16 = 5001;

/// A rule from the address of `in0` to two groups on `out0`.
pub fn to_the_host(name: &str) -> Rule {
    Rule::new(name, "in0", HOST, PORT)
        .takes(&format!("address = \"{HOST}\", port = {PORT}"))
        .output("out0", [239, 5, 5, 1], 6001)
        .output("out0", [239, 5, 5, 2], 6002)
}

/// A datagram from `src0` to `in0` that `rule` takes.
pub fn datagram_to_the_host(bed: &Testbed, rule: &Rule, payload: Vec<u8>) -> UdpFrame {
    let mut frame = UdpFrame::new(&bed.sources[0], rule.group, rule.port, payload);
    frame.to_mac = Some(bed.inputs[0].mac);
    frame.tags.clone_from(&rule.tags);
    frame
}

/// Whether a frame says by ICMP or ICMPv6 that a destination is unreachable.
fn is_icmp_error(frame: &[u8]) -> bool {
    const IP: usize = 14;
    match (frame.get(12..14), frame.get(IP..)) {
        // Destination unreachable is type 3, and over IPv6 type 1.
        (Some([0x08, 0x00]), Some(ip)) => ip.get(9) == Some(&1) && ip.get(20) == Some(&3),
        (Some([0x86, 0xdd]), Some(ip)) => ip.get(6) == Some(&58) && ip.get(40) == Some(&1),
        _ => false,
    }
}

/// Waits for quiet. Returns how many error messages have arrived.
pub fn icmp_errors(at: &RawReceiver) -> usize {
    at.settle();
    let frames = at.frames();
    frames
        .iter()
        .filter(|frame| is_icmp_error(&frame.bytes))
        .count()
}

/// Makes the host of `router` a router, and joins `host` to it by a wire in the network
/// `10.SUBNET.0.0/24`. Returns the router's end and the host's.
pub fn behind(
    router: &Endpoint,
    host: &Arc<Namespace>,
    subnet: u8,
) -> Result<(Endpoint, Endpoint)> {
    let end = |namespace: &Arc<Namespace>, name: &str, last: u8| End {
        namespace: Arc::clone(namespace),
        interface: format!("{name}{subnet}"),
        mac: [0x02, 0, 10, subnet, 0, last],
        address: Some(Ipv4Addr::new(10, subnet, 0, last)),
        ipv6: true,
        mtu: 1500,
        queues: 1,
    };
    let router = &router.namespace;
    let ends = connect(end(router, "fwd", 1), end(host, "hst", 2))?;
    router.sysctl("ipv4/ip_forward", "1")?;
    router.sysctl("ipv6/conf/all/forwarding", "1")?;
    Ok(ends)
}

/// Adds or replaces the routes to `host`, over either version of IP.
pub fn route(from: &Namespace, verb: &str, host: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
    from.ip(&format!("route {verb} {host}/32 via {gateway}"))?;
    let (host, gateway) = (ipv6_of(host), ipv6_of(gateway));
    from.ip(&format!("-6 route {verb} {host}/128 via {gateway}"))?;
    Ok(())
}

/// The addresses of a host of either version of IP.
pub fn both(host: Ipv4Addr) -> [IpAddr; 2] {
    [host.into(), ipv6_of(host).into()]
}
