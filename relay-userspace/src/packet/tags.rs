//! The VLAN tags that copies leave with (IEEE 802.1Q), and what they keep of those that a datagram
//! arrived with.
//!
//! Which VLANs a datagram arrived in says its rule. What differs from datagram to datagram is the
//! upper part of each tag: its priority, its drop eligibility, and the EtherType that announces it.

use relay_common::wire::{
    ETHERNET_LEN, Tag, VLAN_LEN, ethernet::field as ethernet, ethertype, vlan::field as vlan,
};

use crate::config::rules::{Header, OutputVlan, Vlan};

/// The most tags of a frame.
const MOST: usize = 2;
/// Bits of the identifier in the tag control information. Above it are DEI and the priority.
const ID_BITS: u32 = 12;
const ID_MASK: u16 = (1 << ID_BITS) - 1;

/// The tags of one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tags {
    /// As they lie in the frame, each EtherType in front of its tag, up to `len`.
    bytes: [u8; MOST * VLAN_LEN],
    len: u8,
    keeps: KeepsTags,
}

/// What tags keep of those that the datagram arrived with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct KeepsTags {
    /// Priority and drop eligibility.
    priority: bool,
    /// The EtherTypes.
    types: bool,
}

/// The tags that a datagram arrived with, without their identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceivedTags {
    /// Of two tags.
    outer: Option<Upper>,
    /// Of one tag, that one.
    inner: Upper,
}

/// A tag without its identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Upper {
    /// DEI and priority, as in the lowest 4 bits.
    priority: u8,
    /// It is a service tag (802.1ad).
    is_service: bool,
}

impl Upper {
    fn of(tag: Tag) -> Self {
        Self {
            priority: (tag.tci >> ID_BITS) as u8,
            is_service: tag.tpid == ethertype::QINQ,
        }
    }

    fn ethertype(self) -> u16 {
        if self.is_service {
            ethertype::QINQ
        } else {
            ethertype::VLAN
        }
    }
}

impl ReceivedTags {
    /// Those of `frame`, whose IP header starts at `network`; the outermost tag may be `beside` it.
    /// Priority tags, which name no VLAN, are left out where another tag does.
    #[must_use]
    pub fn read(frame: &[u8], network: usize, beside: Option<Tag>) -> Self {
        let in_bytes = (ETHERNET_LEN..network).step_by(VLAN_LEN);
        let in_bytes = in_bytes.filter_map(|at| {
            let half = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
            Some(Tag {
                tpid: half(at - (ethernet::TYPE.end - ethernet::TYPE.start))?,
                tci: half(at + vlan::TCI.start)?,
            })
        });
        let named = beside.into_iter().chain(in_bytes);
        let mut named = named.filter(|tag| tag.tci & ID_MASK != 0).map(Upper::of);
        match (named.next(), named.next()) {
            (outer @ Some(_), Some(inner)) => Self { outer, inner },
            (one, _) => Self {
                outer: None,
                inner: one.unwrap_or_default(),
            },
        }
    }
}

impl Tags {
    /// Those of an output with this `header`, for datagrams that arrive in `input`.
    #[must_use]
    pub fn new(header: &Header, input: Vlan) -> Self {
        let vlan = match header.vlan {
            OutputVlan::Untagged => Vlan::Untagged,
            OutputVlan::Keep => input,
            OutputVlan::Tag(id) => Vlan::Tag(id),
            OutputVlan::Double(outer, inner) => Vlan::Double(outer, inner),
        };
        let mut tags = Self {
            keeps: KeepsTags {
                priority: header.pcp.is_none() && !input.is_untagged() && !vlan.is_untagged(),
                types: header.vlan == OutputVlan::Keep && !vlan.is_untagged(),
            },
            ..Self::default()
        };
        let ids = match vlan {
            Vlan::Untagged => &[][..],
            Vlan::Tag(id) => &[(ethertype::VLAN, id)],
            Vlan::Double(outer, inner) => &[(ethertype::QINQ, outer), (ethertype::VLAN, inner)],
        };
        let priority = u16::from(header.pcp.unwrap_or(0)) << (ID_BITS + 1);
        for &(tpid, id) in ids {
            tags.push(Tag {
                tpid,
                tci: id & ID_MASK | priority,
            });
        }
        tags
    }

    fn push(&mut self, tag: Tag) {
        let bytes = [tag.tpid.to_be_bytes(), tag.tci.to_be_bytes()];
        let at = usize::from(self.len);
        if let Some(place) = self.bytes.get_mut(at..at + VLAN_LEN) {
            place.copy_from_slice(bytes.as_flattened());
            self.len += VLAN_LEN as u8;
        }
    }

    fn iter(&self) -> impl Iterator<Item = Tag> {
        let (tags, _) = self.bytes().as_chunks();
        tags.iter().map(|&[a, b, c, d]| Tag {
            tpid: u16::from_be_bytes([a, b]),
            tci: u16::from_be_bytes([c, d]),
        })
    }

    /// They depend on those that the datagram arrived with.
    #[inline]
    #[must_use]
    pub const fn keeps_any(&self) -> bool {
        self.keeps.priority || self.keeps.types
    }

    /// The same for datagrams that arrived with `received`.
    #[must_use]
    pub fn with(&self, received: ReceivedTags) -> Self {
        let ReceivedTags { outer, inner } = received;
        let mut tags = Self::default();
        for (at, tag) in self.iter().enumerate() {
            let is_outer = at == 0 && self.len() > VLAN_LEN;
            // A second tag around one gets what that one has.
            let came = outer.filter(|_| is_outer).unwrap_or(inner);
            let priority = u16::from(came.priority) << ID_BITS;
            tags.push(Tag {
                tpid: if self.keeps.types {
                    came.ethertype()
                } else {
                    tag.tpid
                },
                tci: if self.keeps.priority {
                    tag.tci & ID_MASK | priority
                } else {
                    tag.tci
                },
            });
        }
        tags
    }

    /// As they lie in the frame, from the outer one's EtherType up to the EtherType of what is
    /// tagged.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or(&[])
    }

    /// How many bytes longer a frame is with them.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// There are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of their bytes the MTU of an interface has to hold. One customer tag comes on top
    /// of it; packet sockets allow that for no other (`packet_extra_vlan_len_allowed` in
    /// net/packet/af_packet.c).
    #[must_use]
    pub fn len_in_mtu(&self) -> usize {
        match self.bytes() {
            [high, low, ..] if self.len() == VLAN_LEN => {
                if u16::from_be_bytes([*high, *low]) == ethertype::VLAN {
                    0
                } else {
                    VLAN_LEN
                }
            }
            all => all.len(),
        }
    }
}
