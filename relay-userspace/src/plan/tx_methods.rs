//! Which mode the AF_XDP sockets of an interface get, and how copies leave through it.
//!
//! A UMEM is in zero copy or not, for all of its sockets. So an interface hinders zero copy if it
//! needs a socket and cannot have zero copy itself: an input, or an output with `transmit = "xsk"`.
//! Any other such output can do without a socket: its copies leave through a packet socket straight
//! from the UMEM, as GSO packets or else frame by frame (docs/decisions/0011). In copy mode GSO
//! packets are faster in any case (docs/performance.md), where an interface takes them: a device
//! that takes them whole, or one without a queueing discipline. Behind a queueing discipline the
//! kernel would cut them apart without reporting what became of the parts. On io_uring there are
//! packet sockets only, which send frame by frame where GSO packets cannot leave.

use super::{
    backend::Backend,
    connected_interfaces::Connected,
    constraints::Constraints,
    ids::{InterfaceId, List},
    model::{Mode, TxMethod},
    used_interface::Use,
    wording,
};
use crate::{
    config::rules::Transmit,
    host::{InterfaceFacts, XdpFeatures},
};

/// The largest MTU in zero copy, with a chunk of 4096 bytes.
const MAX_ZERO_COPY_MTU: u32 = max_zero_copy_mtu(4096);

/// The largest MTU for which a chunk of `size` bytes holds every frame in zero copy: `size` without
/// the XDP headroom, rounded down to whole KiB, less an Ethernet header, a VLAN tag and the frame
/// check sequence. The kernel would allow more (xp_assign_dev, net/xdp/xsk_buff_pool.c). But igb
/// has its NIC count buffers in KiB (SRRCTL.BSIZEPACKET, igb_setup_srrctl in igb_main.c), and
/// splits a longer frame into two, neither of which is whole.
pub(super) const fn max_zero_copy_mtu(size: u32) -> u32 {
    (size - 256) / 1024 * 1024 - 14 - 4 - 4
}

/// The parts of a frame whose payload others share: headers and payload.
const PARTS: u32 = 2;

/// Whether copies can leave through an interface in GSO packets, on a kernel that takes them.
pub(super) fn takes_gso_packets(facts: &InterfaceFacts) -> bool {
    facts.segments_udp || facts.queueless
}

/// Why an interface cannot have zero copy; `None` if it can.
pub(super) fn against_zero_copy(
    facts: &InterfaceFacts,
    constraints: &Constraints,
) -> Option<String> {
    let (name, driver) = (&facts.name, &facts.driver);
    let mut refused = constraints.without_zero_copy.iter();
    if let Some(refusal) = refused.find(|refusal| refusal.interface == *name) {
        return Some(format!(
            "{name} (driver {driver}) refused zero copy: {}",
            refusal.reason
        ));
    }
    if !facts.xdp.is_some_and(XdpFeatures::zero_copy) {
        return Some(format!("{name} (driver {driver}) has no zero copy"));
    }
    (facts.mtu > MAX_ZERO_COPY_MTU).then(|| {
        format!(
            "{name} has MTU {}, and zero copy takes at most {MAX_ZERO_COPY_MTU}",
            facts.mtu
        )
    })
}

/// Sets the TX method of every output and the reasons for the modes, and returns the mode of every
/// interface.
pub(super) fn choose(
    groups: &[Connected],
    uses: &mut List<InterfaceId, Use<'_>>,
    gso_packets: bool,
    notes: &mut Vec<String>,
) -> List<InterfaceId, Mode> {
    let mut modes: List<InterfaceId, Mode> = vec![Mode::Copy; uses.len()].into();
    let gso_packets = |used: &Use<'_>| gso_packets && takes_gso_packets(used.facts);
    for used in uses.iter_mut() {
        if used.backend == Backend::IoUring && used.is_output {
            used.tx_method = Some(if gso_packets(used) {
                TxMethod::Segmented
            } else {
                TxMethod::Frames
            });
        }
    }
    for group in groups {
        let members = || group.interfaces.iter().filter_map(|&at| uses.get(at));
        if members().any(|used| used.backend == Backend::IoUring) {
            continue;
        }
        let hindering = hindering(group, uses, gso_packets);
        let zero_copy = hindering.is_empty();
        let reasons: Vec<&str> = hindering
            .iter()
            .filter_map(|&at| uses.get(at)?.against_zero_copy.as_deref())
            .collect();
        let reason = listed(&reasons);
        let able: Vec<InterfaceId> = group
            .interfaces
            .iter()
            .copied()
            .filter(|&at| uses.get(at).is_some_and(|u| u.against_zero_copy.is_none()))
            .collect();
        if !zero_copy && !able.is_empty() {
            notes.push(format!(
                "Zero copy is possible on {} but not on {}; rules connect them, so they share memory \
                 and all of them copy.",
                wording::names(&able, uses),
                wording::names(&hindering, uses)
            ));
        }
        let copied = payloads_copied(group, uses);
        for &at in &group.interfaces {
            let (Some(used), Some(mode)) = (uses.get_mut(at), modes.get_mut(at)) else {
                continue;
            };
            let able = used.against_zero_copy.is_none();
            if zero_copy && able {
                *mode = Mode::ZeroCopy;
            }
            used.tx_method = used.is_output.then_some(match used.transmit {
                Transmit::Xsk => TxMethod::Xsk,
                Transmit::Segmented => TxMethod::Segmented,
                Transmit::Auto if zero_copy && able => TxMethod::Xsk,
                Transmit::Auto if gso_packets(used) => TxMethod::Segmented,
                Transmit::Auto if zero_copy => TxMethod::Frames,
                Transmit::Auto => TxMethod::Xsk,
            });
            used.shares_payloads = zero_copy && able && used.has_sockets() && copied.is_none();
            used.reason = match (zero_copy, &used.against_zero_copy) {
                (false, _) if used.has_sockets() => reason.clone(),
                (false, _) => String::new(),
                (true, Some(against)) => against.clone(),
                (true, None) if used.tx_method == Some(TxMethod::Xsk) => {
                    let copied = copied.as_deref().unwrap_or_default();
                    format!("the driver offers it{copied}")
                }
                (true, None) if used.has_sockets() => "the driver offers it".to_owned(),
                (true, None) => String::new(),
            };
        }
    }
    modes
}

/// In zero copy, why each copy has a payload of its own, as the end of a sentence; `None` if copies
/// share one. Sockets share a UMEM, so all of their interfaces have to take a frame in two parts.
fn payloads_copied(group: &Connected, uses: &List<InterfaceId, Use<'_>>) -> Option<String> {
    let members = group.interfaces.iter().filter_map(|&at| uses.get(at));
    let mut bound = members.filter(|used| used.against_zero_copy.is_none());
    let segments = |used: &Use<'_>| used.facts.xdp.map_or(1, XdpFeatures::zero_copy_segments);
    let one = bound.find(|used| segments(used) < PARTS)?;
    Some(format!(
        ", with a payload in each copy: {} (driver {}) takes a frame in {} descriptor only \
         (xdp-zc-max-segs)",
        one.facts.name,
        one.facts.driver,
        segments(one)
    ))
}

/// The first reasons in one sentence; each names its interface.
fn listed(reasons: &[&str]) -> String {
    const SHOWN: usize = 3;
    let mut text = reasons
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", and ");
    let more = reasons.len().saturating_sub(SHOWN);
    if more > 0 {
        text += &format!(", and {more} more of the connected interfaces have none either");
    }
    text
}

/// The connected interfaces that keep all of them from zero copy.
///
/// An output that would have to leave frame by frame is among them only where no other output
/// gains: sending frame by frame costs what the input alone gains (docs/performance.md).
fn hindering(
    group: &Connected,
    uses: &List<InterfaceId, Use<'_>>,
    gso_packets: impl Fn(&Use<'_>) -> bool,
) -> Vec<InterfaceId> {
    let members = || group.interfaces.iter().filter_map(|&at| uses.get(at));
    let gains = members().any(|used| {
        used.is_output && used.transmit != Transmit::Segmented && used.against_zero_copy.is_none()
    });
    let hinders = |used: &Use<'_>| {
        let needs_socket = used.is_input || used.transmit == Transmit::Xsk;
        used.against_zero_copy.is_some() && (needs_socket || !(gains || gso_packets(used)))
    };
    let mut all = group.interfaces.clone();
    all.retain(|&at| uses.get(at).is_some_and(hinders));
    all
}
