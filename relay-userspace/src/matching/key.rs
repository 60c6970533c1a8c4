//! What a flow matches.

use std::net::IpAddr;

use relay_common::{
    matching::{self, List, PortForm, Shape},
    wire::Vlan,
};

use crate::config::rules::{PortMatch, Prefix};

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
    pub ports: PortMatch,
    /// The source, of the same IP version as the groups; `None` for any.
    pub source: Option<IpAddr>,
}

impl MatchKey {
    /// Whether it is about IPv6.
    pub(super) fn is_v6(&self) -> bool {
        self.group.address().is_ipv6()
    }

    /// Interface and VLAN.
    pub(super) const fn place(&self) -> u32 {
        matching::place(self.slot, self.vlan)
    }

    /// Prefix length and form of the port.
    pub(super) fn shape(&self) -> Shape {
        Shape::new(self.group.length(), form(self.ports))
    }

    /// One group and one port.
    pub(super) fn is_exact(&self) -> bool {
        self.group.is_one() && matches!(self.ports, PortMatch::One(_))
    }

    /// The list that has its shape.
    pub(super) fn list(&self) -> List {
        match (self.is_v6(), self.source.is_some()) {
            (false, false) => List::Any4,
            (false, true) => List::Named4,
            (true, false) => List::Any6,
            (true, true) => List::Named6,
        }
    }

    /// Where flows like it lie in the lists of shapes, which have room for [`List::LEN`] each;
    /// `None` for one group and one port, which take no room there.
    #[must_use]
    pub fn listed(&self) -> Option<(List, Shape)> {
        (!self.is_exact()).then(|| (self.list(), self.shape()))
    }
}

/// The form of ports in keys.
pub(super) const fn form(ports: PortMatch) -> PortForm {
    match ports {
        PortMatch::One(_) => PortForm::One,
        PortMatch::Range(..) => PortForm::Class,
        PortMatch::Any => PortForm::Any,
    }
}
