//! Networks that bring a relay's copies back to its input: a ring of two relays, and a bridge from
//! an output.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;

use crate::encapsulation::Encapsulation;
use crate::frames::UdpFrame;
use crate::netns::Namespace;
use crate::payload::payload;
use crate::rules::{GROUP_IN, PORT_IN, Rule};
use crate::veth::{End, Endpoint, connect};

/// Two relay hosts, each of whose `out0` is at the other end of the other one's `in0`.
#[derive(Debug)]
pub struct Ring {
    /// The first relay's host.
    pub one: Arc<Namespace>,
    /// The second relay's host.
    pub two: Arc<Namespace>,
    /// `in0` of the first.
    pub in_one: Endpoint,
    /// `out0` of the first.
    pub out_one: Endpoint,
    /// `in0` of the second.
    pub in_two: Endpoint,
    /// `out0` of the second.
    pub out_two: Endpoint,
}

impl Ring {
    /// Makes both hosts and the wires between them.
    pub fn new() -> Result<Self> {
        let (one, two) = (Namespace::new("one")?, Namespace::new("two")?);
        let (one, two) = (Arc::new(one), Arc::new(two));
        let (in_one, out_two) = connect(end(&one, "in0", 0, 1), end(&two, "out0", 0, 2))?;
        let (out_one, in_two) = connect(end(&one, "out0", 1, 1), end(&two, "in0", 1, 2))?;
        Ok(Self {
            one,
            two,
            in_one,
            out_one,
            in_two,
            out_two,
        })
    }
}

/// A relay host whose `in0` and `out0` end at two ports of one bridge.
#[derive(Debug)]
pub struct Bridged {
    /// The relay's host.
    pub relay: Arc<Namespace>,
    /// The bridge's host.
    pub host: Arc<Namespace>,
    /// The relay's `in0`.
    pub input: Endpoint,
    /// The relay's `out0`.
    pub output: Endpoint,
    /// The bridge's `port0`, the other end of `in0`.
    pub port: Endpoint,
    /// The bridge's `port1`, the other end of `out0`.
    pub back: Endpoint,
}

impl Bridged {
    /// Makes both hosts, the wires between them, and the bridge.
    pub fn new() -> Result<Self> {
        let (relay, host) = (Namespace::new("relay")?, Namespace::new("bridge")?);
        let (relay, host) = (Arc::new(relay), Arc::new(host));
        let (input, port) = connect(end(&relay, "in0", 0, 1), end(&host, "port0", 0, 2))?;
        let (output, back) = connect(end(&relay, "out0", 1, 1), end(&host, "port1", 1, 2))?;
        host.ip("link add bridge type bridge mcast_snooping 0")?;
        for port in ["port0", "port1"] {
            host.ip(&format!("link set {port} master bridge"))?;
        }
        host.ip("link set bridge up")?;
        Ok(Self {
            relay,
            host,
            input,
            output,
            port,
            back,
        })
    }
}

fn end(namespace: &Arc<Namespace>, interface: &str, subnet: u8, host: u8) -> End {
    End {
        namespace: Arc::clone(namespace),
        interface: interface.into(),
        mac: [0x02, 0, 10, 9, subnet, host],
        address: Some(Ipv4Addr::new(10, 9, subnet, host)),
        ipv6: true,
        mtu: 1500,
        queues: 1,
    }
}

/// A datagram of a host that is no relay.
pub fn foreign(wire: &Endpoint, over: Encapsulation, number: u64, ttl: u8) -> UdpFrame {
    UdpFrame {
        source_mac: [0x02, 0, 10, 9, 9, 9],
        source: over.input(Ipv4Addr::new(10, 9, 0, 77)),
        ttl,
        ..UdpFrame::new(wire, over.input(GROUP_IN), PORT_IN, payload(0, number, 100))
    }
}

/// A rule that forwards through the other interface to the same group and port.
pub fn onwards(over: Encapsulation) -> [Rule; 1] {
    [Rule::feed().output("out0", GROUP_IN, PORT_IN).over(over)]
}
