//! Other receivers on this host: sockets that joined a group or listen on a port, and the kernel's
//! multicast routes. A frame that the XDP program redirects to the relay reaches none of them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The kernel's lists for all interfaces of this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bystanders {
    /// How many sockets have joined, by interface index and group.
    joined: HashMap<(u32, IpAddr), u32>,
    /// Input interface and group of each multicast route.
    routed: HashSet<(String, IpAddr)>,
    /// Address and port of each UDP socket that takes datagrams of anybody.
    listening: HashSet<(IpAddr, u16)>,
}

impl Bystanders {
    /// Reads the lists; a missing list counts as empty.
    #[must_use]
    pub fn now() -> Self {
        let list = |name: &str| {
            fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
        };
        let mut all = Self {
            joined: joined(&list("igmp")),
            routed: routed(&list("ip_mr_vif"), &list("ip_mr_cache"), group),
            listening: ["udp", "udp6"]
                .iter()
                .flat_map(|name| listening(&list(name)))
                .collect(),
        };
        all.joined.extend(joined_ipv6(&list("igmp6")));
        let routed6 = routed(&list("ip6_mr_vif"), &list("ip6_mr_cache"), |group| {
            group.parse().ok().map(IpAddr::V6)
        });
        all.routed.extend(routed6);
        all
    }

    /// Leaves out sockets of the relay's own: the interface index and the group of each.
    pub fn leave_out(&mut self, own: impl IntoIterator<Item = (u32, IpAddr)>) {
        for place in own {
            if let Some(sockets) = self.joined.get_mut(&place) {
                *sockets = sockets.saturating_sub(1);
            }
        }
        self.joined.retain(|_, sockets| *sockets > 0);
    }

    /// Leaves out UDP ports that the relay holds itself.
    pub fn leave_out_ports(&mut self, own: impl IntoIterator<Item = (IpAddr, u16)>) {
        for place in own {
            self.listening.remove(&place);
        }
    }

    /// The ports on which a socket takes datagrams to `address`.
    pub fn ports(&self, address: IpAddr) -> impl Iterator<Item = u16> {
        let takes = move |bound: IpAddr| {
            // A socket of any IPv6 address usually takes IPv4 as well.
            bound == address || bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4())
        };
        let listening = self
            .listening
            .iter()
            .filter(move |(bound, _)| takes(*bound));
        listening.map(|&(_, port)| port)
    }

    /// The groups that sockets have joined on the interface with `index`.
    pub fn joined(&self, index: u32) -> impl Iterator<Item = IpAddr> {
        let joined = self.joined.keys().filter(move |(on, _)| *on == index);
        joined.map(|&(_, group)| group)
    }

    /// The groups that the kernel routes from `interface`.
    pub fn routed(&self, interface: &str) -> impl Iterator<Item = IpAddr> {
        let routed = self
            .routed
            .iter()
            .filter(move |(from, _)| from == interface);
        routed.map(|&(_, group)| group)
    }

    /// Adds a socket that has joined.
    #[cfg(test)]
    pub(crate) fn with_joined(mut self, index: u32, group: impl Into<IpAddr>) -> Self {
        *self.joined.entry((index, group.into())).or_default() += 1;
        self
    }

    /// Adds a socket that listens.
    #[cfg(test)]
    pub(crate) fn with_listening(mut self, address: impl Into<IpAddr>, port: u16) -> Self {
        self.listening.insert((address.into(), port));
        self
    }

    /// Adds a route.
    #[cfg(test)]
    pub(crate) fn with_routed(mut self, interface: &str, group: impl Into<IpAddr>) -> Self {
        self.routed.insert((interface.to_owned(), group.into()));
        self
    }
}

/// Reads an IPv4 group: the kernel prints the big-endian address as a number in native byte order.
fn group(hex: &str) -> Option<IpAddr> {
    let bits = u32::from_str_radix(hex, 16).ok()?;
    Some(Ipv4Addr::from(bits.to_ne_bytes()).into())
}

/// Reads `/proc/net/igmp` (net/ipv4/igmp.c): one line per interface, which begins with its index,
/// and below it, indented, one line per group with the number of sockets that have joined.
fn joined(list: &str) -> HashMap<(u32, IpAddr), u32> {
    let mut joined = HashMap::new();
    let mut interface = None;
    for line in list.lines().skip(1) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if !line.starts_with('\t') {
            interface = first.parse().ok();
            continue;
        }
        let users = words.next().and_then(|users| users.parse().ok());
        if let (Some(interface), Some(group), Some(users)) = (interface, group(first), users) {
            joined.insert((interface, group), users);
        }
    }
    joined
}

/// Reads `/proc/net/igmp6` (net/ipv6/mcast.c): one line per interface and group: the interface's
/// index and name, the group in hexadecimal digits, the number of sockets that have joined.
fn joined_ipv6(list: &str) -> impl Iterator<Item = ((u32, IpAddr), u32)> {
    list.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        let users = words.next()?.parse().ok()?;
        Some(((index, Ipv6Addr::from_bits(group).into()), users))
    })
}

/// Reads `/proc/net/udp` or `/proc/net/udp6` (net/ipv4/udp.c): one line per socket, with its own
/// address and port, those of its peer, and its state. The address is in words of 32 bits in native
/// byte order.
fn listening(list: &str) -> Vec<(IpAddr, u16)> {
    /// `TCP_CLOSE` (net/tcp_states.h): not connected.
    const UNCONNECTED: &str = "07";
    let one = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        if words.nth(1)? != UNCONNECTED {
            return None;
        }
        let word = |at: usize| u32::from_str_radix(address.get(8 * at..8 * at + 8)?, 16).ok();
        let first = word(0)?.to_ne_bytes();
        let address = match address.len() {
            8 => IpAddr::from(first),
            _ => {
                let rest = [word(1)?, word(2)?, word(3)?].map(u32::to_ne_bytes);
                let octets = [first, rest[0], rest[1], rest[2]].concat();
                IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)
            }
        };
        Some((address, u16::from_str_radix(port, 16).ok()?))
    };
    list.lines().skip(1).filter_map(one).collect()
}

/// Reads the multicast routes: `/proc/net/ip_mr_vif` numbers the interfaces, and
/// `/proc/net/ip_mr_cache` has for each route the group, the origin and the number of the input
/// (net/ipv4/ipmr.c). `ip6_mr_vif` and `ip6_mr_cache` have the same (net/ipv6/ip6mr.c), with
/// another spelling of groups, which `group` reads.
fn routed(
    vifs: &str,
    cache: &str,
    group: impl Fn(&str) -> Option<IpAddr>,
) -> HashSet<(String, IpAddr)> {
    let names: HashMap<&str, &str> = vifs
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .collect();
    let routes = cache.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let group = group(words.next()?)?;
        let input = names.get(words.nth(1)?)?;
        Some(((*input).to_owned(), group))
    });
    routes.collect()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::testing::{in_namespace, run};

    #[test]
    fn a_socket_that_joins_is_seen_until_it_is_closed_and_not_if_it_is_the_relays() {
        in_namespace(|| {
            run("ip link add name va index 71 type veth peer name vb");
            run("ip address add 10.9.9.1/24 dev va");
            run("ip link set va up");
            let group = Ipv4Addr::new(239, 1, 2, 3);
            let group6: Ipv6Addr = "ff3e::8000:1".parse().unwrap();
            let seen = |own: u32| {
                let mut all = Bystanders::now();
                for group in [group.into(), group6.into()] {
                    all.leave_out((0..own).map(|_| (71, group)));
                }
                assert_eq!(all.joined(72).count(), 0);
                let is_there = |group: IpAddr| all.joined(71).any(|one| one == group);
                (is_there(group.into()), is_there(group6.into()))
            };
            assert_eq!(seen(0), (false, false));
            let join = || {
                let ipv4 = UdpSocket::bind("0.0.0.0:0").unwrap();
                let at = Ipv4Addr::new(10, 9, 9, 1);
                ipv4.join_multicast_v4(&group, &at).unwrap();
                let ipv6 = UdpSocket::bind("[::]:0").unwrap();
                ipv6.join_multicast_v6(&group6, 71).unwrap();
                (ipv4, ipv6)
            };
            let both = (join(), join());
            assert_eq!(seen(0), (true, true));
            assert_eq!(seen(1), (true, true));
            assert_eq!(seen(2), (false, false));
            drop(both);
            assert_eq!(seen(0), (false, false));
        });
    }

    #[test]
    fn a_socket_listens_on_its_port_until_it_is_connected_or_closed() {
        in_namespace(|| {
            run("ip link set lo up");
            let (ipv4, ipv6): (IpAddr, IpAddr) =
                (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
            let ports = |address| {
                let mut ports: Vec<u16> = Bystanders::now().ports(address).collect();
                ports.sort_unstable();
                ports
            };
            assert_eq!((ports(ipv4), ports(ipv6)), (vec![], vec![]));
            let sockets = [
                UdpSocket::bind((ipv4, 5001)).unwrap(),
                UdpSocket::bind((ipv6, 5002)).unwrap(),
                UdpSocket::bind(("0.0.0.0", 5003)).unwrap(),
                UdpSocket::bind(("::", 5004)).unwrap(),
            ];
            assert_eq!(ports(ipv4), [5001, 5003, 5004]);
            assert_eq!(ports(ipv6), [5002, 5004]);
            let mut all = Bystanders::now();
            all.leave_out_ports([(ipv4, 5001), (ipv4, 5003)]);
            assert_eq!(
                all.ports(ipv4)
                    .filter(|&port| port < 5004)
                    .collect::<Vec<_>>(),
                [5003]
            );
            sockets[0].connect((ipv4, 9)).unwrap();
            assert_eq!(ports(ipv4), [5003, 5004]);
            drop(sockets);
            assert_eq!((ports(ipv4), ports(ipv6)), (vec![], vec![]));
        });
    }

    #[test]
    fn a_route_belongs_to_its_input() {
        let vifs = "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags Local    Remote\n \
                    0 in0               0       0         0       0 00000 010A0A0A 00000000\n \
                    1 out0              0       0         0       0 00000 020A0A0A 00000000\n";
        let hex = format!("{:08X}", u32::from_ne_bytes([239, 1, 1, 1]));
        let cache = format!(
            "Group    Origin   Iif     Pkts    Bytes    Wrong Oifs\n{hex} 0A00000A 0 1 2 0 1:1\n"
        );
        let all = Bystanders {
            routed: routed(vifs, &cache, group),
            ..Bystanders::default()
        };
        let group = IpAddr::from([239, 1, 1, 1]);
        assert_eq!(all.routed("in0").collect::<Vec<_>>(), [group]);
        assert_eq!(all.routed("out0").count(), 0);
    }
}
