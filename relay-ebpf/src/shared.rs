//! What both kernel programs have: the maps of flows, interfaces, own sources and counters, and the ways to use them.
//!
//! Each program is an object of its own with its own set of these maps, so that the socket filter can be loaded
//! where nothing else of the relay may be.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use relay_common::{
    abi::{
        Counter, FlowKey, FlowValue, InterfaceValue, MAX_FLOWS, MAX_INTERFACES, MAX_OWN, OwnKey,
    },
    wire::{Addresses, Datagram},
};

#[map]
static FLOWS: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(MAX_FLOWS, 0);

#[map]
static INTERFACES: HashMap<u32, InterfaceValue> = HashMap::with_max_entries(MAX_INTERFACES, 0);

#[map]
static OWN: HashMap<OwnKey, u8> = HashMap::with_max_entries(MAX_OWN, 0);

#[map]
static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(MAX_INTERFACES * Counter::COUNT, 0);

/// Where the counters of an interface are; `None` where the relay does not receive.
#[inline(always)]
pub fn interface_value(interface: u32) -> Option<InterfaceValue> {
    // SAFETY: user space writes the value before it attaches the program and never changes it.
    unsafe { INTERFACES.get(interface) }.copied()
}

/// Whether the relay takes a datagram that came in by `interface`: a rule names it, and it is no copy of the relay
/// itself.
///
/// # Errors
///
/// What it counts as if not.
#[inline(always)]
pub fn admit(interface: u32, datagram: &Datagram, addresses: &Addresses) -> Result<(), Counter> {
    // SAFETY: the value is not read.
    if unsafe { FLOWS.get(FlowKey::new(interface, datagram)) }.is_none() {
        return Err(Counter::unmatched(datagram));
    }
    let [mac, address] = OwnKey::of(addresses);
    // SAFETY: the values are not read.
    if unsafe { OWN.get(mac).is_some() || OWN.get(address).is_some() } {
        return Err(Counter::OwnFrame);
    }
    Ok(())
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
