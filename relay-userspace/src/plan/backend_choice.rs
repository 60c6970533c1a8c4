//! Which backend connected interfaces are on.
//!
//! One worker receives a frame and sends its copies, and a worker is on one backend. So interfaces
//! that rules connect are all on the same backend: XDP, unless an obstacle stands against it on one
//! of them; then io_uring.

use super::{
    backend::Backend,
    chunk_size::{FRAME_OVERHEAD, LARGEST},
    connected_interfaces::Connected,
    constraints::Constraints,
    finding::{Finding, Role},
    ids::{InterfaceId, List},
    named_interfaces::Named,
    offloads,
};
use crate::{
    config::Spot,
    host::{HostFacts, InterfaceFacts},
};

/// The largest packet that the largest chunk holds with all that lies in front of it; more
/// would need multi-buffer frames.
const MAX_INPUT_MTU: u32 = LARGEST - FRAME_OVERHEAD;

/// The backend of an interface.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) backend: Backend,
    /// Why it is not XDP; empty where it is.
    pub(super) reason: String,
}

/// An obstacle to XDP: a reason for io_uring, or a mistake where the backend must be XDP.
struct Obstacle<'a> {
    interface: &'a str,
    roles: &'static [Role],
    spot: Spot<'a>,
    reason: String,
    cause: String,
    remedy: String,
}

/// Chooses the backend of every interface of `named`; `groups` are the connected ones. Adds a
/// finding where the backend that the user asks for, or the only one that this kernel has, is not
/// possible.
pub(super) fn choose(
    groups: &[Connected],
    named: &List<InterfaceId, Named<'_>>,
    host_facts: &HostFacts,
    constraints: &Constraints,
    findings: &mut Vec<Finding>,
) -> List<InterfaceId, Chosen> {
    let xdp = Chosen {
        backend: Backend::Xdp,
        reason: String::new(),
    };
    let mut all: List<InterfaceId, Chosen> = vec![xdp; named.len()].into();
    if constraints.forced == Some(Backend::IoUring) && !host_facts.gso_packets {
        let spots = named.iter().map(|named| named.first);
        let first = spots.min_by_key(|spot| spot.place);
        findings.extend(first.map(|spot| {
            Finding::of_all(spot.mistake(
                "`--backend io-uring` needs Linux 6.2, whose packet sockets take UDP GSO packets"
                    .into(),
                "leave `--backend` out, or use a newer kernel".into(),
            ))
        }));
        return all;
    }
    for group in groups {
        let members = group.interfaces.iter().filter_map(|at| named.get(*at));
        let obstacles: Vec<Obstacle<'_>> = members
            .flat_map(|named| obstacles(named, host_facts, constraints))
            .collect();
        let reason = match constraints.forced {
            Some(Backend::IoUring) => "`--backend io-uring` asks for it".to_owned(),
            None if host_facts.gso_packets && !obstacles.is_empty() => {
                let reasons: Vec<String> = obstacles.into_iter().map(|o| o.reason).collect();
                reasons.join(", and ")
            }
            None | Some(Backend::Xdp) => {
                findings.extend(obstacles.into_iter().map(|obstacle| {
                    let remedy = obstacle.remedy + "; or " + otherwise(host_facts);
                    let mistake = obstacle.spot.mistake(obstacle.cause, remedy);
                    Finding::about(obstacle.interface, obstacle.roles, mistake)
                }));
                continue;
            }
        };
        for &at in &group.interfaces {
            if let Some(chosen) = all.get_mut(at) {
                *chosen = Chosen {
                    backend: Backend::IoUring,
                    reason: reason.clone(),
                };
            }
        }
    }
    all
}

/// The remedy that every obstacle has.
fn otherwise(host_facts: &HostFacts) -> &'static str {
    if host_facts.gso_packets {
        "leave `--backend xdp` out: io_uring does without XDP"
    } else {
        "use Linux 6.2 or later, where io_uring does without XDP"
    }
}

/// The obstacles to XDP on one interface, without those that stand against both backends.
fn obstacles<'a>(
    named: &Named<'a>,
    host_facts: &HostFacts,
    constraints: &Constraints,
) -> Vec<Obstacle<'a>> {
    let name = named.name;
    let Some(facts) = host_facts.interfaces.get(name) else {
        return Vec::new();
    };
    if facts.is_loopback || facts.mac.is_none() {
        return Vec::new();
    }
    let refused = constraints.refused.iter().filter(|r| r.interface == name);
    let mut found: Vec<Obstacle<'a>> = refused
        .map(|refusal| Obstacle {
            interface: name,
            roles: &Role::ALL,
            spot: named.first,
            reason: format!("XDP was refused: {}", refusal.reason),
            cause: format!("XDP was refused on `{name}`: {}", refusal.reason),
            remedy: "use another interface".into(),
        })
        .collect();
    let Some(spot) = named.input else {
        // AF_XDP transmits in copy mode through any Ethernet driver.
        return found;
    };
    if facts.xdp.is_some_and(|xdp| !xdp.native()) {
        let driver = &facts.driver;
        found.push(Obstacle {
            interface: name,
            roles: &[Role::Input],
            spot,
            reason: format!("{name} (driver {driver}) has no native XDP"),
            cause: format!(
                "interface `{name}` (driver {driver}) has no native XDP, which an input needs"
            ),
            remedy: native_remedy(facts).into(),
        });
    }
    if facts.driver == "tun" {
        found.push(Obstacle {
            interface: name,
            roles: &[Role::Input],
            spot,
            reason: format!("{name} is a TAP device, which gives XDP programs GSO packets whole"),
            cause: format!(
                "the input interface `{name}` is a TAP device, which gives XDP programs GSO packets \
                 of a virtual machine whole, and they would leave as one datagram"
            ),
            remedy: "use another interface".into(),
        });
    }
    let stripped = offloads::against_xdp(named, facts, host_facts, constraints);
    found.extend(stripped.map(|stripped| Obstacle {
        interface: name,
        roles: &[Role::Input],
        spot,
        reason: stripped.reason,
        cause: stripped.cause,
        remedy: stripped.remedy,
    }));
    found.extend(no_way_back(named, spot, host_facts, constraints));
    if facts.mtu > MAX_INPUT_MTU {
        let mtu = facts.mtu;
        found.push(Obstacle {
            interface: name,
            roles: &[Role::Input],
            spot,
            reason: format!("{name} has MTU {mtu}; a UMEM chunk takes at most {MAX_INPUT_MTU}"),
            cause: format!(
                "the input interface `{name}` has MTU {mtu}; a UMEM chunk takes at most {MAX_INPUT_MTU}"
            ),
            remedy: format!("lower it: `ip link set {name} mtu {MAX_INPUT_MTU}`"),
        });
    }
    found
}

/// Why frames of rules with `local` could not be given back to this host's stack on XDP.
fn no_way_back<'a>(
    named: &Named<'a>,
    spot: Spot<'a>,
    host_facts: &HostFacts,
    constraints: &Constraints,
) -> Option<Obstacle<'a>> {
    let name = named.name;
    let refused = constraints.without_local_device.iter();
    let mut refused = refused.filter(|refusal| refusal.interface == name);
    let known = host_facts.no_tap.as_ref();
    let why = known.or(refused.next().map(|refusal| &refusal.reason))?;
    let cause =
        format!("a rule with `local` receives on `{name}`, which takes a TAP device on XDP: {why}");
    named.has_local_rule.then(|| Obstacle {
        interface: name,
        roles: &[Role::Input],
        spot,
        reason: cause.clone(),
        cause,
        remedy: "take `local` out of the rule".into(),
    })
}

fn native_remedy(facts: &InterfaceFacts) -> &'static str {
    if facts.driver == "veth" {
        "a veth has native XDP only while it has at least as many RX queues as its other end has TX \
         queues: compare both with `ethtool -l`"
    } else {
        "use an interface whose driver has native XDP; instead of VLANs, bridges and bonds, use the \
         interface below them"
    }
}
