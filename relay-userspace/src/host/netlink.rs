//! The dumps of rtnetlink and of the generic netlink family `netdev`, reduced to the fields that
//! the relay needs.
//!
//! It requests whole dumps and filters them here: a handful of messages covers any number of
//! interfaces, and a dump never matches an alternative name, which could make one interface look
//! like two.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use neli::{
    attr::Attribute as _,
    consts::{
        rtnl::{Arphrd, Ifa, IfaF, Iff, Ifla, RtAddrFamily, RtScope, Rtm},
        socket::NlFamily,
    },
    genl::{Genlmsghdr, GenlmsghdrBuilder},
    neli_enum,
    rtnl::{Ifaddrmsg, IfaddrmsgBuilder, Ifinfomsg, IfinfomsgBuilder},
    socket::synchronous::NlSocketHandle,
};

use super::{
    GsoLimits, Ipv6Address, XdpFeatures,
    netlink_dump::{Failure, connect, dump, failed, family},
};

/// Everything that the relay reads by netlink for a plan.
pub(super) struct Dump {
    pub(super) links: Vec<Link>,
    /// Interface index and address, primary addresses first.
    pub(super) addresses: Vec<(u32, Ipv4Addr)>,
    /// Interface index and IPv6 address that it may send from.
    pub(super) ipv6_addresses: Vec<(u32, Ipv6Address)>,
    /// XDP features by interface index; empty if the kernel does not report them.
    pub(super) xdp_features: HashMap<u32, XdpFeatures>,
    /// The numbers of RX and TX queues in use by interface index, for interfaces that are up; empty
    /// if the kernel does not report them.
    pub(super) queues: HashMap<u32, (u32, u32)>,
}

/// One interface, from `RTM_GETLINK`.
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `None` if the interface is not Ethernet.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    pub(super) is_up: bool,
    /// The carrier as the driver reports it now (`netif_carrier_ok`); `IFF_RUNNING` follows within
    /// a second.
    pub(super) has_carrier: bool,
    pub(super) is_loopback: bool,
    /// The queueing discipline's name.
    pub(super) qdisc: String,
    /// Its limits for one GSO packet.
    pub(super) gso: GsoLimits,
}

/// Commands of the family `netdev` (include/uapi/linux/netdev.h).
#[neli_enum(serialized_type = "u8")]
pub(super) enum NetdevCommand {
    DevGet = 1,
    QueueGet = 10,
}
impl neli::consts::genl::Cmd for NetdevCommand {}

#[neli_enum(serialized_type = "u16")]
pub(super) enum DevAttribute {
    Ifindex = 1,
    XdpFeatures = 3,
    XdpZcMaxSegs = 4,
}
impl neli::consts::genl::NlAttrType for DevAttribute {}

#[neli_enum(serialized_type = "u16")]
pub(super) enum QueueAttribute {
    Id = 1,
    Ifindex = 2,
    Type = 3,
}
impl neli::consts::genl::NlAttrType for QueueAttribute {}

/// `NETDEV_QUEUE_TYPE_RX` and `NETDEV_QUEUE_TYPE_TX`.
const QUEUE_RX: u32 = 0;
const QUEUE_TX: u32 = 1;

/// Requests everything.
pub(super) fn everything() -> Result<Dump, Failure> {
    let route = connect(NlFamily::Route, "opening a route netlink socket")?;
    let links = links(&route)?;
    let addresses = addresses(&route)?;
    let ipv6_addresses = ipv6_addresses(&route)?;
    let (xdp_features, queues) = netdev()?;
    Ok(Dump {
        links,
        addresses,
        ipv6_addresses,
        xdp_features,
        queues,
    })
}

fn links(route: &NlSocketHandle) -> Result<Vec<Link>, Failure> {
    const WHAT: &str = "listing the interfaces (RTM_GETLINK)";
    let request = IfinfomsgBuilder::default()
        .ifi_family(RtAddrFamily::Unspecified)
        .build()
        .map_err(failed(WHAT))?;
    dump(route, Rtm::Getlink.into(), request, WHAT, link)
}

fn link(message: &Ifinfomsg) -> Option<Link> {
    let attributes = message.rtattrs().get_attr_handle();
    let number = |attribute| attributes.get_attr_payload_as::<u32>(attribute).ok();
    let default = GsoLimits::default();
    let mac = attributes.get_attribute(Ifla::Address);
    let mac = mac.and_then(|mac| <[u8; 6]>::try_from(mac.payload().as_ref()).ok());
    Some(Link {
        index: message.ifi_index().unsigned_abs(),
        name: attributes
            .get_attr_payload_as_with_len::<String>(Ifla::Ifname)
            .ok()?,
        mac: mac.filter(|_| *message.ifi_type() == Arphrd::Ether),
        mtu: attributes.get_attr_payload_as::<u32>(Ifla::Mtu).ok()?,
        is_up: message.ifi_flags().contains(Iff::UP),
        has_carrier: attributes
            .get_attr_payload_as::<u8>(Ifla::Carrier)
            .is_ok_and(|carrier| carrier != 0),
        is_loopback: message.ifi_flags().contains(Iff::LOOPBACK),
        qdisc: attributes
            .get_attr_payload_as_with_len::<String>(Ifla::Qdisc)
            .unwrap_or_default(),
        gso: GsoLimits {
            bytes: [number(GSO_IPV4_MAX_SIZE), number(Ifla::GsoMaxSize)]
                .into_iter()
                .flatten()
                .fold(default.bytes, u32::min),
            segments: number(Ifla::GsoMaxSegs).unwrap_or(default.segments),
        },
    })
}

/// `IFLA_GSO_IPV4_MAX_SIZE` (include/uapi/linux/if_link.h, Linux 6.3).
const GSO_IPV4_MAX_SIZE: Ifla = Ifla::UnrecognizedConst(63);

/// The indices of all interfaces that are up and have a carrier now.
pub(super) fn all_with_carrier() -> Result<HashSet<u32>, Failure> {
    let links = links_now()?;
    let running = links.iter().filter(|link| link.is_up && link.has_carrier);
    Ok(running.map(|link| link.index).collect())
}

fn links_now() -> Result<Vec<Link>, Failure> {
    links(&connect(NlFamily::Route, "opening a route netlink socket")?)
}

fn addresses(route: &NlSocketHandle) -> Result<Vec<(u32, Ipv4Addr)>, Failure> {
    const WHAT: &str = "listing the IPv4 addresses (RTM_GETADDR)";
    let mut addresses = dump(
        route,
        Rtm::Getaddr.into(),
        addresses_of(RtAddrFamily::Inet, WHAT)?,
        WHAT,
        |message: &Ifaddrmsg| {
            let attributes = message.rtattrs().get_attr_handle();
            // IFA_LOCAL is ours; IFA_ADDRESS is the other end's on a point-to-point interface.
            let local = attributes.get_attribute(Ifa::Local)?;
            let octets = <[u8; 4]>::try_from(local.payload().as_ref()).ok()?;
            let secondary = message.ifa_flags().contains(IfaF::SECONDARY);
            Some((secondary, *message.ifa_index(), Ipv4Addr::from(octets)))
        },
    )?;
    // A stable sort keeps the kernel's order within primary and secondary addresses: the kernel
    // chooses source addresses in that order.
    addresses.sort_by_key(|(secondary, ..)| *secondary);
    Ok(addresses
        .into_iter()
        .map(|(_, index, address)| (index, address))
        .collect())
}

fn ipv6_addresses(route: &NlSocketHandle) -> Result<Vec<(u32, Ipv6Address)>, Failure> {
    const WHAT: &str = "listing the IPv6 addresses (RTM_GETADDR)";
    dump(
        route,
        Rtm::Getaddr.into(),
        addresses_of(RtAddrFamily::Inet6, WHAT)?,
        WHAT,
        |message: &Ifaddrmsg| {
            let attributes = message.rtattrs().get_attr_handle();
            // IFA_LOCAL is there only if the other end's address is known, and IFA_ADDRESS has
            // that.
            let local = attributes.get_attribute(Ifa::Local);
            let local = local.or_else(|| attributes.get_attribute(Ifa::Address))?;
            // A kernel without IPv6 answers with the addresses of IPv4.
            let octets = <[u8; 16]>::try_from(local.payload().as_ref()).ok()?;
            let flags = u8::from(*message.ifa_flags());
            let usable = Ipv6Address::usable(Ipv6Addr::from(octets), flags)?;
            Some((*message.ifa_index(), usable))
        },
    )
}

fn addresses_of(family: RtAddrFamily, what: &'static str) -> Result<Ifaddrmsg, Failure> {
    IfaddrmsgBuilder::default()
        .ifa_family(family)
        .ifa_prefixlen(0)
        .ifa_scope(RtScope::Universe)
        .ifa_index(0)
        .build()
        .map_err(failed(what))
}

#[expect(
    clippy::type_complexity,
    reason = "two maps for the only caller, which names them"
)]
fn netdev() -> Result<(HashMap<u32, XdpFeatures>, HashMap<u32, (u32, u32)>), Failure> {
    let generic = connect(NlFamily::Generic, "opening a generic netlink socket")?;
    let looking_up = "looking up the netlink family `netdev`";
    // The family exists since Linux 6.3.
    let Some(family) = family(&generic, "netdev", looking_up)? else {
        return Ok((HashMap::new(), HashMap::new()));
    };
    let features = netdev_list(
        &generic,
        family,
        NetdevCommand::DevGet,
        "asking for XDP features (netdev dev-get)",
        |message: &Genlmsghdr<_, DevAttribute>| {
            let attributes = message.attrs().get_attr_handle();
            let index = attributes.get_attr_payload_as::<u32>(DevAttribute::Ifindex);
            let bits = attributes.get_attr_payload_as::<u64>(DevAttribute::XdpFeatures);
            let features = XdpFeatures::from_bits(bits.ok()?);
            // Only of devices with zero copy, and since Linux 6.6.
            let segments = attributes.get_attr_payload_as::<u32>(DevAttribute::XdpZcMaxSegs);
            let features = match segments {
                Ok(segments) => features.with_zero_copy_segments(segments),
                Err(_) => features,
            };
            Some((index.ok()?, features))
        },
    )?;
    let listed = netdev_list(
        &generic,
        family,
        NetdevCommand::QueueGet,
        "asking for the queues (netdev queue-get)",
        |message: &Genlmsghdr<_, QueueAttribute>| {
            let attributes = message.attrs().get_attr_handle();
            let index = attributes.get_attr_payload_as::<u32>(QueueAttribute::Ifindex);
            let kind = attributes.get_attr_payload_as::<u32>(QueueAttribute::Type);
            Some((index.ok()?, kind.ok()?))
        },
    )?;
    let mut queues: HashMap<u32, (u32, u32)> = HashMap::new();
    for (index, kind) in listed {
        let (rx, tx) = queues.entry(index).or_default();
        *rx += u32::from(kind == QUEUE_RX);
        *tx += u32::from(kind == QUEUE_TX);
    }
    Ok((features.into_iter().collect(), queues))
}

/// A list of the family `netdev`; empty if the kernel does not know the command (queue-get: before
/// 6.8).
fn netdev_list<A, T>(
    socket: &NlSocketHandle,
    family: u16,
    command: NetdevCommand,
    what: &'static str,
    read: impl Fn(&Genlmsghdr<NetdevCommand, A>) -> Option<T>,
) -> Result<Vec<T>, Failure>
where
    A: neli::consts::genl::NlAttrType + fmt::Debug + 'static,
{
    let body = GenlmsghdrBuilder::<NetdevCommand, A, _>::default()
        .cmd(command)
        .version(1)
        .build()
        .map_err(failed(what))?;
    dump(socket, family, body, what, read)
}
