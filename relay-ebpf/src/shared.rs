//! What both kernel programs have: the maps of interfaces, own sources, limits and counters,
//! and the functions that use them.
//!
//! Each program is an object of its own with its own set of these maps, so that the socket filter
//! can be loaded where nothing else of the relay may be.

pub mod came_back;
pub mod marks;
mod tables;

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use relay_common::{
    abi::{
        Counter, InterfaceValue, LimitValue, MAX_INTERFACES, MAX_NEAR_INTERFACES, MAX_OWN,
        NearInterface, OwnKey,
    },
    matching::{self, OwnPresence},
    wire::{Addresses, Datagram, Mac, ipv6},
};

use self::tables::{Maps, may_have};

#[map]
static INTERFACES: HashMap<u32, InterfaceValue> = HashMap::with_max_entries(MAX_INTERFACES, 0);

#[map]
static NEAR_INTERFACES: Array<NearInterface> = Array::with_max_entries(MAX_NEAR_INTERFACES, 0);

#[map]
static OWN: HashMap<OwnKey, u8> = HashMap::with_max_entries(MAX_OWN, 0);

#[map]
static OWN6: HashMap<ipv6::Address, u8> = HashMap::with_max_entries(MAX_OWN, 0);

#[map]
static OWN_PRESENCE: Array<u64> = Array::with_max_entries(OwnPresence::WORDS, 0);

/// User space sets the number of entries when it loads the program.
#[map]
static LIMITS: Array<LimitValue> = Array::with_max_entries(1, 0);

#[map]
static OVER_LIMIT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map]
static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(MAX_INTERFACES * Counter::COUNT, 0);

/// Where the sockets and counters of an interface are; `None` for one that the relay does not
/// receive on.
#[inline(always)]
pub fn interface_value(interface: u32) -> Option<InterfaceValue> {
    if let Some(near) = NEAR_INTERFACES.get(NearInterface::place(interface))
        && near.index == u64::from(interface)
    {
        return Some(near.value);
    }
    // SAFETY: plain integers, of which any copy is valid. User space replaces values while frames
    // arrive; the kernel keeps the memory of the old one.
    unsafe { INTERFACES.get(interface) }.copied()
}

/// Whether a rule names the address of a host on this interface.
#[inline(always)]
pub fn takes_unicast(interface: InterfaceValue) -> bool {
    matching::takes_unicast(Maps, interface.slot())
}

/// Whether the relay takes a frame that arrived on the interface with this value from `from`, and
/// holds as many datagrams as `datagrams` returns: a rule names it, it is not a copy of this relay,
/// and it is not above the rule's limit.
///
/// # Errors
///
/// What a frame that the relay does not take counts as.
#[inline(always)]
pub fn admit(
    interface: InterfaceValue,
    datagram: &Datagram,
    from: Mac,
    datagrams: impl FnOnce() -> u64,
) -> Result<(), Counter> {
    let flow = matching::find(Maps, interface.slot(), datagram);
    if !flow.is_flow() {
        return Err(Counter::unmatched(datagram));
    }
    if is_own(from, datagram) {
        return Err(Counter::OwnFrame);
    }
    match flow.limit() {
        Some(limit) if !is_within(limit, datagrams()) => Err(Counter::OverLimit),
        _ => Ok(()),
    }
}

/// Whether a frame with these sources is a copy of this relay that came back.
#[inline(always)]
fn is_own(from: Mac, datagram: &Datagram) -> bool {
    has(&OWN, &OwnKey::mac(from))
        || match datagram.addresses {
            Addresses::V4 { source, .. } => has(&OWN, &OwnKey::address(source)),
            Addresses::V6 { source, .. } => has(&OWN6, &source),
        }
}

/// Whether a map of own sources has `key`.
#[inline(always)]
fn has<K>(map: &HashMap<K, u8>, key: &K) -> bool
where
    for<'a> OwnPresence: From<&'a K>,
{
    // SAFETY: the value is not read.
    may_have(&OWN_PRESENCE, OwnPresence::from(key)) && unsafe { map.get(key) }.is_some()
}

/// Whether `datagrams` more are within the limit at `position` in [`LIMITS`]. Counts them if not.
///
/// Not atomic: of CPUs that do this at the same moment, one CPU's datagrams are added and the
/// others' are not, so n CPUs may let n times the limit through. The NIC puts a sender's datagrams
/// on one queue, which one CPU serves.
#[inline(always)]
fn is_within(position: u32, datagrams: u64) -> bool {
    let Some(limit) = LIMITS.get_ptr_mut(position) else {
        return true;
    };
    // SAFETY: the kernel keeps the element in place; other CPUs only change `due`, which is read
    // once.
    let LimitValue {
        due,
        interval,
        slack,
    } = unsafe { limit.read_volatile() };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() } << LimitValue::PARTS;
    if due > now + slack {
        if let Some(over) = OVER_LIMIT.get_ptr_mut(position) {
            // SAFETY: this CPU's own cell.
            unsafe { *over += datagrams };
        }
        return false;
    }
    let due = due.max(now) + interval * datagrams;
    // SAFETY: as above.
    unsafe { (&raw mut (*limit).due).write_volatile(due) };
    true
}

/// Adds `times` to this CPU's value of a counter, and returns the new value. (There is always one;
/// what the verifier wants instead is a number that callers look at no further.)
#[inline(always)]
pub fn count(value: InterfaceValue, counter: Counter, times: u64) -> u64 {
    let Some(cell) = COUNTERS.get_ptr_mut(value.counter(counter)) else {
        return u64::MAX;
    };
    // SAFETY: the kernel returns this CPU's own cell, and the program does not preempt itself.
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

/// The kernel allows some helpers only to programs under a licence that is compatible with its own.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
