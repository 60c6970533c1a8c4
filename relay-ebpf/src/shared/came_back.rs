//! Who brings copies of this relay back: written for own frames alone.
//!
//! Such a frame is decoded a second time. If what the first time found had to last until here, a
//! frame that the relay takes would pay for it.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::map, maps::HashMap};
use relay_common::{
    abi::{CameBack, FlowKey, MAX_CAME_BACK},
    wire::{self, Bytes, StrippedTag},
};

#[map]
static CAME_BACK: HashMap<FlowKey, CameBack> = HashMap::with_max_entries(MAX_CAME_BACK, 0);

/// Notes that `frame`, which arrived on `interface` with the Ethernet address `own`, is a copy that
/// came back.
#[inline(always)]
pub fn note<B: Bytes>(interface: u32, frame: &B, tag: Option<StrippedTag>, own: [u8; 6]) {
    let Ok((datagram, addresses)) = wire::judge(frame, tag, own) else {
        return;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // A full map takes no further flow: user space removes those that came back long ago.
    let key = FlowKey::new(interface, &datagram);
    let _ = CAME_BACK.insert(key, CameBack::new(now, &addresses), 0);
}
