//! The maps of flows, for the look-up.
//!
//! The map of exact IPv4 flows has all its memory from the start; the others take memory with each
//! entry, because most relays need none of them.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap},
};
use relay_common::{
    abi::{MAX_FLOWS, MAX_PORT_CLASSES, MAX_SHAPED, MAX_SHAPES},
    matching::{
        self, Beyond, CLASSES_PER_WORD, ExactKey4, ExactKey6, FlowPresence, FlowValue, Presence,
        ShapedKey4, ShapedKey6, Tables, class_in,
    },
    wire::{ipv4, ipv6},
};

#[map]
static FLOWS: HashMap<ExactKey4, FlowValue> = HashMap::with_max_entries(MAX_FLOWS, 0);

#[map]
static FLOWS6: HashMap<ExactKey6, FlowValue> =
    HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);

#[map]
static SHAPED: HashMap<ShapedKey4, FlowValue> =
    HashMap::with_max_entries(MAX_SHAPED, BPF_F_NO_PREALLOC);

#[map]
static SHAPED6: HashMap<ShapedKey6, FlowValue> =
    HashMap::with_max_entries(MAX_SHAPED, BPF_F_NO_PREALLOC);

#[map]
static PRESENCE: Array<u64> = Array::with_max_entries(FlowPresence::WORDS, 0);

#[map]
static SHAPES: Array<u64> = Array::with_max_entries(MAX_SHAPES, 0);

#[map]
static PORT_CLASSES: Array<u64> = Array::with_max_entries(MAX_PORT_CLASSES, 0);

/// Whether a hash table may have the entry whose presence bit is `bit` of `bits`.
#[inline(always)]
pub fn may_have<const BITS: u32>(bits: &Array<u64>, bit: Presence<BITS>) -> bool {
    bits.get(bit.word())
        .is_some_and(|word| word & bit.mask() != 0)
}

/// The maps above.
#[derive(Clone, Copy)]
pub struct Maps;

/// The value of `key`.
#[inline(always)]
fn get<K>(map: &HashMap<K, FlowValue>, key: &K) -> FlowValue
where
    for<'a> FlowPresence: From<&'a K>,
{
    if !may_have(&PRESENCE, FlowPresence::from(key)) {
        return FlowValue::NONE;
    }
    // SAFETY: one plain integer, of which any copy is valid. User space replaces values while
    // frames arrive; the kernel keeps the memory of the old one.
    match unsafe { map.get(key) } {
        Some(value) => *value,
        None => FlowValue::NONE,
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn exact4(&self, key: &ExactKey4) -> FlowValue {
        get(&FLOWS, key)
    }

    #[inline(always)]
    fn exact6(&self, key: &ExactKey6) -> FlowValue {
        get(&FLOWS6, key)
    }

    #[inline(always)]
    fn shaped4(&self, key: &ShapedKey4) -> FlowValue {
        get(&SHAPED, key)
    }

    #[inline(always)]
    fn shaped6(&self, key: &ShapedKey6) -> FlowValue {
        get(&SHAPED6, key)
    }

    #[inline(always)]
    fn shapes(&self, at: u32) -> u64 {
        SHAPES.get(at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn class(&self, port: u16) -> u16 {
        let word = PORT_CLASSES.get(u32::from(port) / CLASSES_PER_WORD);
        class_in(word.copied().unwrap_or(0), port)
    }

    #[inline(always)]
    fn search4(self, source: ipv4::Address, group: ipv4::Address, wanted: Beyond) -> FlowValue {
        let addresses = u64::from(source) << 32 | u64::from(group);
        FlowValue::from_bits(relay_search4(addresses, wanted.bits()))
    }

    #[inline(always)]
    fn search6(self, source: ipv6::Address, group: ipv6::Address, wanted: Beyond) -> FlowValue {
        let ([source_0, source_1], [group_0, group_1]) = (source, group);
        let found = relay_search6(source_0, source_1, group_0, group_1, wanted.bits());
        FlowValue::from_bits(found)
    }
}

/// [`matching::search4`] in these maps. A global function, as the one below: the verifier follows
/// it once, and not again for every kind of header in front of it. Such a function takes and
/// returns numbers alone ("Global functions" in Documentation/bpf/verifier.rst; pointers since
/// Linux 5.12).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn relay_search4(addresses: u64, wanted: u64) -> u64 {
    let (source, group) = ((addresses >> 32) as u32, addresses as u32);
    matching::search4(Maps, source, group, Beyond::from_bits(wanted)).bits()
}

/// [`matching::search6`] in these maps, as [`relay_search4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn relay_search6(
    source_0: u64,
    source_1: u64,
    group_0: u64,
    group_1: u64,
    wanted: u64,
) -> u64 {
    let (source, group) = ([source_0, source_1], [group_0, group_1]);
    matching::search6(Maps, source, group, Beyond::from_bits(wanted)).bits()
}
