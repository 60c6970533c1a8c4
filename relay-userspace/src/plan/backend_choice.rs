//! Which backend connected interfaces are on.
//!
//! One worker receives a frame and sends its copies, and a worker is on one backend. So interfaces
//! that rules connect are all on the same backend: XDP, unless an obstacle stands against it on one
//! of them; then io_uring.

use super::{
    backend::Backend,
    connected_interfaces::Connected,
    constraints::Constraints,
    ids::{InterfaceId, List},
    named_interfaces::Named,
};
use crate::{
    config::{Document, Mistake, Place},
    host::{HostFacts, InterfaceFacts},
};

/// A 4096-byte chunk holds the XDP headroom (256), an Ethernet header (14), one VLAN tag (4) and
/// the packet; more would need multi-buffer frames.
const MAX_INPUT_MTU: u32 = 4096 - 256 - 14 - 4;

/// The backend of an interface.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) backend: Backend,
    /// Why it is not XDP; empty where it is.
    pub(super) reason: String,
}

/// An obstacle to XDP: a reason for io_uring, or a mistake where the backend must be XDP.
struct Obstacle {
    place: Place,
    reason: String,
    cause: String,
    remedy: String,
}

/// Chooses the backend of every interface of `named`; `groups` are the connected ones. Adds a
/// mistake where the backend that the user asks for, or the only one that this kernel has, is not
/// possible.
pub(super) fn choose(
    document: &Document,
    groups: &[Connected],
    named: &List<InterfaceId, Named<'_>>,
    host_facts: &HostFacts,
    constraints: &Constraints,
    mistakes: &mut Vec<Mistake>,
) -> List<InterfaceId, Chosen> {
    let xdp = Chosen {
        backend: Backend::Xdp,
        reason: String::new(),
    };
    let mut all: List<InterfaceId, Chosen> = vec![xdp; named.len()].into();
    if constraints.forced == Some(Backend::IoUring) && !host_facts.gso_packets {
        let places = named.iter().map(Named::place);
        mistakes.push(
            document.mistake(
                places.min().unwrap_or(Place { line: 1, column: 1 }),
                "`--backend io-uring` needs Linux 6.2, whose packet sockets take UDP GSO packets"
                    .into(),
                "leave `--backend` out, or use a newer kernel".into(),
            ),
        );
        return all;
    }
    for group in groups {
        let members = group.interfaces.iter().filter_map(|at| named.get(*at));
        let obstacles: Vec<Obstacle> = members
            .flat_map(|named| obstacles(named, host_facts, constraints))
            .collect();
        let reason = match constraints.forced {
            Some(Backend::IoUring) => "`--backend io-uring` asks for it".to_owned(),
            None if host_facts.gso_packets && !obstacles.is_empty() => {
                let reasons: Vec<String> = obstacles.into_iter().map(|o| o.reason).collect();
                reasons.join(", and ")
            }
            None | Some(Backend::Xdp) => {
                mistakes.extend(obstacles.into_iter().map(|obstacle| {
                    let remedy = obstacle.remedy + "; or " + otherwise(host_facts);
                    document.mistake(obstacle.place, obstacle.cause, remedy)
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
fn obstacles(
    named: &Named<'_>,
    host_facts: &HostFacts,
    constraints: &Constraints,
) -> Vec<Obstacle> {
    let name = named.name;
    let Some(facts) = host_facts.interfaces.get(name) else {
        return Vec::new();
    };
    if facts.is_loopback || facts.mac.is_none() {
        return Vec::new();
    }
    let refused = constraints.refused.iter().filter(|r| r.interface == name);
    let mut found: Vec<Obstacle> = refused
        .map(|refusal| Obstacle {
            place: named.place(),
            reason: format!("XDP was refused: {}", refusal.reason),
            cause: format!("XDP was refused on `{name}`: {}", refusal.reason),
            remedy: "use another interface".into(),
        })
        .collect();
    let Some(place) = named.input else {
        // AF_XDP transmits in copy mode through any Ethernet driver.
        return found;
    };
    if facts.xdp.is_some_and(|xdp| !xdp.native()) {
        let driver = &facts.driver;
        found.push(Obstacle {
            place,
            reason: format!("{name} (driver {driver}) has no native XDP"),
            cause: format!(
                "interface `{name}` (driver {driver}) has no native XDP, which an input needs"
            ),
            remedy: native_remedy(facts).into(),
        });
    }
    if facts.strips_tags {
        found.push(Obstacle {
            place,
            reason: format!(
                "{name} takes VLAN tags out of the frames before XDP sees them, so that a tagged \
                 feed would be relayed as an untagged one; `ethtool -K {name} rx-vlan-offload off` \
                 leaves them in"
            ),
            cause: format!(
                "the input interface `{name}` takes VLAN tags out of the frames before XDP sees \
                 them, so that a tagged feed would be relayed as an untagged one"
            ),
            remedy: format!("leave the tags in: `ethtool -K {name} rx-vlan-offload off`"),
        });
    }
    if facts.mtu > MAX_INPUT_MTU {
        let mtu = facts.mtu;
        found.push(Obstacle {
            place,
            reason: format!("{name} has MTU {mtu}; a UMEM chunk takes at most {MAX_INPUT_MTU}"),
            cause: format!(
                "the input interface `{name}` has MTU {mtu}; a UMEM chunk takes at most {MAX_INPUT_MTU}"
            ),
            remedy: format!("lower it: `ip link set {name} mtu {MAX_INPUT_MTU}`"),
        });
    }
    found
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
