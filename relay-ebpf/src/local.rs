//! The tc program of the relay's TAP device: frames that the relay gives back to the Linux stack.
//!
//! A frame that leaves through the device goes on as one that has just arrived on the interface
//! whose index is the frame's mark, unchanged. Frames without a mark are not the relay's.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_SHOT},
    helpers::bpf_redirect,
    macros::classifier,
    programs::TcContext,
};

/// The entry point.
#[classifier]
pub fn relay_local(ctx: TcContext) -> i32 {
    // SAFETY: the kernel's context, which exists while the program runs, and whose mark a tc
    // program may read and write.
    let mark = unsafe { &raw mut (*ctx.skb.skb).mark };
    // SAFETY: as above.
    let input = unsafe { mark.read_volatile() };
    if input == 0 {
        return TC_ACT_SHOT;
    }
    // The stack must not take it for a mark of its own rules.
    // SAFETY: as above.
    unsafe { mark.write_volatile(0) };
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(input, u64::from(BPF_F_INGRESS)) as i32 }
}
