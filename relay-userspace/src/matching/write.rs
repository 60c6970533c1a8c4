//! Entries of the tables.

use std::net::IpAddr;

use relay_common::{
    matching::{ExactKey4, ExactKey6, FlowValue, Halves, ShapedKey4, ShapedKey6, shape_and_port},
    wire::ipv6,
};

use super::key::MatchKey;

/// An entry to write, or to remove where the value is [`FlowValue::NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Of the exact table over IPv4.
    Exact4(ExactKey4, FlowValue),
    /// Of the exact table over IPv6.
    Exact6(ExactKey6, FlowValue),
    /// Of the shaped table over IPv4.
    Shaped4(ShapedKey4, FlowValue),
    /// Of the shaped table over IPv6.
    Shaped6(ShapedKey6, FlowValue),
    /// A number of the lists of shapes.
    Shapes(u32, u64),
    /// A number of the table of classes.
    Classes(u32, u64),
}

impl Write {
    /// The entry of the exact table for one group and port.
    pub(super) fn exact(place: u32, group: IpAddr, port: u16, value: FlowValue) -> Self {
        let port = u32::from(port);
        match group {
            IpAddr::V4(group) => {
                let group = u32::from_ne_bytes(group.octets());
                let key = ExactKey4 { place, group, port };
                Self::Exact4(key, value)
            }
            IpAddr::V6(group) => {
                let group = ipv6::to_memory(group);
                let key = ExactKey6 { place, port, group };
                Self::Exact6(key, value)
            }
        }
    }

    /// The entry of the shaped table for a flow, with its port in the form of its shape.
    pub(super) fn shaped(key: &MatchKey, port: u16, value: FlowValue) -> Self {
        let place = key.place();
        let shape_and_port = shape_and_port(key.shape(), port);
        match key.group.address() {
            IpAddr::V4(group) => {
                let source = match key.source {
                    Some(IpAddr::V4(source)) => u32::from_ne_bytes(source.octets()),
                    _ => 0,
                };
                let key = ShapedKey4 {
                    place,
                    source,
                    group: group.to_bits(),
                    shape_and_port,
                };
                Self::Shaped4(key, value)
            }
            IpAddr::V6(group) => {
                let source = match key.source {
                    Some(IpAddr::V6(source)) => ipv6::to_memory(source),
                    _ => [0; 2],
                };
                let (bits, [first, second]) = (group.to_bits(), source);
                let key = ShapedKey6 {
                    place,
                    shape_and_port,
                    halves: [
                        Halves {
                            group: (bits >> 64) as u64,
                            source: first,
                        },
                        Halves {
                            group: bits as u64,
                            source: second,
                        },
                    ],
                };
                Self::Shaped6(key, value)
            }
        }
    }
}
