//! Which mode the AF_XDP sockets of an interface get, and how copies leave by it.
//!
//! A UMEM is zero copy or it is not, for all of its sockets. So what hinders zero copy is an interface that
//! needs a socket and does not offer it; an output that does not offer it need not have a socket: its copies
//! leave as super-frames straight from the UMEM. In copy mode super-frames are the faster way out in any case
//! (docs/performance.md), where an interface takes them: whole, or at once without a queue. With a queueing
//! discipline in between nobody could tell what became of the parts of a super-frame that the kernel cut apart.
//! On io_uring there are packet sockets only, which send frame by frame where super-frames cannot leave.

use super::{
    Backend, Engine, Mode,
    build::{Use, can_zero_copy},
    queues,
};
use crate::{nic::Facts, rules::Transmit};

/// Whether copies can leave by an interface in super-frames, on a kernel that takes them.
pub(super) fn takes_super_frames(facts: &Facts) -> bool {
    facts.segments_udp || facts.queueless
}

/// Sets the engine of every output, and returns the mode of every interface.
pub(super) fn choose(
    groups: &[queues::Group],
    uses: &mut [Use<'_>],
    super_frames: bool,
    notes: &mut Vec<String>,
) -> Vec<Mode> {
    let mut modes = vec![Mode::Copy; uses.len()];
    let super_frames = |used: &Use<'_>| super_frames && takes_super_frames(used.facts);
    let needs_socket =
        |used: &Use<'_>| used.is_input || used.transmit == Transmit::Xsk || !super_frames(used);
    for used in uses.iter_mut() {
        if used.backend == Backend::IoUring && used.is_output {
            used.engine = Some(if super_frames(used) {
                Engine::Segmented
            } else {
                Engine::Frames
            });
        }
    }
    let on_xdp = |group: &&queues::Group| {
        let mut members = group.interfaces.iter().filter_map(|&at| uses.get(at));
        members.all(|used| used.backend == Backend::Xdp)
    };
    let on_xdp: Vec<&queues::Group> = groups.iter().filter(on_xdp).collect();
    for group in on_xdp {
        let (able, unable): (Vec<usize>, Vec<usize>) = group
            .interfaces
            .iter()
            .partition(|&&at| uses.get(at).is_some_and(|used| can_zero_copy(used.facts)));
        let hindering: Vec<usize> = unable
            .iter()
            .copied()
            .filter(|&at| uses.get(at).is_some_and(needs_socket))
            .collect();
        let zero_copy = hindering.is_empty();
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
            let offered = zero_copy && can_zero_copy(used.facts);
            if offered {
                *mode = Mode::ZeroCopy;
            }
            used.engine = used.is_output.then_some(match used.transmit {
                Transmit::Xsk => Engine::Xsk,
                Transmit::Segmented => Engine::Segmented,
                Transmit::Auto if offered || !super_frames(used) => Engine::Xsk,
                Transmit::Auto => Engine::Segmented,
            });
        }
    }
    modes
}
