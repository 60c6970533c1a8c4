//! When a frame arrived, for user space, which asks for one frame now and then.
//!
//! Of the frames that the relay gets, only every 64th may be marked: others cost one comparison.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, helpers::bpf_ktime_get_ns, macros::map, maps::Array};
use relay_common::{
    abi::{MAX_MARKS, Mark, mark},
    wire::Bytes,
};

#[map]
static MARKS: Array<Mark> = Array::with_max_entries(MAX_MARKS, BPF_F_MMAPABLE);

/// Counts a frame of this queue that may be marked, and marks it if it is the one that user space
/// asks for.
#[inline(always)]
pub fn note<B: Bytes>(interface: u32, queue: u32, frame: &B) {
    let Some(mark) = MARKS.get_ptr_mut(Mark::place(interface, queue)) else {
        return;
    };
    // SAFETY: the kernel keeps the element in place. User space writes to it meanwhile. Should
    // another CPU mark a frame of the same queue, `check` shows it.
    unsafe {
        let left = &raw mut (*mark).left;
        let asked = (&raw const (*mark).interface).read_volatile() == interface
            && (&raw const (*mark).queue).read_volatile() == queue;
        let now = left.read_volatile();
        if !asked || now == 0 {
            return;
        }
        if now == 1 {
            let Some(print) = mark::print(frame) else {
                return;
            };
            let time = bpf_ktime_get_ns();
            (&raw mut (*mark).time).write_volatile(time);
            (&raw mut (*mark).print).write_volatile(print);
            (&raw mut (*mark).check).write_volatile(Mark::check(time, print));
        }
        left.write_volatile(now - 1);
    }
}
