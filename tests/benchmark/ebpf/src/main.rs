//! The benchmark's kernel programs: the generator of frames, the counters at the sinks, and one
//! that only passes frames.
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "the attribute macros generate public items without any"
)]

mod abi;
mod count;
mod generate;
mod pass;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that the programs call are open to programs under a licence compatible with the
/// kernel's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
