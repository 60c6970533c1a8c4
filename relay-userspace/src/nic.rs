//! Facts about the interfaces of this network namespace: all that a plan needs to know.
//!
//! Everything comes from netlink and from ioctls on sockets of the calling thread, never from
//! `/sys`: that shows the namespace it was mounted for, which need not be ours.

mod bystanders;
mod dump;
mod ethtool;
#[cfg(test)]
pub(crate) mod fixture;
mod gso;
mod message;
mod netlink;
#[cfg(test)]
mod tests;
pub mod watch;

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

pub use bystanders::Bystanders;
pub use gso::GsoLimits;

/// One interface as the kernel describes it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The name.
    pub name: String,
    /// The kernel's interface index.
    pub index: u32,
    /// The hardware address; `None` when this is no Ethernet interface.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet in bytes.
    pub mtu: u32,
    /// The IPv4 addresses, primary ones first.
    pub addresses: Vec<Ipv4Addr>,
    /// Administratively up. A carrier is another matter.
    pub is_up: bool,
    /// The loopback interface.
    pub is_loopback: bool,
    /// The driver's name, `unknown` where the kernel does not tell.
    pub driver: String,
    /// The RX queues in use now, not those allocated.
    pub rx_queues: u32,
    /// The TX queues in use now, not those allocated.
    pub tx_queues: u32,
    /// It takes UDP super-frames whole (`tx-udp-segmentation`): the hardware cuts them apart, or whoever receives
    /// them. Otherwise the kernel does right before the driver.
    pub segments_udp: bool,
    /// It takes VLAN tags out of received frames (`rx-vlan-hw-parse`, `rx-vlan-stag-hw-parse`), so
    /// that an XDP program sees a tagged frame without its tag. Of a veth this says nothing, see
    /// [`Facts::tag_may_be_beside`].
    pub strips_tags: bool,
    /// It has no queueing discipline, as most virtual interfaces: what the kernel gives it is sent or dropped at once.
    pub queueless: bool,
    /// What it takes in one GSO packet.
    pub gso: GsoLimits,
    /// What the driver can do with XDP; `None` when the kernel does not tell (before 6.3).
    pub xdp: Option<XdpFeatures>,
}

impl Facts {
    /// It is a veth: its other end, not it, decides whether a tag comes in the bytes or beside them
    /// (`tx-vlan-offload` there), and its own `rx-vlan-offload` changes nothing
    /// (drivers/net/veth.c).
    #[must_use]
    pub fn tag_may_be_beside(&self) -> bool {
        self.driver == "veth"
    }
}

/// The `xdp-features` of the generic netlink family `netdev` (include/uapi/linux/netdev.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// `NETDEV_XDP_ACT_BASIC`: native XDP_PASS, XDP_DROP, XDP_ABORTED, XDP_TX.
    pub const BASIC: u64 = 1 << 0;
    /// `NETDEV_XDP_ACT_REDIRECT`: native XDP_REDIRECT.
    pub const REDIRECT: u64 = 1 << 1;
    /// `NETDEV_XDP_ACT_XSK_ZEROCOPY`: AF_XDP without copying.
    pub const XSK_ZEROCOPY: u64 = 1 << 3;

    /// From the kernel's bits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Can redirect frames into AF_XDP sockets in native mode.
    #[must_use]
    pub fn native(self) -> bool {
        self.0 & (Self::BASIC | Self::REDIRECT) == Self::BASIC | Self::REDIRECT
    }

    /// Can share the UMEM with the NIC.
    #[must_use]
    pub fn zero_copy(self) -> bool {
        self.native() && self.0 & Self::XSK_ZEROCOPY != 0
    }
}

/// Why the facts about an interface cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NicError {
    /// No interface has this name.
    #[error("there is no interface `{name}` in this network namespace")]
    Missing {
        /// The name that was looked for.
        name: String,
        /// The names that there are.
        present: Vec<String>,
    },
    /// The kernel refused to tell.
    #[error("interface `{name}`: {what}: {error}")]
    Refused {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: String,
    },
}

impl NicError {
    /// The interface that this is about.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Missing { name, .. } | Self::Refused { name, .. } => name,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        /// More would bury the message on a host with hundreds of virtual interfaces.
        const SHOWN: usize = 16;
        match self {
            Self::Missing { present, .. } => {
                let shown: Vec<&str> = present.iter().take(SHOWN).map(String::as_str).collect();
                let more = if present.len() > SHOWN { ", ..." } else { "" };
                format!("`ip link show` lists: {}{more}", shown.join(", "))
            }
            Self::Refused { .. } => {
                "try `ip -d link show` and `ethtool -l` as this user in this network namespace"
                    .into()
            }
        }
    }
}

/// What is known about the machine and the interfaces that were asked for.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The interfaces that are there, by name.
    pub interfaces: HashMap<String, Facts>,
    /// What could not be found out, at most one an interface.
    pub failures: Vec<NicError>,
    /// The CPUs that are configured; valid numbers are below this.
    pub cpus: u32,
    /// Packet sockets take UDP super-frames (`VIRTIO_NET_HDR_GSO_UDP_L4`), and the kernel or the NIC cuts them apart.
    pub super_frames: bool,
    /// Who else on this host receives multicast.
    pub bystanders: Bystanders,
}

/// The facts about one interface.
///
/// # Errors
///
/// There is no such interface, or the kernel does not tell.
pub fn facts(name: &str) -> Result<Facts, NicError> {
    let mut survey = facts_for([name]);
    match (survey.interfaces.remove(name), survey.failures.pop()) {
        (Some(facts), _) => Ok(facts),
        (None, Some(error)) => Err(error),
        (None, None) => Err(NicError::Missing {
            name: name.to_owned(),
            present: Vec::new(),
        }),
    }
}

/// The indices of all interfaces with a carrier at this moment.
///
/// # Errors
///
/// What the kernel said when it was asked.
pub fn with_carrier() -> Result<HashSet<u32>, String> {
    netlink::all_with_carrier().map_err(|(what, error)| format!("{what}: {error}"))
}

/// The facts about all of `names`, each once, and what could not be found out.
pub fn facts_for<'a>(names: impl IntoIterator<Item = &'a str>) -> Survey {
    let mut survey = Survey {
        cpus: configured_cpus(),
        super_frames: kernel_version() >= SUPER_FRAMES_SINCE,
        bystanders: Bystanders::now(),
        ..Survey::default()
    };
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let dump = match netlink::everything() {
        Ok(dump) => dump,
        Err((what, error)) => {
            let refused = |name: &str| NicError::Refused {
                name: name.into(),
                what,
                error: error.clone(),
            };
            survey.failures.extend(names.into_iter().map(refused));
            return survey;
        }
    };
    for name in names {
        match one(name, &dump) {
            Ok(facts) => {
                survey.interfaces.insert(name.to_owned(), facts);
            }
            Err(error) => survey.failures.push(error),
        }
    }
    survey
}

fn one(name: &str, dump: &netlink::Dump) -> Result<Facts, NicError> {
    let Some(link) = dump.links.iter().find(|link| link.name == name) else {
        let present = dump.links.iter().map(|link| link.name.clone()).collect();
        return Err(NicError::Missing {
            name: name.to_owned(),
            present,
        });
    };
    let driver = ethtool::driver(name)
        .map_err(|error| NicError::Refused {
            name: name.to_owned(),
            what: "asking for its driver (ETHTOOL_GDRVINFO)",
            error: error.to_string(),
        })?
        .unwrap_or_else(|| "unknown".to_owned());
    let (rx_queues, tx_queues) = queues(name, link, dump)?;
    let offloads = ethtool::offloads(name).map_err(|error| NicError::Refused {
        name: name.to_owned(),
        what: "asking for its features (ETHTOOL_GFEATURES)",
        error: error.to_string(),
    })?;
    let of_link = |(index, address): &(u32, Ipv4Addr)| (*index == link.index).then_some(*address);
    Ok(Facts {
        name: name.to_owned(),
        index: link.index,
        mac: link.mac,
        mtu: link.mtu,
        addresses: dump.addresses.iter().filter_map(of_link).collect(),
        is_up: link.is_up,
        is_loopback: link.is_loopback,
        rx_queues,
        tx_queues,
        segments_udp: offloads.segments_udp,
        strips_tags: offloads.strips_tags && driver != "veth",
        // While it is down, an interface has no discipline of its own.
        queueless: link.qdisc == "noqueue" || (link.qdisc == "noop" && driver == "veth"),
        driver,
        gso: link.gso,
        xdp: dump
            .xdp_features
            .get(&link.index)
            .map(|bits| XdpFeatures(*bits)),
    })
}

/// The numbers of RX and TX queues in use.
///
/// The `netdev` family (since 6.8) lists exactly the queues in use, whatever the driver, but only
/// of an interface that is up. The ethtool channels are right on a downed interface too, where
/// the driver implements them. `IFLA_NUM_RX_QUEUES` is no source: it counts what is allocated.
/// A driver that offers neither way is given one queue, which every interface has.
fn queues(name: &str, link: &netlink::Link, dump: &netlink::Dump) -> Result<(u32, u32), NicError> {
    if let Some(&queues) = dump.queues.get(&link.index) {
        return Ok(queues);
    }
    let channels = ethtool::channels(name).map_err(|error| NicError::Refused {
        name: name.to_owned(),
        what: "asking for its queues (ETHTOOL_GCHANNELS)",
        error: error.to_string(),
    })?;
    Ok(channels.unwrap_or((1, 1)))
}

/// The first kernel whose packet sockets take UDP super-frames (include/linux/virtio_net.h).
const SUPER_FRAMES_SINCE: (u32, u32) = (6, 2);

/// The running kernel's version, (0, 0) where it cannot be read.
fn kernel_version() -> (u32, u32) {
    let release = nix::sys::utsname::uname().ok();
    let mut numbers = release
        .as_ref()
        .and_then(|name| name.release().to_str())
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn configured_cpus() -> u32 {
    use nix::unistd::{SysconfVar, sysconf};
    let count = sysconf(SysconfVar::_NPROCESSORS_CONF).ok().flatten();
    count
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(1)
}
