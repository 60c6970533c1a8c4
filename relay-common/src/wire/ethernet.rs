//! Ethernet II (IEEE 802.3): where the fields lie, EtherTypes, and the addresses of a frame.

use super::{bytes::Bytes, datagram::Addresses, layout::WORD};

/// Where the fields lie, in bytes from the start of the frame.
pub mod field {
    use super::super::layout::Field;

    /// The address that the frame is sent to.
    pub const DESTINATION: Field = 0..6;
    /// The address that the frame is sent from.
    pub const SOURCE: Field = 6..12;
    /// The EtherType of what follows: one of [`ethertype`](super::ethertype).
    pub const TYPE: Field = 12..14;
}

/// Length of an Ethernet header without a tag.
#[doc(alias = "ETH_HLEN")]
pub const HEADER_LEN: usize = field::TYPE.end;

/// The EtherTypes that the decoder knows, in host order.
pub mod ethertype {
    /// IPv4 (RFC 894).
    #[doc(alias = "ETH_P_IP")]
    pub const IPV4: u16 = 0x0800;
    /// IPv6 (RFC 2464).
    #[doc(alias = "ETH_P_IPV6")]
    pub const IPV6: u16 = 0x86dd;
    /// A customer VLAN tag (IEEE 802.1Q).
    #[doc(alias = "ETH_P_8021Q")]
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag (IEEE 802.1ad).
    #[doc(alias = "ETH_P_8021AD")]
    pub const QINQ: u16 = 0x88a8;
}

/// An Ethernet address as it lies in memory, behind two bytes that are zero.
pub type Mac = u64;

/// `mac` as a [`Mac`].
#[must_use]
pub const fn mac(mac: [u8; 6]) -> Mac {
    let [a, b, c, d, e, f] = mac;
    u64::from_ne_bytes([0, 0, a, b, c, d, e, f])
}

/// The bit of a group address (IEEE 802.3, section 3.2.3).
const GROUP: Mac = mac([1, 0, 0, 0, 0, 0]);

/// Whether no host can have this source: it is zero, or a group's.
#[inline(always)]
pub(super) const fn is_martian(from: Mac) -> bool {
    from & GROUP != 0 || from == 0
}

/// The Ethernet address of the group that a datagram is sent to (RFC 1112, section 6.4; RFC 2464,
/// section 7).
#[inline(always)]
pub(super) const fn of_group(addresses: &Addresses) -> [u8; 6] {
    match *addresses {
        Addresses::V4 { group, .. } => {
            let [_, b, c, d] = group.to_ne_bytes();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        Addresses::V6 { group, .. } => {
            let [.., a, b, c, d] = group[1].to_ne_bytes();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// The two addresses of a frame, as three words of it have them.
#[derive(Clone, Copy)]
pub(super) struct AddressWords {
    /// The first word of the destination.
    start: u32,
    /// What is left of the destination, and the source: a [`Mac`] where the former is masked out.
    rest: u64,
}

impl AddressWords {
    /// What is left of the destination in `rest`.
    const DESTINATION: u64 = u64::from_ne_bytes([0xff, 0xff, 0, 0, 0, 0, 0, 0]);

    /// The addresses of a frame, or `None` where it ends before.
    #[inline(always)]
    pub fn read<B: Bytes + ?Sized>(frame: &B) -> Option<Self> {
        let (Some([start]), Some([between, from])) = (
            frame.words(field::DESTINATION.start),
            frame.words(field::DESTINATION.start + WORD),
        ) else {
            return None;
        };
        let ([a, b, c, d], [e, f, g, h]) = (between.to_ne_bytes(), from.to_ne_bytes());
        Some(Self {
            start,
            rest: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        })
    }

    /// The source.
    #[inline(always)]
    pub const fn source(self) -> Mac {
        self.rest & !Self::DESTINATION
    }

    /// Whether the destination is a group, or everybody.
    #[inline(always)]
    pub const fn is_to_many(self) -> bool {
        self.start.to_ne_bytes()[0] & 1 != 0
    }

    /// Whether `mac` is the destination.
    #[inline(always)]
    pub const fn is_to(self, [a, b, c, d, e, f]: [u8; 6]) -> bool {
        self.start == u32::from_ne_bytes([a, b, c, d])
            && self.rest & Self::DESTINATION == u64::from_ne_bytes([e, f, 0, 0, 0, 0, 0, 0])
    }
}
