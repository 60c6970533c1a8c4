//! Who brings copies of this relay back: written for own frames alone.
//!
//! Such a frame is decoded a second time. If what the first time found had to last until here, a
//! frame that the relay takes would pay for it.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::map, maps::LruHashMap};
use relay_common::{
    abi::{CameBack, CameBackKey, InterfaceValue, MAX_CAME_BACK},
    wire::{self, Bytes, Datagram, Mac, Tag, Verdict},
};

#[map]
static CAME_BACK: LruHashMap<CameBackKey, CameBack> =
    LruHashMap::with_max_entries(MAX_CAME_BACK, 0);

/// Notes that `frame`, which arrived on the interface with this value, is a copy that came back.
#[inline(always)]
pub fn note<B: Bytes>(interface: InterfaceValue, frame: &B, beside: Option<Tag>) {
    let note = Note(interface.slot());
    // What is no datagram was no own frame.
    let _ = wire::judge_all_for(frame, beside, interface.mac, &note);
}

/// Notes a datagram that arrived on the interface with this slot.
struct Note(u8);

impl Verdict for Note {
    type Output = ();

    #[inline(always)]
    fn of(&self, datagram: Datagram, from: Mac) {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        // A full map loses the destination of longest ago: where a rule with a wide prefix loops,
        // other rules' loops are seen as well.
        let key = CameBackKey::new(self.0, &datagram);
        let _ = CAME_BACK.insert(key, CameBack::new(now, &datagram, from), 0);
    }
}
