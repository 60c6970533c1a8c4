//! Facts about this host and the interfaces of this network namespace: everything that a plan
//! needs.
//!
//! The facts are a snapshot; [`super::watch`] reports later changes.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use super::{
    Ipv6Address, ethtool,
    gso_limits::GsoLimits,
    membership_versions::MembershipVersions,
    netlink,
    offloads::OffloadFacts,
    other_receivers::Bystanders,
    routes::{NoRoute, Route, RouteQuery, Routing},
};

/// One interface as the kernel describes it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// The name.
    pub name: String,
    /// The kernel's interface index.
    pub index: u32,
    /// The hardware address; `None` if this is no Ethernet interface.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet in bytes.
    pub mtu: u32,
    /// The IPv4 addresses, primary ones first.
    pub addresses: Vec<Ipv4Addr>,
    /// The IPv6 addresses that it may send from, in the kernel's order.
    pub ipv6_addresses: Vec<Ipv6Address>,
    /// Administratively up; says nothing about the carrier.
    pub is_up: bool,
    /// The loopback interface.
    pub is_loopback: bool,
    /// The driver's name; `unknown` if the kernel does not report it.
    pub driver: String,
    /// The RX queues in use now, not those allocated.
    pub rx_queues: u32,
    /// The TX queues in use now, not those allocated.
    pub tx_queues: u32,
    /// It takes UDP GSO packets whole (`tx-udp-segmentation`): the hardware or the receiver cuts
    /// them into datagrams. Otherwise the kernel cuts them directly before the driver.
    pub segments_udp: bool,
    /// What it does with the VLAN tags of received frames. Where it takes them out, an XDP program
    /// sees a tagged frame without its tag; for a veth it says nothing about that, see
    /// [`InterfaceFacts::tag_may_be_beside`].
    pub offloads: OffloadFacts,
    /// It has no queueing discipline, like most virtual interfaces: it sends or drops every frame
    /// at once.
    pub queueless: bool,
    /// Its limits for one GSO packet.
    pub gso: GsoLimits,
    /// The driver's XDP features; `None` if the kernel does not report them (before 6.3).
    pub xdp: Option<XdpFeatures>,
}

impl InterfaceFacts {
    /// Whether it is a veth: the other end decides whether a tag arrives in the bytes or beside
    /// them (`tx-vlan-offload` there), and its own `rx-vlan-offload` changes nothing
    /// (drivers/net/veth.c).
    #[must_use]
    pub fn tag_may_be_beside(&self) -> bool {
        self.driver == "veth"
    }
}

/// The `xdp-features` of the generic netlink family `netdev` (include/uapi/linux/netdev.h), and its
/// `xdp-zc-max-segs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures {
    bits: u64,
    zero_copy_segments: u32,
}

impl XdpFeatures {
    /// `NETDEV_XDP_ACT_BASIC`: native XDP_PASS, XDP_DROP, XDP_ABORTED, XDP_TX.
    pub const BASIC: u64 = 1 << 0;
    /// `NETDEV_XDP_ACT_REDIRECT`: native XDP_REDIRECT.
    pub const REDIRECT: u64 = 1 << 1;
    /// `NETDEV_XDP_ACT_XSK_ZEROCOPY`: AF_XDP without copying.
    pub const XSK_ZEROCOPY: u64 = 1 << 3;

    /// The features that the kernel's bits stand for.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            bits,
            zero_copy_segments: 1,
        }
    }

    /// The same of a driver that takes so many descriptors as one frame in zero copy.
    #[must_use]
    pub fn with_zero_copy_segments(self, segments: u32) -> Self {
        Self {
            zero_copy_segments: segments,
            ..self
        }
    }

    /// How many descriptors the driver takes as one frame in zero copy.
    #[must_use]
    pub fn zero_copy_segments(self) -> u32 {
        self.zero_copy_segments
    }

    /// Whether the driver can redirect frames into AF_XDP sockets in native mode.
    #[must_use]
    pub fn native(self) -> bool {
        self.bits & (Self::BASIC | Self::REDIRECT) == Self::BASIC | Self::REDIRECT
    }

    /// Whether the driver can share the UMEM with the NIC.
    #[must_use]
    pub fn zero_copy(self) -> bool {
        self.native() && self.bits & Self::XSK_ZEROCOPY != 0
    }
}

/// Why the facts about an interface are not available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// No interface has this name.
    #[error("there is no interface `{name}` in this network namespace")]
    Missing {
        /// The name that was looked for.
        name: String,
        /// The names of the interfaces that exist.
        present: Vec<String>,
    },
    /// The kernel refused a request.
    #[error("interface `{name}`: {what}: {error}")]
    Refused {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's error.
        error: String,
    },
}

impl HostError {
    /// The name of the interface that the error is about.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Missing { name, .. } | Self::Refused { name, .. } => name,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        /// The most names shown: more would bury the message on a host with hundreds of virtual
        /// interfaces.
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

/// The facts about the host, and about the interfaces that the caller named.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// The interfaces whose facts are known, by name.
    pub interfaces: HashMap<String, InterfaceFacts>,
    /// The errors, at most one per interface.
    pub failures: Vec<HostError>,
    /// The CPUs that are configured; valid numbers are below this.
    pub cpus: u32,
    /// Packet sockets take UDP GSO packets (`VIRTIO_NET_HDR_GSO_UDP_L4`), which the kernel or the
    /// NIC cuts into datagrams.
    pub gso_packets: bool,
    /// Every address that this host can be sent to by, with the names of the interfaces that have
    /// it.
    pub addresses: HashMap<IpAddr, Vec<String>>,
    /// Other receivers of multicast on this host.
    pub bystanders: Bystanders,
    /// Why no TAP device can be made here, with what to do. Only known if a rule needs one.
    pub no_tap: Option<String>,
    /// What the interfaces speak to join groups.
    pub versions: MembershipVersions,
    /// Where the kernel's routing leads, for each destination that the caller named. A route leads
    /// through one of [`Self::interfaces`].
    pub routes: HashMap<Destination, RouteAnswer>,
}

impl HostFacts {
    /// The kernel's refusal, if it told nothing about the interfaces.
    #[must_use]
    pub fn refusal(&self) -> Option<&HostError> {
        let mut failures = self.failures.iter();
        failures.find(|failure| matches!(failure, HostError::Refused { .. }))
    }

    /// What was known `before` in the place of what the kernel did not tell. What it did not tell
    /// about interfaces that were not known stays a failure.
    #[must_use]
    pub fn or_known(self, before: &Self) -> Self {
        if self.refusal().is_none() {
            return self;
        }
        let unknown = |failure: &HostError| !before.interfaces.contains_key(failure.name());
        let mut known = before.clone();
        known.failures = self.failures.into_iter().filter(unknown).collect();
        known
    }
}

/// What the kernel's routing decides on, with an interface as rules know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// The name of the interface, if that is given.
    pub interface: Option<String>,
    /// The rest; it has no interface.
    pub query: RouteQuery,
}

/// What the kernel was asked, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAnswer {
    /// With the index of the interface, if that is given.
    pub query: RouteQuery,
    /// The way, or why there is none.
    pub answer: Result<Route, NoRoute>,
}

/// The facts about one interface.
///
/// # Errors
///
/// There is no such interface, or the kernel refused a request.
#[cfg(test)]
pub fn facts(name: &str) -> Result<InterfaceFacts, HostError> {
    let mut host_facts = facts_for([name], &BTreeSet::new(), Vec::new());
    match (
        host_facts.interfaces.remove(name),
        host_facts.failures.pop(),
    ) {
        (Some(facts), _) => Ok(facts),
        (None, Some(error)) => Err(error),
        (None, None) => Err(HostError::Missing {
            name: name.to_owned(),
            present: Vec::new(),
        }),
    }
}

/// The indices of all interfaces that are up and have a carrier now.
///
/// # Errors
///
/// What was tried, and the kernel's error.
pub fn with_carrier() -> Result<HashSet<u32>, String> {
    netlink::all_with_carrier().map_err(|(what, error)| format!("{what}: {error}"))
}

/// The facts about the host and all interfaces in `names`, each once, and the errors; and the
/// routes to `destinations`, with the interfaces that they lead through. `known` has the indices of
/// interfaces that had some of the names before: where no interface has such a name any more, the
/// one with the index goes on under it.
pub fn facts_for<'a>(
    names: impl IntoIterator<Item = &'a str>,
    known: &BTreeSet<(String, u32)>,
    destinations: Vec<Destination>,
) -> HostFacts {
    let mut host_facts = HostFacts {
        cpus: configured_cpus(),
        gso_packets: kernel_version() >= GSO_PACKETS_SINCE,
        bystanders: Bystanders::now(),
        ..HostFacts::default()
    };
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    let dump = match netlink::everything() {
        Ok(dump) => dump,
        Err((what, error)) => {
            let refused = |name: &str| HostError::Refused {
                name: name.into(),
                what,
                error: error.clone(),
            };
            host_facts.failures.extend(names.into_iter().map(refused));
            return host_facts;
        }
    };
    for name in names {
        match one(name, &dump).or_else(|error| renamed(name, known, &dump).ok_or(error)) {
            Ok(facts) => {
                host_facts.interfaces.insert(name.to_owned(), facts);
            }
            Err(error) => host_facts.failures.push(error),
        }
    }
    host_facts.addresses = addresses(&dump);
    routes(&mut host_facts, known, &dump, destinations);
    let links = dump.links.iter();
    host_facts.versions =
        MembershipVersions::now(links.map(|link| (link.index, link.name.as_str())));
    host_facts
}

/// Adds the routes to `destinations`, and the interfaces that they lead through. An interface that
/// is in use goes on under its old name here, too.
fn routes(
    host_facts: &mut HostFacts,
    known: &BTreeSet<(String, u32)>,
    dump: &netlink::Dump,
    destinations: Vec<Destination>,
) {
    if destinations.is_empty() {
        return;
    }
    let mut routing = Routing::open();
    let mut names: HashMap<u32, String> = HashMap::new();
    names.extend(known.iter().map(|(name, index)| (*index, name.clone())));
    let interfaces = host_facts.interfaces.values();
    names.extend(interfaces.map(|facts| (facts.index, facts.name.clone())));
    for destination in destinations {
        let mut query = destination.query;
        if let Some(name) = &destination.interface {
            // One that is missing is no question of routes.
            let Some(facts) = host_facts.interfaces.get(name) else {
                continue;
            };
            query.interface = Some(facts.index);
        }
        let answer = match &mut routing {
            Ok(routing) => routing.look_up(&query),
            Err(error) => Err(NoRoute::Refused(error.to_string())),
        };
        let answer = answer.and_then(|route| {
            let index = route.interface;
            let found = dump.links.iter().find(|link| link.index == index);
            // It came after the list was made; the watcher reports it.
            let link = found.ok_or(NoRoute::Missing)?;
            let name = names.entry(index).or_insert_with(|| link.name.clone());
            if !host_facts.interfaces.contains_key(name) {
                match one(&link.name, dump) {
                    Ok(facts) => {
                        let name = name.clone();
                        let facts = InterfaceFacts { name, ..facts };
                        host_facts.interfaces.insert(facts.name.clone(), facts);
                    }
                    Err(error) => return Err(NoRoute::Refused(error.to_string())),
                }
            }
            Ok(route)
        });
        host_facts
            .routes
            .insert(destination, RouteAnswer { query, answer });
    }
}

/// The facts about the interface that was called `name`, as far as it is known.
fn renamed(
    name: &str,
    known: &BTreeSet<(String, u32)>,
    dump: &netlink::Dump,
) -> Option<InterfaceFacts> {
    let (_, index) = known.iter().find(|(known, _)| known == name)?;
    let link = dump.links.iter().find(|link| link.index == *index)?;
    let facts = one(&link.name, dump).ok()?;
    Some(InterfaceFacts {
        name: name.to_owned(),
        ..facts
    })
}

fn one(name: &str, dump: &netlink::Dump) -> Result<InterfaceFacts, HostError> {
    let Some(link) = dump.links.iter().find(|link| link.name == name) else {
        let present = dump.links.iter().map(|link| link.name.clone()).collect();
        return Err(HostError::Missing {
            name: name.to_owned(),
            present,
        });
    };
    let driver = ethtool::driver(name)
        .map_err(|error| HostError::Refused {
            name: name.to_owned(),
            what: "asking for its driver (ETHTOOL_GDRVINFO)",
            error: error.to_string(),
        })?
        .unwrap_or_else(|| "unknown".to_owned());
    let (rx_queues, tx_queues) = queues(name, link, dump)?;
    let offloads = ethtool::offloads(name).map_err(|error| HostError::Refused {
        name: name.to_owned(),
        what: "asking for its features (ETHTOOL_GFEATURES)",
        error: error.to_string(),
    })?;
    Ok(InterfaceFacts {
        name: name.to_owned(),
        index: link.index,
        mac: link.mac,
        mtu: link.mtu,
        addresses: of_link(&dump.addresses, link),
        ipv6_addresses: of_link(&dump.ipv6_addresses, link),
        is_up: link.is_up,
        is_loopback: link.is_loopback,
        rx_queues,
        tx_queues,
        segments_udp: offloads.segments_udp,
        offloads: offloads.received,
        // An interface that is down has no queueing discipline of its own: "noop".
        queueless: link.qdisc == "noqueue" || (link.qdisc == "noop" && driver == "veth"),
        driver,
        gso: link.gso,
        xdp: dump.xdp_features.get(&link.index).copied(),
    })
}

/// The interfaces that have each address.
fn addresses(dump: &netlink::Dump) -> HashMap<IpAddr, Vec<String>> {
    let mut all: HashMap<IpAddr, Vec<String>> = HashMap::new();
    for link in &dump.links {
        let ipv4 = of_link(&dump.addresses, link).into_iter().map(IpAddr::V4);
        let ipv6 = of_link(&dump.ipv6_addresses, link).into_iter();
        for address in ipv4.chain(ipv6.map(|one| IpAddr::V6(one.address))) {
            all.entry(address).or_default().push(link.name.clone());
        }
    }
    all
}

/// What a list has for a link.
fn of_link<T: Copy>(all: &[(u32, T)], link: &netlink::Link) -> Vec<T> {
    let of_link = all.iter().filter(|(index, _)| *index == link.index);
    of_link.map(|(_, one)| *one).collect()
}

/// The numbers of RX and TX queues in use.
///
/// The `netdev` family (since 6.8) lists exactly the queues in use, for every driver, but only of
/// an interface that is up. The ethtool channels are right for an interface that is down, too, if
/// the driver implements them. `IFLA_NUM_RX_QUEUES` is no source: it counts the allocated queues.
/// With neither source, one queue of each kind is assumed, which every interface has.
fn queues(name: &str, link: &netlink::Link, dump: &netlink::Dump) -> Result<(u32, u32), HostError> {
    if let Some(&queues) = dump.queues.get(&link.index) {
        return Ok(queues);
    }
    let channels = ethtool::channels(name).map_err(|error| HostError::Refused {
        name: name.to_owned(),
        what: "asking for its queues (ETHTOOL_GCHANNELS)",
        error: error.to_string(),
    })?;
    Ok(channels.unwrap_or((1, 1)))
}

/// The first kernel whose packet sockets take UDP GSO packets (include/linux/virtio_net.h).
const GSO_PACKETS_SINCE: (u32, u32) = (6, 2);

/// The running kernel's version; (0, 0) if it cannot be read.
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
