//! The VLAN tag (IEEE 802.1Q), in the frame's bytes or beside them.

use super::{
    bytes::Bytes,
    ethernet::{self, ethertype},
};

/// Where the fields lie, in bytes from the end of the Ethernet header, whose EtherType announces
/// the tag: `struct vlan_hdr` (include/linux/if_vlan.h).
pub mod field {
    use super::super::layout::Field;

    /// Tag control information: priority, DEI and the identifier.
    pub const TCI: Field = 0..2;
    /// The EtherType of what is tagged: one of [`ethertype`](crate::wire::ethertype).
    pub const TYPE: Field = 2..4;
}

/// Length of a tag: so much longer is a frame that has one.
#[doc(alias = "VLAN_HLEN")]
pub const TAG_LEN: usize = field::TYPE.end;

/// The identifier in the tag control information.
const ID_MASK: u16 = 0x0fff;

/// What stands for the identifier of a frame that is in no VLAN. No identifier has this value: they
/// have 12 bits.
pub(super) const UNTAGGED: u16 = 0xffff;

/// A VLAN tag that the NIC or the kernel took out of a frame and keeps beside it, as a packet
/// socket gets every tagged frame (`skb_vlan_untag` in net/core/dev.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrippedTag {
    /// The EtherType that announced it, in host order: [`ethertype::VLAN`] or [`ethertype::QINQ`].
    pub tpid: u16,
    /// Its tag control information, in host order: priority, DEI and the identifier.
    pub tci: u16,
}

/// The VLAN that a tag names: [`UNTAGGED`] where the identifier is 0 and the tag has only a
/// priority (IEEE 802.1Q, section 9.6).
#[inline(always)]
pub(super) const fn identifier(tci: u16) -> u16 {
    match tci & ID_MASK {
        0 => UNTAGGED,
        vlan => vlan,
    }
}

/// Whether there is a tag in the frame's bytes.
#[inline(always)]
pub(super) fn is_in<B: Bytes + ?Sized>(frame: &B) -> bool {
    let ethertype = frame.half(ethernet::field::TYPE.start).map(u16::from_be);
    matches!(ethertype, Some(ethertype::VLAN | ethertype::QINQ))
}
