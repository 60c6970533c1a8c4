//! The wires of a trial: one source, one host for the contender, one host for all sinks.
//!
//! ```text
//!   source  src0 ------ in0  relay  out0 ------ sink0  sink
//!                                   out1 ------ sink1
//! ```
//!
//! Every wire has one queue: a veth would put all frames of one generator into one queue anyway,
//! that of the CPU that makes them. Everything is removed on drop.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context, Result, ensure};
use relay_tests::{
    netns::Namespace,
    veth::{End, Endpoint, connect},
};

/// The most wires of outputs.
pub const MAX_INTERFACES: usize = 250;

/// What the wires of a trial will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many wires of outputs.
    pub interfaces: usize,
    /// The largest IP packet on all wires, in bytes.
    pub mtu: u32,
    /// Whether the hosts have IPv6.
    pub ipv6: bool,
}

/// Hosts on the link of every wire of outputs, beside the sink's own address.
const HOSTS: usize = 250;

/// One of the hosts on the link of the wire of outputs with this number; after `HOSTS` it is the
/// first one again. The sink answers for all of them.
///
/// There are not more, because Linux keeps no more than 1024 neighbours of all its namespaces, and
/// begins to forget some at 512 (`gc_thresh2`, `gc_thresh3`).
pub fn host(wire: usize, number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, wire as u8, (number % HOSTS) as u8 + 1)
}

/// The hosts and wires of a trial.
#[derive(Debug)]
pub struct Wires {
    /// The host that the contender runs in.
    pub relay: Arc<Namespace>,
    /// The generator's end.
    pub source: Endpoint,
    /// The contender's input.
    pub input: Endpoint,
    /// The contender's outputs.
    pub outputs: Vec<Endpoint>,
    /// The far ends of the outputs.
    pub sinks: Vec<Endpoint>,
}

impl Wires {
    /// Makes the hosts and wires.
    pub fn new(shape: Shape) -> Result<Self> {
        ensure!(
            (1..=MAX_INTERFACES).contains(&shape.interfaces),
            "{} wires out: there can be 1 to {MAX_INTERFACES}",
            shape.interfaces
        );
        let [source, relay, sink] = ["source", "relay", "sink"].map(Namespace::new);
        let (source, relay, sink) = (Arc::new(source?), Arc::new(relay?), Arc::new(sink?));
        let end = |namespace: &Arc<Namespace>, interface: String, net: [u8; 2], host: u8| End {
            namespace: Arc::clone(namespace),
            interface,
            mac: [2, 0, 10, net[0], net[1], host],
            address: Some(Ipv4Addr::new(10, net[0], net[1], host)),
            ipv6: shape.ipv6,
            mtu: shape.mtu,
            queues: 1,
        };
        let (input, source) = connect(
            end(&relay, "in0".into(), [1, 0], 1),
            end(&source, "src0".into(), [1, 0], 2),
        )?;
        let mut wires = Self {
            relay,
            source,
            input,
            outputs: Vec::new(),
            sinks: Vec::new(),
        };
        for i in 0..shape.interfaces {
            let net = [2, i as u8];
            let (output, sink) = connect(
                end(&wires.relay, format!("out{i}"), net, 1),
                end(&sink, format!("sink{i}"), net, 2),
            )?;
            let hosts = Ipv4Addr::new(10, 64, net[1], 0);
            let at = |end: &Endpoint| format!("{hosts}/24 dev {}", end.interface);
            output.namespace.ip(&format!("route add {}", at(&output)))?;
            sink.namespace
                .ip(&format!("route add local {}", at(&sink)))?;
            wires.outputs.push(output);
            wires.sinks.push(sink);
        }
        wires.take_redirected_frames()?;
        Ok(wires)
    }

    /// Makes the input receive the generator's frames with every contender: a veth receives
    /// redirected frames only while it has GRO or an XDP program.
    fn take_redirected_frames(&self) -> Result<()> {
        let name = self.input.interface.as_str();
        self.relay.tool("ethtool", &["-K", name, "gro", "on"])?;
        Ok(())
    }

    /// Frames that the input had no room for since the wires were made.
    pub fn refused(&self) -> Result<u64> {
        let name = self.source.interface.as_str();
        let shown = self.source.namespace.tool("ethtool", &["-S", name])?;
        statistic(&shown, "tx_queue_0_xdp_xmit_errors")
            .with_context(|| format!("no such statistic of {name}: {shown}"))
    }
}

/// A line `name: number` of `ethtool -S`.
fn statistic(shown: &str, name: &str) -> Option<u64> {
    shown.lines().find_map(|line| {
        let (key, value) = line.trim().split_once(':')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statistic_is_found_by_its_whole_name() {
        let shown = "NIC statistics:\n     peer_ifindex: 3\n     tx_queue_0_xdp_xmit: 12\n     \
                     tx_queue_0_xdp_xmit_errors: 7\n";
        assert_eq!(statistic(shown, "tx_queue_0_xdp_xmit"), Some(12));
        assert_eq!(statistic(shown, "tx_queue_0_xdp_xmit_errors"), Some(7));
        assert_eq!(statistic(shown, "queue"), None);
    }
}
