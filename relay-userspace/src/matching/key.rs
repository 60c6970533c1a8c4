//! What a flow matches.

use std::{fmt, net::IpAddr};

use relay_common::{
    matching::{self, List, PortForm, Shape},
    wire::Vlan,
};

/// What a flow matches: one interface, one VLAN, a group or a prefix of groups, ports, and one
/// source or any. A flow with several sources is opened once for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatchKey {
    /// The interface's slot in the tables.
    pub slot: u8,
    /// The VLAN.
    pub vlan: Vlan,
    /// The groups.
    pub group: Prefix,
    /// The ports.
    pub ports: Ports,
    /// The source, of the same IP version as the groups; `None` for any.
    pub source: Option<IpAddr>,
}

/// An IP prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// The ports of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// One port.
    One(u16),
    /// From the first to the last, both included; empty if the first is greater.
    Range(u16, u16),
    /// Every port.
    Any,
}

impl Prefix {
    /// The first `len` bits of `address`; the others do not count. All bits if `len` is more than
    /// the address has.
    #[must_use]
    pub const fn new(address: IpAddr, len: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let len = if len > 32 { 32 } else { len };
                let mask = !(u32::MAX as u64 >> len) as u32;
                let kept = std::net::Ipv4Addr::from_bits(v4.to_bits() & mask);
                Self {
                    address: IpAddr::V4(kept),
                    len,
                }
            }
            IpAddr::V6(v6) => {
                let len = if len > 128 { 128 } else { len };
                let mask = match u128::MAX.checked_shr(len as u32) {
                    Some(rest) => !rest,
                    None => u128::MAX,
                };
                let kept = std::net::Ipv6Addr::from_bits(v6.to_bits() & mask);
                Self {
                    address: IpAddr::V6(kept),
                    len,
                }
            }
        }
    }

    /// One address.
    #[must_use]
    pub const fn one(address: IpAddr) -> Self {
        Self::new(address, u8::MAX)
    }

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the length of a prefix")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv6() == self.address.is_ipv6() && Self::new(address, self.len) == self
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl Ports {
    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        match self {
            Self::One(one) => one == port,
            Self::Range(first, last) => first <= port && port <= last,
            Self::Any => true,
        }
    }

    pub(super) const fn form(self) -> PortForm {
        match self {
            Self::One(_) => PortForm::One,
            Self::Range(..) => PortForm::Class,
            Self::Any => PortForm::Any,
        }
    }
}

impl MatchKey {
    /// Whether it is about IPv6.
    pub(super) const fn is_v6(&self) -> bool {
        self.group.address.is_ipv6()
    }

    /// Interface and VLAN.
    pub(super) const fn place(&self) -> u32 {
        matching::place(self.slot, self.vlan)
    }

    /// Prefix length and form of the port.
    pub(super) const fn shape(&self) -> Shape {
        Shape::new(self.group.len, self.ports.form())
    }

    /// One group and one port.
    pub(super) const fn is_exact(&self) -> bool {
        let whole = if self.is_v6() { 128 } else { 32 };
        self.group.len == whole && matches!(self.ports, Ports::One(_))
    }

    /// The list that has its shape.
    pub(super) const fn list(&self) -> List {
        match (self.is_v6(), self.source.is_some()) {
            (false, false) => List::Any4,
            (false, true) => List::Named4,
            (true, false) => List::Any6,
            (true, true) => List::Named6,
        }
    }
}
