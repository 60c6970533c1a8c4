//! What a NIC does with VLAN tags of received frames, and switching it off and on again.
//!
//! By index, because a name may come to mean another interface. The kernel's answer to a change is
//! not enough: a driver may refuse it silently, so the features are read again afterwards.

use std::{fmt, io};

use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use super::{
    netlink_socket::Socket,
    watch::ethtool_messages::{
        ETHTOOL, active_features, family, features_change, features_request, has_bit,
    },
};

/// A feature of an interface that acts on the VLAN tags of received frames, by its name in
/// `ethtool -k` (net/ethtool/common.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VlanOffload {
    /// Takes 802.1Q tags out of the frame and passes them on beside the bytes
    /// (`NETIF_F_HW_VLAN_CTAG_RX`).
    #[serde(rename = "rx-vlan-hw-parse")]
    StripTag,
    /// The same for 802.1ad tags (`NETIF_F_HW_VLAN_STAG_RX`).
    #[serde(rename = "rx-vlan-stag-hw-parse")]
    StripServiceTag,
    /// Drops frames with 802.1Q tags of VLANs that no VLAN device above the interface has
    /// (`NETIF_F_HW_VLAN_CTAG_FILTER`).
    #[serde(rename = "rx-vlan-filter")]
    Filter,
    /// The same for 802.1ad tags (`NETIF_F_HW_VLAN_STAG_FILTER`).
    #[serde(rename = "rx-vlan-stag-filter")]
    FilterServiceTag,
}

impl VlanOffload {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::StripTag,
        Self::StripServiceTag,
        Self::Filter,
        Self::FilterServiceTag,
    ];

    /// The name that `ethtool -K` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StripTag => "rx-vlan-hw-parse",
            Self::StripServiceTag => "rx-vlan-stag-hw-parse",
            Self::Filter => "rx-vlan-filter",
            Self::FilterServiceTag => "rx-vlan-stag-filter",
        }
    }

    /// Whether it takes tags out of frames.
    #[must_use]
    pub const fn strips(self) -> bool {
        matches!(self, Self::StripTag | Self::StripServiceTag)
    }
}

impl fmt::Display for VlanOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The VLAN offloads of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VlanOffloads {
    /// Those that are on, ascending.
    pub on: Vec<VlanOffload>,
    /// Those of them that the driver lets no one switch off, ascending.
    pub fixed: Vec<VlanOffload>,
}

impl VlanOffloads {
    /// Whether it takes any tags out of received frames.
    #[must_use]
    pub fn strips_tags(&self) -> bool {
        self.on.iter().any(|offload| offload.strips())
    }
}

/// Reads and switches VLAN offloads, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct VlanSwitch {
    socket: Socket,
    family: u16,
}

impl VlanSwitch {
    /// Opens a socket for the family `ethtool` of generic netlink, which has features since Linux
    /// 5.8.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or ENOENT if it is built without that family.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::open(SockProtocol::NetlinkGeneric, 0)?;
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        let family = family(&mut socket, ETHTOOL)?.ok_or_else(missing)?.number;
        Ok(Self { socket, family })
    }

    /// The offloads of the interface with this index that are on, ascending.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; ENODEV if there is no such interface.
    pub fn on(&mut self, index: u32) -> io::Result<Vec<VlanOffload>> {
        let mut on = Vec::new();
        self.socket
            .ask(self.family, &features_request(index), |_, answer| {
                if let Some((_, active)) = active_features(answer) {
                    on = of_bits(active);
                }
            })?;
        Ok(on)
    }

    /// Switches `offloads` of the interface with this index on or off.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; EOPNOTSUPP if the driver left one of them as it was. Those before it
    /// may have changed.
    pub fn switch(&mut self, index: u32, offloads: &[VlanOffload], on: bool) -> io::Result<()> {
        let names = offloads.iter().map(|offload| offload.name());
        let request = features_change(index, names, on);
        self.socket.ask(self.family, &request, |_, _| {})?;
        let now = self.on(index)?;
        match offloads.iter().all(|one| now.contains(one) == on) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        }
    }
}

/// The offloads that a set of features has.
pub(super) fn of_bits(set: &[u8]) -> Vec<VlanOffload> {
    let all = VlanOffload::ALL.into_iter();
    all.filter(|offload| has_bit(set, offload.name())).collect()
}
