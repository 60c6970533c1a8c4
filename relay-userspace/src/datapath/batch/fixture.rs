//! Frames for the tests of what is made from a batch.

use etherparse::PacketBuilder;
use relay_common::wire;

use crate::packet::{Known, Received};

/// Where the payload of a [`Numbered`] frame starts.
pub const PAYLOAD_AT: usize = 42;

/// A frame whose payload is full of one number.
pub struct Numbered {
    /// From its Ethernet header on.
    pub bytes: Vec<u8>,
    /// What is read from its headers.
    pub received: Received,
}

/// The frame of `number`.
pub fn numbered(number: u8) -> Numbered {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1])
        .ipv4([10, 1, 0, 2], [239, 1, 1, 1], 9)
        .udp(40_000, 5001)
        .write(&mut bytes, &[number; 100])
        .unwrap();
    let datagram = wire::decode(&bytes[..]).unwrap();
    assert_eq!(datagram.payload(), PAYLOAD_AT);
    let received = Received::read(&bytes, &datagram, Known::Nothing).unwrap();
    Numbered { bytes, received }
}
