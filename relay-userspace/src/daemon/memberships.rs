//! Multicast memberships: AF_XDP sockets cannot join groups, so UDP sockets join for them.
//!
//! A membership makes the kernel send and answer IGMP, and programs the NIC's filter. It lives as
//! long as its socket. The sockets are never bound, so the kernel queues no datagram on them. They
//! are closed newest first: any other order takes time that grows with the square of the groups.

use std::{collections::BTreeSet, fs, io, net::Ipv4Addr};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::plan::{InterfaceId, Plan};

/// The default of `net.ipv4.igmp_max_memberships`. More would make each join slower: the kernel
/// searches the groups that the socket has.
const GROUPS_PER_SOCKET: usize = 20;

/// Every input group of a plan, joined for as long as this lives.
#[derive(Debug)]
pub struct Memberships {
    sockets: Vec<Socket>,
    groups: usize,
}

/// Why a group could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// No socket could be opened for it.
    #[error("opening socket {number} for group memberships: {}", remedy(source))]
    Socket {
        /// Counted from 1.
        number: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused the membership.
    #[error("joining group {group} on interface {interface}: {}", remedy(source))]
    Join {
        /// The input interface.
        interface: String,
        /// The group.
        group: Ipv4Addr,
        /// The kernel's reason.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::ENOBUFS) => "raise `sysctl net.ipv4.igmp_max_memberships`, it must not be 0",
        Some(libc::ENODEV) => "the interface has gone, or its MTU is too small for IPv4",
        Some(libc::ENOMEM) => "raise `sysctl net.core.optmem_max`, or free memory",
        Some(libc::EMFILE) => "raise the limit of open files, `ulimit -n`; 20 groups take one",
        Some(libc::ENFILE) => "raise `sysctl fs.file-max`",
        _ => "`ip maddress show` lists what is joined",
    };
    format!("{error}; {hint}")
}

impl Memberships {
    /// Joins every distinct (input interface, group) of `plan`.
    ///
    /// # Errors
    ///
    /// The first membership that the kernel refuses; those joined before it are left again.
    pub fn join(plan: &Plan) -> Result<Self, MembershipError> {
        let wanted = wanted(plan);
        let mut joined = Self {
            sockets: Vec::new(),
            groups: 0,
        };
        let mut on_last = 0;
        for (position, group) in wanted {
            let Some(interface) = plan.interfaces.get(position) else {
                continue;
            };
            let failed = |source| MembershipError::Join {
                interface: interface.name.clone(),
                group,
                source,
            };
            // If the limit was lowered, a socket takes fewer groups: then try a new one.
            let last = joined
                .sockets
                .last()
                .filter(|_| on_last < GROUPS_PER_SOCKET);
            match last.map(|socket| join(socket, group, interface.index)) {
                Some(Ok(())) => on_last += 1,
                Some(Err(error)) if error.raw_os_error() != Some(libc::ENOBUFS) => {
                    return Err(failed(error));
                }
                Some(Err(_)) | None => {
                    let number = joined.sockets.len() + 1;
                    let socket =
                        open().map_err(|source| MembershipError::Socket { number, source })?;
                    join(&socket, group, interface.index).map_err(failed)?;
                    joined.sockets.push(socket);
                    on_last = 1;
                }
            }
            joined.groups += 1;
        }
        Ok(joined)
    }

    /// The number of (interface, group) pairs that are joined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups
    }

    /// Nothing is joined.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups == 0
    }
}

/// Every distinct pair of an input interface's id and a group.
fn wanted(plan: &Plan) -> BTreeSet<(InterfaceId, Ipv4Addr)> {
    let flows = plan.flows.iter();
    flows.map(|flow| (flow.interface, flow.group)).collect()
}

/// How many sockets the memberships of `plan` take.
#[must_use]
pub fn sockets_for(plan: &Plan) -> usize {
    let limit = fs::read_to_string("/proc/sys/net/ipv4/igmp_max_memberships").ok();
    let limit = limit.and_then(|limit| limit.trim().parse().ok());
    let each = limit.map_or(GROUPS_PER_SOCKET, |limit: usize| {
        limit.clamp(1, GROUPS_PER_SOCKET)
    });
    wanted(plan).len().div_ceil(each)
}

/// The kernel keeps the groups of an interface in a list, newest first, and searches it from the
/// front for the group to leave (`__ip_mc_dec_group` in net/ipv4/igmp.c): oldest first, leaving n
/// groups would take n²/2 steps.
impl Drop for Memberships {
    fn drop(&mut self) {
        while let Some(newest) = self.sockets.pop() {
            drop(newest);
        }
    }
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Without this, a socket that is bound receives the groups of every other socket on the host.
    socket.set_multicast_all_v4(false)?;
    Ok(socket)
}

fn join(socket: &Socket, group: Ipv4Addr, index: u32) -> io::Result<()> {
    socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::rules::Transmit,
        plan::{Backend, Flow, Interface, Mode},
        testing::{in_namespace, run},
    };

    fn plan(names: &[(&str, u32)], flows: &[(usize, Ipv4Addr, u16)]) -> Plan {
        let interface = |(name, index): &(&str, u32)| Interface {
            name: (*name).into(),
            index: *index,
            mac: [0; 6],
            mtu: 1500,
            address: None,
            driver: "veth".into(),
            backend: Backend::Xdp,
            reason: String::new(),
            is_input: true,
            is_output: false,
            rx_queues: vec![0],
            checksums: None,
            tx_queues: 1,
            zero_copy: false,
            expected_mode: Some(Mode::Copy),
            transmit: Transmit::Auto,
            tx_method: None,
            gso_packets: false,
            segments_udp: false,
            queueless: false,
            gso: crate::host::GsoLimits::default(),
        };
        let flow = |(interface, group, port): &(usize, Ipv4Addr, u16)| Flow {
            rule: String::new(),
            interface: InterfaceId::new(*interface),
            group: *group,
            port: *port,
            limit: None,
            outputs: Vec::new(),
        };
        Plan {
            interfaces: names.iter().map(interface).collect(),
            flows: flows.iter().map(flow).collect(),
            workers: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The groups of 239.0.0.0/8 that /proc lists for an interface of this thread's namespace.
    fn listed(name: &str) -> BTreeSet<Ipv4Addr> {
        let text = fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
        let mut here = false;
        let mut groups = BTreeSet::new();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap();
            if !line.starts_with('\t') {
                here = words.next() == Some(name);
            } else if here {
                // The address as the kernel holds it, big-endian, read as a native number.
                let bits = u32::from_str_radix(first, 16).unwrap();
                groups.insert(Ipv4Addr::from(bits.to_ne_bytes()));
            }
        }
        groups.retain(|group| group.octets()[0] == 239);
        groups
    }

    fn groups(count: u8) -> BTreeSet<Ipv4Addr> {
        (1..=count).map(|n| Ipv4Addr::new(239, 1, 2, n)).collect()
    }

    fn pair() -> [(&'static str, u32); 2] {
        run("ip link add name va index 71 type veth peer name vb");
        run("ip link set va up");
        run("ip link set vb up");
        let index = nix::net::if_::if_nametoindex("vb").unwrap();
        [("va", 71), ("vb", index)]
    }

    #[test]
    fn more_groups_than_a_socket_takes_are_joined_and_left_on_drop() {
        in_namespace(|| {
            let names = pair();
            let mut flows: Vec<_> = groups(70)
                .into_iter()
                .map(|group| (0, group, 5001))
                .collect();
            flows.push((0, Ipv4Addr::new(239, 1, 2, 1), 5002));
            flows.push((1, Ipv4Addr::new(239, 1, 2, 1), 5001));
            let joined = Memberships::join(&plan(&names, &flows)).unwrap();
            assert_eq!(joined.len(), 71, "one group by two ports is one membership");
            assert_eq!(joined.sockets.len(), 4);
            assert_eq!(listed("va"), groups(70));
            assert_eq!(listed("vb"), groups(1));
            drop(joined);
            assert_eq!(listed("va"), groups(0));
            assert_eq!(listed("vb"), groups(0));
        });
    }

    #[test]
    fn a_lowered_limit_takes_more_sockets() {
        in_namespace(|| {
            let names = pair();
            fs::write("/proc/sys/net/ipv4/igmp_max_memberships", "7").unwrap();
            let flows: Vec<_> = groups(30)
                .into_iter()
                .map(|group| (0, group, 5001))
                .collect();
            let joined = Memberships::join(&plan(&names, &flows)).unwrap();
            assert_eq!(joined.sockets.len(), 5);
            assert_eq!(sockets_for(&plan(&names, &flows)), 5);
            assert_eq!(listed("va"), groups(30));
        });
    }

    #[test]
    fn a_refused_membership_names_interface_group_and_remedy_and_leaves_the_rest() {
        in_namespace(|| {
            let names = [pair()[0], ("gone", 4711)];
            let group = Ipv4Addr::new(239, 1, 2, 1);
            let flows = [(0, group, 5001), (1, group, 5001)];
            let error = Memberships::join(&plan(&names, &flows))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("joining group 239.1.2.1 on interface gone: "),
                "{error}"
            );
            assert!(error.contains("the interface has gone"), "{error}");
            assert_eq!(listed("va"), groups(0));

            fs::write("/proc/sys/net/ipv4/igmp_max_memberships", "0").unwrap();
            let error = Memberships::join(&plan(&names, &flows[..1]))
                .unwrap_err()
                .to_string();
            assert!(error.contains("on interface va: "), "{error}");
            assert!(error.contains("igmp_max_memberships"), "{error}");
        });
    }
}
