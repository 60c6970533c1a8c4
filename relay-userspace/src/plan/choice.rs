//! Which backend the interfaces that rules connect are on.
//!
//! A frame is received and sent by one worker, and a worker is on one backend. So interfaces that rules connect
//! are all on the same: XDP, unless something stands against it on one of them; then io_uring.

use super::{Backend, build::Named, queues::Group};
use crate::{
    config::{Document, Mistake, Place},
    nic::{Facts, Survey},
};

/// A 4096-byte chunk holds the XDP headroom (256), an Ethernet header (14), one VLAN tag (4) and
/// the packet; more would need multi-buffer frames.
const MAX_INPUT_MTU: u32 = 4096 - 256 - 14 - 4;

/// What decides on backends besides the facts about the interfaces.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// The backend that was asked for; `None` leaves it open.
    pub forced: Option<Backend>,
    /// Where the kernel refused XDP or an AF_XDP socket when it was tried.
    pub refused: Vec<Refusal>,
    /// Where it refused what zero copy needs.
    pub without_zero_copy: Vec<Refusal>,
}

/// The kernel's refusal to carry the XDP backend, or zero copy, on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The interface's name.
    pub interface: String,
    /// What was tried, and the kernel's reason.
    pub reason: String,
}

/// What an interface got.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) backend: Backend,
    /// Why it is not XDP; empty where it is.
    pub(super) reason: String,
}

/// Something that stands against XDP: as a reason for io_uring, and as a mistake where XDP it must be.
struct Obstacle {
    place: Place,
    reason: String,
    cause: String,
    remedy: String,
}

/// Chooses for every interface of `named`, which `groups` refer to. A mistake where the backend that is asked for,
/// or the only one that this kernel has, cannot be.
pub(super) fn choose(
    document: &Document,
    groups: &[Group],
    named: &[Named<'_>],
    survey: &Survey,
    choice: &Choice,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Chosen> {
    let xdp = Chosen {
        backend: Backend::Xdp,
        reason: String::new(),
    };
    let mut all = vec![xdp; named.len()];
    if choice.forced == Some(Backend::IoUring) && !survey.super_frames {
        let places = named.iter().map(Named::place);
        mistakes.push(
            document.mistake(
                places.min().unwrap_or(Place { line: 1, column: 1 }),
                "`--backend io-uring` needs Linux 6.2, whose packet sockets take UDP super-frames"
                    .into(),
                "leave `--backend` out, or use a newer kernel".into(),
            ),
        );
        return all;
    }
    for group in groups {
        let members = group.interfaces.iter().filter_map(|at| named.get(*at));
        let obstacles: Vec<Obstacle> = members
            .flat_map(|named| obstacles(named, survey, choice))
            .collect();
        let reason = match choice.forced {
            Some(Backend::IoUring) => "`--backend io-uring` asks for it".to_owned(),
            None if survey.super_frames && !obstacles.is_empty() => {
                let reasons: Vec<String> = obstacles.into_iter().map(|o| o.reason).collect();
                reasons.join(", and ")
            }
            None | Some(Backend::Xdp) => {
                mistakes.extend(obstacles.into_iter().map(|obstacle| {
                    let remedy = obstacle.remedy + "; or " + otherwise(survey);
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

/// The way out that every obstacle has.
fn otherwise(survey: &Survey) -> &'static str {
    if survey.super_frames {
        "leave `--backend xdp` out: io_uring does without XDP"
    } else {
        "use Linux 6.2 or later, where io_uring does without XDP"
    }
}

/// What stands against XDP on one interface. What stands against both backends is not among it.
fn obstacles(named: &Named<'_>, survey: &Survey, choice: &Choice) -> Vec<Obstacle> {
    let name = named.name;
    let Some(facts) = survey.interfaces.get(name) else {
        return Vec::new();
    };
    if facts.is_loopback || facts.mac.is_none() {
        return Vec::new();
    }
    let refused = choice.refused.iter().filter(|r| r.interface == name);
    let mut found: Vec<Obstacle> = refused
        .map(|refusal| Obstacle {
            place: named.place(),
            reason: format!("XDP was refused: {}", refusal.reason),
            cause: format!("XDP was refused on `{name}`: {}", refusal.reason),
            remedy: "use another interface".into(),
        })
        .collect();
    let Some(place) = named.input else {
        // AF_XDP transmits in copy mode by any Ethernet driver.
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

fn native_remedy(facts: &Facts) -> &'static str {
    if facts.driver == "veth" {
        "a veth has native XDP only while it has at least as many RX queues as its other end has TX \
         queues: compare both with `ethtool -l`"
    } else {
        "use an interface whose driver has native XDP, and of VLANs, bridges and bonds the interface \
         below them"
    }
}
