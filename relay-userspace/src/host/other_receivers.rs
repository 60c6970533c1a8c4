//! Other receivers of multicast on this host: sockets that joined a group, and the kernel's
//! multicast routes. A frame that the XDP program redirects to the relay reaches none of them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::Ipv4Addr,
};

/// The kernel's lists for all interfaces of this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bystanders {
    /// How many sockets have joined, by interface index and group.
    joined: HashMap<(u32, Ipv4Addr), u32>,
    /// Input interface and group of each multicast route.
    routed: HashSet<(String, Ipv4Addr)>,
}

impl Bystanders {
    /// Reads the lists; a missing list counts as empty.
    #[must_use]
    pub fn now() -> Self {
        let list = |name: &str| {
            fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
        };
        Self {
            joined: joined(&list("igmp")),
            routed: routed(&list("ip_mr_vif"), &list("ip_mr_cache")),
        }
    }

    /// How many sockets have joined `group` on the interface with `index`.
    #[must_use]
    pub fn sockets(&self, index: u32, group: Ipv4Addr) -> u32 {
        self.joined.get(&(index, group)).copied().unwrap_or(0)
    }

    /// Whether the kernel routes `group` from `interface`.
    #[must_use]
    pub fn is_routed(&self, interface: &str, group: Ipv4Addr) -> bool {
        self.routed.contains(&(interface.to_owned(), group))
    }

    /// The groups that sockets have joined on the interface with `index`.
    pub fn joined(&self, index: u32) -> impl Iterator<Item = Ipv4Addr> {
        let joined = self.joined.keys().filter(move |(on, _)| *on == index);
        joined.map(|&(_, group)| group)
    }

    /// The groups that the kernel routes from `interface`.
    pub fn routed(&self, interface: &str) -> impl Iterator<Item = Ipv4Addr> {
        let routed = self
            .routed
            .iter()
            .filter(move |(from, _)| from == interface);
        routed.map(|&(_, group)| group)
    }

    /// Adds a socket that has joined.
    #[cfg(test)]
    pub(crate) fn with_joined(mut self, index: u32, group: Ipv4Addr) -> Self {
        *self.joined.entry((index, group)).or_default() += 1;
        self
    }

    /// Adds a route.
    #[cfg(test)]
    pub(crate) fn with_routed(mut self, interface: &str, group: Ipv4Addr) -> Self {
        self.routed.insert((interface.to_owned(), group));
        self
    }
}

/// Reads a group: the kernel prints the big-endian address as a number in native byte order.
fn group(hex: &str) -> Option<Ipv4Addr> {
    let bits = u32::from_str_radix(hex, 16).ok()?;
    Some(Ipv4Addr::from(bits.to_ne_bytes()))
}

/// Reads `/proc/net/igmp` (net/ipv4/igmp.c): one line per interface, which begins with its index,
/// and below it, indented, one line per group with the number of sockets that have joined.
fn joined(list: &str) -> HashMap<(u32, Ipv4Addr), u32> {
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

/// Reads the multicast routes: `/proc/net/ip_mr_vif` numbers the interfaces, and
/// `/proc/net/ip_mr_cache` has for each route the group, the origin and the number of the input
/// (net/ipv4/ipmr.c).
fn routed(vifs: &str, cache: &str) -> HashSet<(String, Ipv4Addr)> {
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
    fn a_socket_that_joins_is_seen_until_it_is_closed() {
        in_namespace(|| {
            run("ip link add name va index 71 type veth peer name vb");
            run("ip address add 10.9.9.1/24 dev va");
            run("ip link set va up");
            let group = Ipv4Addr::new(239, 1, 2, 3);
            let sockets = || Bystanders::now().sockets(71, group);
            assert_eq!(sockets(), 0);
            let join = || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket
                    .join_multicast_v4(&group, &Ipv4Addr::new(10, 9, 9, 1))
                    .unwrap();
                socket
            };
            let (first, second) = (join(), join());
            assert_eq!(sockets(), 2);
            assert_eq!(Bystanders::now().sockets(72, group), 0);
            drop((first, second));
            assert_eq!(sockets(), 0);
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
            routed: routed(vifs, &cache),
            ..Bystanders::default()
        };
        let group = Ipv4Addr::new(239, 1, 1, 1);
        assert!(all.is_routed("in0", group));
        assert!(!all.is_routed("out0", group));
        assert!(!all.is_routed("in0", Ipv4Addr::new(239, 1, 1, 2)));
    }
}
