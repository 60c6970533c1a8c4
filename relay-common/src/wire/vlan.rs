//! VLAN tags (IEEE 802.1Q), in the frame's bytes or beside them, and the VLAN that they name.

use core::fmt;

use super::ethernet::ethertype;

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
/// Bits of an identifier.
const ID_BITS: u32 = 12;

/// A VLAN tag. The NIC or the kernel may take the outermost one out of a frame and keep it beside
/// it, as a packet socket gets every tagged frame (`skb_vlan_untag` in net/core/dev.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The EtherType that announces it, in host order: [`ethertype::VLAN`] or [`ethertype::QINQ`].
    pub tpid: u16,
    /// Its tag control information, in host order: priority, DEI and the identifier.
    pub tci: u16,
}

impl Tag {
    #[inline(always)]
    const fn id(self) -> u16 {
        self.tci & ID_MASK
    }
}

/// The VLAN of a frame: none, that of one tag, or that of two.
///
/// A tag whose identifier is 0 has only a priority, and counts as if it was not there (IEEE 802.1Q,
/// section 9.6; `__netif_receive_skb_core` in net/core/dev.c).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan(u32);

impl Vlan {
    /// No VLAN.
    pub const UNTAGGED: Self = Self(0);
    /// Bits of [`Self::bits`].
    pub const BITS: u32 = 2 * ID_BITS;

    /// The VLAN of one customer tag (802.1Q) with the identifier `id`, of which 12 bits count.
    #[inline(always)]
    #[must_use]
    pub const fn tag(id: u16) -> Self {
        Self((id & ID_MASK) as u32)
    }

    /// The VLAN `inner`, that of a customer tag, inside of `outer`, that of a service tag (802.1ad)
    /// or of another customer tag. Of each, 12 bits count.
    #[inline(always)]
    #[must_use]
    pub const fn double(outer: u16, inner: u16) -> Self {
        Self(((outer & ID_MASK) as u32) << ID_BITS | (inner & ID_MASK) as u32)
    }

    /// A number of its own for each VLAN, in the lowest [`Self::BITS`] bits.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The VLAN with this number.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    /// The identifiers of the outer and the inner tag; 0 where there is none. One tag is an inner
    /// one.
    #[must_use]
    pub const fn ids(self) -> (u16, u16) {
        ((self.0 >> ID_BITS) as u16, self.0 as u16 & ID_MASK)
    }

    /// What stands for tags that name no VLAN which a rule can have. A value and no `None`: the
    /// verifier refuses even to shift what is not there.
    const NAMELESS: Self = Self(u32::MAX);

    /// Whether it is a VLAN, or none, and not what [`Self::of_one`] and [`Self::of_two`] return for
    /// other tags.
    #[inline(always)]
    pub(super) const fn has_name(self) -> bool {
        self.0 != Self::NAMELESS.0
    }

    /// The VLAN that `tag` names.
    #[inline(always)]
    pub(super) const fn of_one(tag: Tag) -> Self {
        match tag.id() {
            0 => Self::UNTAGGED,
            id if tag.tpid == ethertype::VLAN => Self::tag(id),
            _ => Self::NAMELESS,
        }
    }

    /// The VLAN that `outer` and `inner` name together.
    #[inline(always)]
    pub(super) const fn of_two(outer: Tag, inner: Tag) -> Self {
        match (outer.id(), inner.id()) {
            (_, 0) => Self::of_one(outer),
            (0, _) => Self::of_one(inner),
            (outer, id) if inner.tpid == ethertype::VLAN => Self::double(outer, id),
            _ => Self::NAMELESS,
        }
    }
}

impl fmt::Debug for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ids() {
            (0, 0) => f.write_str("untagged"),
            (0, id) => write!(f, "VLAN {id}"),
            (outer, inner) => write!(f, "VLAN {outer}.{inner}"),
        }
    }
}
