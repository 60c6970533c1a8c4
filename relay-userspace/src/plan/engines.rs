//! Which mode the AF_XDP sockets of an interface get, and how copies leave by it.
//!
//! A UMEM is zero copy or it is not, for all of its sockets. So what hinders zero copy is an interface that
//! needs a socket and cannot have it: an input, or an output with `transmit = "xsk"`. Any other output that cannot
//! need not have a socket: its copies leave by a packet socket straight from the UMEM, as super-frames or else
//! frame by frame (docs/decisions/0011). In copy mode super-frames are the faster way out in any case
//! (docs/performance.md), where an interface takes them: whole, or at once without a queue. With a queueing
//! discipline in between nobody could tell what became of the parts of a super-frame that the kernel cut apart.
//! On io_uring there are packet sockets only, which send frame by frame where super-frames cannot leave.

use super::{Backend, Choice, Engine, Mode, build::Use, queues};
use crate::{
    nic::{Facts, XdpFeatures},
    rules::Transmit,
};

/// The largest MTU in zero copy: that of a chunk of 4096 bytes.
const MAX_ZERO_COPY_MTU: u32 = max_zero_copy_mtu(4096);

/// The largest MTU for which a chunk of `size` bytes takes every frame in zero copy: without the XDP headroom, rounded down
/// to whole KiB, less an Ethernet header, a VLAN tag and the frame check sequence. The kernel would allow more
/// (xp_assign_dev, net/xdp/xsk_buff_pool.c). But igb has its NIC count buffers in KiB (SRRCTL.BSIZEPACKET, igb_setup_srrctl in
/// igb_main.c), and a frame that is longer comes in as two, neither of which is one.
pub(crate) const fn max_zero_copy_mtu(size: u32) -> u32 {
    (size - 256) / 1024 * 1024 - 14 - 4 - 4
}

/// Whether copies can leave by an interface in super-frames, on a kernel that takes them.
pub(super) fn takes_super_frames(facts: &Facts) -> bool {
    facts.segments_udp || facts.queueless
}

/// What stands against zero copy on an interface.
pub(super) fn against_zero_copy(facts: &Facts, choice: &Choice) -> Option<String> {
    let (name, driver) = (&facts.name, &facts.driver);
    let mut refused = choice.without_zero_copy.iter();
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

/// Sets the engine of every output and the reasons for the modes, and returns the mode of every interface.
pub(super) fn choose(
    groups: &[queues::Group],
    uses: &mut [Use<'_>],
    super_frames: bool,
    notes: &mut Vec<String>,
) -> Vec<Mode> {
    let mut modes = vec![Mode::Copy; uses.len()];
    let super_frames = |used: &Use<'_>| super_frames && takes_super_frames(used.facts);
    for used in uses.iter_mut() {
        if used.backend == Backend::IoUring && used.is_output {
            used.engine = Some(if super_frames(used) {
                Engine::Segmented
            } else {
                Engine::Frames
            });
        }
    }
    for group in groups {
        let members = || group.interfaces.iter().filter_map(|&at| uses.get(at));
        if members().any(|used| used.backend == Backend::IoUring) {
            continue;
        }
        let hindering = hindering(group, uses, super_frames);
        let zero_copy = hindering.is_empty();
        let reasons: Vec<&str> = hindering
            .iter()
            .filter_map(|&at| uses.get(at)?.against_zero_copy.as_deref())
            .collect();
        let reason = listed(&reasons);
        let able: Vec<usize> = group
            .interfaces
            .iter()
            .copied()
            .filter(|&at| uses.get(at).is_some_and(|u| u.against_zero_copy.is_none()))
            .collect();
        if !zero_copy && !able.is_empty() {
            notes.push(format!(
                "Zero copy is possible on {} but not on {}; rules connect them, so they share memory \
                 and all of them copy.",
                queues::names(&able, uses),
                queues::names(&hindering, uses)
            ));
        }
        for &at in &group.interfaces {
            let (Some(used), Some(mode)) = (uses.get_mut(at), modes.get_mut(at)) else {
                continue;
            };
            let able = used.against_zero_copy.is_none();
            if zero_copy && able {
                *mode = Mode::ZeroCopy;
            }
            used.engine = used.is_output.then_some(match used.transmit {
                Transmit::Xsk => Engine::Xsk,
                Transmit::Segmented => Engine::Segmented,
                Transmit::Auto if zero_copy && able => Engine::Xsk,
                Transmit::Auto if super_frames(used) => Engine::Segmented,
                Transmit::Auto if zero_copy => Engine::Frames,
                Transmit::Auto => Engine::Xsk,
            });
            used.reason = match (zero_copy, &used.against_zero_copy) {
                (false, _) if used.has_sockets() => reason.clone(),
                (false, _) => String::new(),
                (true, Some(against)) => against.clone(),
                (true, None) if used.has_sockets() => "the driver offers it".to_owned(),
                (true, None) => String::new(),
            };
        }
    }
    modes
}

/// The reasons in one sentence: each names its interface, so that of many some are enough.
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
        text += &format!(", and {more} more of its group have none either");
    }
    text
}

/// The interfaces of a group that keep all of it from zero copy.
///
/// An output that would have to leave frame by frame is one only where no other output gains: what the input alone
/// gains, frame by frame costs (docs/performance.md).
fn hindering(
    group: &queues::Group,
    uses: &[Use<'_>],
    super_frames: impl Fn(&Use<'_>) -> bool,
) -> Vec<usize> {
    let members = || group.interfaces.iter().filter_map(|&at| uses.get(at));
    let gains = members().any(|used| {
        used.is_output && used.transmit != Transmit::Segmented && used.against_zero_copy.is_none()
    });
    let hinders = |used: &Use<'_>| {
        let needs_socket = used.is_input || used.transmit == Transmit::Xsk;
        used.against_zero_copy.is_some() && (needs_socket || !(gains || super_frames(used)))
    };
    let mut all = group.interfaces.clone();
    all.retain(|&at| uses.get(at).is_some_and(hinders));
    all
}
