//! What the copies of one output must be, in every byte.

use std::net::IpAddr;

use super::{BURST, Burst, From, Kind, Out, SIZE};
use super::{came_with, other, sent_label, sent_tos, source_port};
use crate::encapsulation::Encapsulation;
use crate::frames::{Checksum, UdpFrame};
use crate::inspect::sum;
use crate::raw::Frame;
use crate::veth::Endpoint;

/// One output of one feed, and what it sends.
pub(super) struct Copies<'a> {
    pub(super) encapsulation: Encapsulation,
    pub(super) out: &'a Out,
    pub(super) group: IpAddr,
    pub(super) port: u16,
    pub(super) near: &'a Endpoint,
    pub(super) sender: &'a Endpoint,
    pub(super) sockets: u16,
}

impl Copies<'_> {
    fn is_ipv6(&self) -> bool {
        self.encapsulation.is_ipv6() != self.out.translates
    }

    /// The copy of datagrams of this kind that have `payload`, of which the first has this number.
    fn frame(&self, kind: Kind, number: u64, payload: Vec<u8>) -> UdpFrame {
        let (out, came) = (self.out, came_with(self.encapsulation));
        let mut frame = UdpFrame::new(self.near, self.group, self.port, payload);
        frame.tags = out.tags(&came);
        frame.source = match out.source {
            From::Interface => self.near.address_for(self.group),
            From::Sender => self.sender.address_for(self.group),
            From::Other => other(self.is_ipv6()),
        };
        let port = source_port(number, self.sockets);
        frame.source_port = out.source_port.unwrap_or(port);
        frame.ttl = out.ttl;
        let tos = sent_tos(kind);
        frame.tos = out.dscp.map_or(tos, |dscp| dscp << 2 | tos & 3);
        frame.flow_label = if out.translates { 0 } else { sent_label(kind) };
        frame.identification = number as u16;
        frame.dont_fragment = true;
        frame
    }
}

/// Where the IP header of a frame begins.
fn network(frame: &[u8]) -> usize {
    let mut at = 14;
    while matches!(frame.get(at - 2..at), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    at
}

/// Where the UDP header of a frame begins; `None` if it has none.
pub(super) fn udp(frame: &[u8]) -> Option<usize> {
    let network = network(frame);
    let (protocol, len) = match frame.get(network)? >> 4 {
        4 => (frame.get(network + 9)?, 20),
        6 => (frame.get(network + 6)?, 40),
        _ => return None,
    };
    (*protocol == 17).then_some(network + len)
}

impl Copies<'_> {
    fn is_in(&self, frame: &[u8]) -> bool {
        let port = udp(frame).and_then(|at| frame.get(at + 2..at + 4));
        let to = match self.group {
            IpAddr::V4(group) => (16, group.octets().to_vec()),
            IpAddr::V6(group) => (24, group.octets().to_vec()),
        };
        let at = network(frame) + to.0;
        port == Some(&self.port.to_be_bytes()) && frame.get(at..at + to.1.len()) == Some(&to.1)
    }

    /// Checks the frames of one burst: each datagram once, in order, with right headers.
    #[track_caller]
    pub(super) fn check(&self, burst: Burst, frames: &[Frame]) {
        let Burst { kind, first, .. } = burst;
        let mut number = first;
        for arrived in frames {
            let bytes = arrived.on_the_wire();
            if !self.is_in(&bytes) {
                continue;
            }
            let udp = udp(&bytes).unwrap_or(0);
            let count = (bytes.len() - udp - 8).div_ceil(SIZE) as u64;
            let mut sent: Vec<u8> = (number..number + count)
                .flat_map(|number| burst.payload(number))
                .collect();
            if kind == Kind::Damaged
                && let Some(last) = sent.last_mut()
            {
                *last ^= 1;
            }
            let mut expected = self.frame(kind, number, sent);
            let checksum = [bytes[udp + 6], bytes[udp + 7]];
            expected.checksum = match checksum {
                [0, 0] => Checksum::Zero,
                _ if arrived.partial_checksum => Checksum::LikePartial,
                _ => Checksum::Complete,
            };
            let (may_be_absent, is_v4) = (kind == Kind::Absent, !self.is_ipv6());
            assert!(checksum != [0, 0] || may_be_absent && is_v4, "{bytes:x?}");
            let id = network(&bytes) + 4;
            if self.out.translates && is_v4 {
                // Of atomic datagrams any will do.
                expected.identification = u16::from_be_bytes([bytes[id], bytes[id + 1]]);
            }
            let mut right = expected.build().unwrap_or_default();
            if kind == Kind::Damaged {
                let right_sum = &mut right[udp + 6..udp + 8];
                assert!(
                    right_sum != checksum && !arrived.partial_checksum,
                    "hidden damage"
                );
                right_sum.copy_from_slice(&checksum);
                self.assert_damage_alone(&bytes, udp);
            }
            assert!(
                bytes == right,
                "{kind:?} over {:?}, `{}`, datagram {number}:\n{:02x?}\n{:02x?}",
                self.encapsulation,
                self.out.keys,
                &bytes[..bytes.len().min(90)],
                &right[..right.len().min(90)]
            );
            number += count;
        }
        assert_eq!(
            number - first,
            BURST,
            "{kind:?} {:?} {}",
            self.encapsulation,
            self.out.keys
        );
    }

    /// With the damage undone the checksum of a frame is right.
    #[track_caller]
    fn assert_damage_alone(&self, frame: &[u8], udp: usize) {
        let mut whole = frame.to_vec();
        if let Some(last) = whole.last_mut() {
            *last ^= 1;
        }
        let addresses = if self.is_ipv6() {
            udp - 32..udp
        } else {
            udp - 8..udp
        };
        let len = (whole.len() - udp) as u32;
        let pseudo = sum(&whole[addresses], len + 17);
        assert_eq!(sum(&whole[udp..], pseudo.into()), 0xffff);
    }
}
