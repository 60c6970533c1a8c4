//! What both kernel programs have: the maps of flows, interfaces and counters, and the ways to use them.
//!
//! Each program is an object of its own with its own set of these maps, so that the socket filter can be loaded
//! where nothing else of the relay may be.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use relay_common::abi::{Counter, FlowKey, FlowValue, InterfaceValue, MAX_FLOWS, MAX_INTERFACES};

#[map]
static FLOWS: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(MAX_FLOWS, 0);

#[map]
static INTERFACES: HashMap<u32, InterfaceValue> = HashMap::with_max_entries(MAX_INTERFACES, 0);

#[map]
static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(MAX_INTERFACES * Counter::COUNT, 0);

/// Where the counters of an interface are; `None` where the relay does not receive.
#[inline(always)]
pub fn interface_value(interface: u32) -> Option<InterfaceValue> {
    // SAFETY: user space writes the value before it attaches the program and never changes it.
    unsafe { INTERFACES.get(interface) }.copied()
}

/// Whether a rule names it.
#[inline(always)]
pub fn is_flow(key: FlowKey) -> bool {
    // SAFETY: the value is not read.
    unsafe { FLOWS.get(key) }.is_some()
}

/// Adds `times` on this CPU and returns the new value.
#[inline(always)]
pub fn count(value: InterfaceValue, counter: Counter, times: u64) -> u64 {
    let Some(cell) = COUNTERS.get_ptr_mut(value.counter(counter)) else {
        return 0;
    };
    // SAFETY: the kernel hands out this CPU's own cell, and the program is not preempted by itself.
    unsafe {
        *cell += times;
        *cell
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that the programs call are open to programs under a licence compatible with the kernel's.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
