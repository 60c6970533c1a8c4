//! What the decoder makes of a frame that may be forwarded.

use super::{ipv4, udp, vlan};

/// The UDP datagram in a frame: fields in host order, and where its parts start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Destination group, in network order. IPv4 groups only, so far.
    pub group: [u8; 4],
    /// Destination port.
    pub port: u16,
    /// VLAN identifier. [`Datagram::UNTAGGED`] for an untagged frame and for one with a priority
    /// tag, whose identifier is 0 (IEEE 802.1Q, section 9.6).
    pub vlan: u16,
    /// Offset of the IP header in bytes from the start of the frame.
    pub network: u16,
    /// Length of the UDP payload in bytes.
    pub payload_len: u16,
}

impl Datagram {
    /// What [`Datagram::vlan`] is where there is no tag. No identifier has this value: they have 12
    /// bits.
    pub const UNTAGGED: u16 = vlan::UNTAGGED;

    /// Offset of the UDP header in bytes from the start of the frame.
    #[must_use]
    pub const fn transport(&self) -> usize {
        self.network as usize + ipv4::HEADER_LEN
    }

    /// Offset of the payload in bytes from the start of the frame.
    #[must_use]
    pub const fn payload(&self) -> usize {
        self.transport() + udp::HEADER_LEN
    }

    /// End of the datagram in bytes from the start of the frame. What follows is Ethernet padding.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.payload() + self.payload_len as usize
    }
}
