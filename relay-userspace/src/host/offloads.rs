//! What an interface does to received frames before the relay sees them, and switching that off or
//! on.
//!
//! By index, because a name may come to mean another interface. The kernel's answer to a change is
//! not enough: a driver may refuse it silently, so the features are read again afterwards.

use std::{fmt, io, ops::Deref};

use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use super::{
    netlink_socket::Socket,
    watch::ethtool_messages::{
        ETHTOOL, active_features, family, features_change, features_request, has_bit,
    },
};

/// A feature of an interface that acts on received frames, by its name in `ethtool -k`
/// (net/ethtool/common.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Offload {
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
    /// Joins received packets of a flow before the stack and packet sockets get them
    /// (`NETIF_F_GRO`).
    #[serde(rename = "rx-gro")]
    Gro,
    /// Lets GRO join datagrams that no socket of this host receives (`NETIF_F_GRO_UDP_FWD`, Linux
    /// 5.12).
    #[serde(rename = "rx-udp-gro-forwarding")]
    UdpGroForwarding,
}

impl Offload {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::StripTag,
        Self::StripServiceTag,
        Self::Filter,
        Self::FilterServiceTag,
        Self::Gro,
        Self::UdpGroForwarding,
    ];

    /// The name that `ethtool -K` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StripTag => "rx-vlan-hw-parse",
            Self::StripServiceTag => "rx-vlan-stag-hw-parse",
            Self::Filter => "rx-vlan-filter",
            Self::FilterServiceTag => "rx-vlan-stag-filter",
            Self::Gro => "rx-gro",
            Self::UdpGroForwarding => "rx-udp-gro-forwarding",
        }
    }

    /// Whether the relay switches it on where it switches it at all; the others it switches off.
    #[must_use]
    pub const fn wanted_on(self) -> bool {
        self.joins()
    }

    /// Whether it joins datagrams.
    #[must_use]
    pub const fn joins(self) -> bool {
        matches!(self, Self::Gro | Self::UdpGroForwarding)
    }

    /// Whether it drops frames of some VLANs.
    #[must_use]
    pub const fn filters(self) -> bool {
        matches!(self, Self::Filter | Self::FilterServiceTag)
    }

    /// Whether it takes tags out of frames.
    #[must_use]
    pub const fn strips(self) -> bool {
        matches!(self, Self::StripTag | Self::StripServiceTag)
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Offloads that the relay switches for as long as it runs, ascending. Written as two lists, `off`
/// and `on`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OffAndOn", into = "OffAndOn")]
pub struct Switched(Vec<Offload>);

#[derive(Serialize, Deserialize)]
struct OffAndOn {
    off: Vec<Offload>,
    /// Absent in what an earlier version has written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    on: Vec<Offload>,
}

impl From<Vec<Offload>> for Switched {
    fn from(mut offloads: Vec<Offload>) -> Self {
        offloads.sort_unstable();
        Self(offloads)
    }
}

impl From<OffAndOn> for Switched {
    fn from(lists: OffAndOn) -> Self {
        let OffAndOn { mut off, on } = lists;
        off.extend(on);
        off.into()
    }
}

impl From<Switched> for OffAndOn {
    fn from(switched: Switched) -> Self {
        let (on, off) = switched.0.into_iter().partition(|one| one.wanted_on());
        Self { off, on }
    }
}

impl Deref for Switched {
    type Target = [Offload];

    fn deref(&self) -> &[Offload] {
        &self.0
    }
}

/// The offloads of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffloadFacts {
    /// Those that are not as the relay would have them, ascending.
    pub unwanted: Vec<Offload>,
    /// Those of them that the driver lets no one switch, ascending.
    pub fixed: Vec<Offload>,
}

impl OffloadFacts {
    /// Whether it takes any tags out of received frames.
    #[must_use]
    pub fn strips_tags(&self) -> bool {
        self.unwanted.iter().any(|offload| offload.strips())
    }
}

/// Reads and switches offloads, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct OffloadSwitch {
    socket: Socket,
    family: u16,
}

impl OffloadSwitch {
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

    /// The offloads of the interface with this index that are not as the relay would have them,
    /// ascending.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; ENODEV if there is no such interface.
    pub fn unwanted(&mut self, index: u32) -> io::Result<Vec<Offload>> {
        let mut unwanted = Vec::new();
        self.socket
            .ask(self.family, &features_request(index), |_, answer| {
                if let Some((_, active)) = active_features(answer) {
                    unwanted = unwanted_of(active);
                }
            })?;
        Ok(unwanted)
    }

    /// Switches `offloads` of the interface with this index to what the relay would have, or back.
    ///
    /// # Errors
    ///
    /// The kernel's refusal; EOPNOTSUPP if the driver left one of them as it was. Those before it
    /// may have changed.
    pub fn switch(&mut self, index: u32, offloads: &[Offload], back: bool) -> io::Result<()> {
        let changes = offloads
            .iter()
            .map(|offload| (offload.name(), offload.wanted_on() != back));
        let request = features_change(index, changes);
        self.socket.ask(self.family, &request, |_, _| {})?;
        let now = self.unwanted(index)?;
        match offloads.iter().all(|one| now.contains(one) == back) {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        }
    }
}

/// The offloads that are not as the relay would have them, where those in `active` are on. One that
/// the kernel does not know and the relay would have on is among them.
pub(super) fn unwanted_of(active: &[u8]) -> Vec<Offload> {
    let all = Offload::ALL.into_iter();
    all.filter(|offload| has_bit(active, offload.name()) != offload.wanted_on())
        .collect()
}
