//! The benchmark's kernel programs: the generator of frames, and the counters at the sinks.
#![no_std]
#![no_main]
#![allow(
    missing_docs,
    reason = "the attribute macros generate public items without any"
)]

mod abi;
mod count;
mod generate;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that the programs call are open to programs under a licence compatible with the
/// kernel's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
