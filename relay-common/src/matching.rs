//! The look-up: from a datagram to the flow that takes it, the most specific one. One algorithm for
//! the kernel programs and for user space, over [`Tables`] of whatever kind.
//!
//! A flow names, or leaves open, the source, the group and the port. One that names the source comes
//! before one that does not; a longer prefix before a shorter one; one port before a range, and
//! that before any port. The interface and the VLAN are always exact: together they are the *place*.
//!
//! Three tables hold the flows:
//!
//! - **exact**: one group, one port, any source. Nearly every flow is of this kind, and a frame of
//!   it costs one look-up in a hash table. Flags in the value tell whether there is more to look
//!   for.
//! - **shaped**: all other flows, by the place, the source, the prefix, and the port in some form.
//!   Prefix length and form of the port are the [`Shape`] of a flow; the look-up tries one shape
//!   after the other, so its price depends on how many shapes there are, not on how many flows.
//! - **shapes**: per interface, the shapes that its flows have, the most specific one first: a list
//!   for flows with a source and one for flows without, for each IP version. Where it is empty,
//!   there is nothing to pay.
//!
//! Ranges of ports that overlap cut the ports into **classes**: the ports of one class are in the
//! same ranges. A flow with a range has an entry for each of its classes.

mod keys;

pub use self::keys::{ExactKey4, ExactKey6, Halves, ShapedKey4, ShapedKey6, place, shape_and_port};
use crate::wire::{Addresses, Datagram, ipv4, ipv6};

/// What a look-up finds: the flow's number, flags, and the position of its limit. All zeros stands
/// for nothing.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowValue(u64);

impl FlowValue {
    /// No flow.
    pub const NONE: Self = Self(0);
    /// Where the position of the limit starts, counted from 1; below it is the flow's number.
    const LIMIT: u32 = 32;
    /// A flow, and no mere carrier of the other flags.
    const IS_FLOW: u64 = 1 << 61;
    /// Flows with the same group and port name sources.
    const NAMES_SOURCES: u64 = 1 << 62;
    /// Flows with a prefix around the group name sources.
    const IS_COVERED: u64 = 1 << 63;

    /// The value of flow number `flow`, whose limit is at position `limit` of
    /// [`LIMITS`](crate::abi::LIMITS). Of a limit, 28 bits count.
    #[must_use]
    pub const fn new(flow: u32, limit: Option<u32>) -> Self {
        let limit = match limit {
            Some(position) => (position + 1) & 0x0fff_ffff,
            None => 0,
        };
        Self(Self::IS_FLOW | (limit as u64) << Self::LIMIT | flow as u64)
    }

    /// The same with the flags of an entry of the exact table.
    #[must_use]
    pub const fn with_flags(self, names_sources: bool, is_covered: bool) -> Self {
        let mut value = self.0 & !(Self::NAMES_SOURCES | Self::IS_COVERED);
        if names_sources {
            value |= Self::NAMES_SOURCES;
        }
        if is_covered {
            value |= Self::IS_COVERED;
        }
        Self(value)
    }

    /// Its number in the map.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether it is a flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_flow(self) -> bool {
        self.0 & Self::IS_FLOW != 0
    }

    /// The flow's number.
    #[inline(always)]
    #[must_use]
    pub const fn flow(self) -> u32 {
        self.0 as u32
    }

    /// The position of its limit, `None` where it has none.
    #[inline(always)]
    #[must_use]
    pub const fn limit(self) -> Option<u32> {
        ((self.0 >> Self::LIMIT) as u32 & 0x0fff_ffff).checked_sub(1)
    }

    /// Whether it is a flow, and nothing more specific can take a datagram of its group and port.
    #[inline(always)]
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.0 >> 61 == Self::IS_FLOW >> 61
    }

    #[inline(always)]
    const fn names_sources(self) -> bool {
        self.0 & Self::NAMES_SOURCES != 0
    }

    #[inline(always)]
    const fn is_covered(self) -> bool {
        self.0 & Self::IS_COVERED != 0
    }
}

/// The form of a flow's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortForm {
    /// Any port: the key has 0.
    Any = 1,
    /// A range of ports: the key has the class.
    Class = 2,
    /// One port, which the key has.
    One = 3,
}

/// Prefix length and form of the port of a flow. Never 0; the larger number is more specific.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape(u16);

impl Shape {
    /// Bits of the port's form.
    const FORM_BITS: u32 = 2;
    /// One group and one port, over IPv4 and over IPv6.
    pub const EXACT4: Self = Self::new(32, PortForm::One);
    /// See [`Self::EXACT4`].
    pub const EXACT6: Self = Self::new(128, PortForm::One);

    /// The shape of flows with a prefix of `prefix_len` bits, at most 128.
    #[must_use]
    pub const fn new(prefix_len: u8, form: PortForm) -> Self {
        Self((prefix_len as u16) << Self::FORM_BITS | form as u16)
    }

    /// Its number.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Length of the prefix.
    #[inline(always)]
    const fn prefix_len(self) -> u32 {
        (self.0 >> Self::FORM_BITS) as u32
    }
}

/// A port in each of its forms, 16 bits each, by the numbers of [`PortForm`].
#[derive(Clone, Copy)]
struct Forms(u64);

impl Forms {
    #[inline(always)]
    fn new<T: Tables>(tables: T, port: u16) -> Self {
        const CLASS: u32 = PortForm::Class as u32 * u16::BITS;
        const ONE: u32 = PortForm::One as u32 * u16::BITS;
        Self(u64::from(tables.class(port)) << CLASS | u64::from(port) << ONE)
    }

    /// What a key with `shape` has for the port.
    #[inline(always)]
    const fn of(self, shape: Shape) -> u16 {
        let form = shape.0 as u32 & ((1 << Shape::FORM_BITS) - 1);
        self.0.wrapping_shr(form * u16::BITS) as u16
    }
}

/// The lists of shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum List {
    /// Of flows over IPv4 without a source.
    Any4 = 0,
    /// Of flows over IPv4 with a source.
    Named4 = 1,
    /// Of flows over IPv6 without a source.
    Any6 = 2,
    /// Of flows over IPv6 with a source.
    Named6 = 3,
}

impl List {
    /// Numbers of 64 bits per list.
    pub const WORDS: u32 = 8;
    /// Shapes per number, the first one in the lowest bits.
    pub const PER_WORD: u32 = 4;
    /// Shapes per list.
    pub const LEN: usize = (Self::WORDS * Self::PER_WORD) as usize;
    /// Numbers per interface: its lists, and one that is 0 where all of them are empty.
    pub const STRIDE: u32 = 4 * Self::WORDS + 1;

    /// Where the number is that is 0 if an interface has no shapes.
    #[inline(always)]
    #[must_use]
    pub const fn summary(slot: u8) -> u32 {
        slot as u32 * Self::STRIDE + 4 * Self::WORDS
    }

    /// Where the list of an interface starts.
    #[inline(always)]
    #[must_use]
    pub const fn start(self, slot: u8) -> u32 {
        slot as u32 * Self::STRIDE + self as u32 * Self::WORDS
    }
}

/// The tables of flows.
pub trait Tables: Copy {
    /// The entry of the exact table, [`FlowValue::NONE`] where there is none.
    fn exact4(&self, key: &ExactKey4) -> FlowValue;
    /// The same over IPv6.
    fn exact6(&self, key: &ExactKey6) -> FlowValue;
    /// The entry of the shaped table, [`FlowValue::NONE`] where there is none.
    fn shaped4(&self, key: &ShapedKey4) -> FlowValue;
    /// The same over IPv6.
    fn shaped6(&self, key: &ShapedKey6) -> FlowValue;
    /// Number `at` of the lists of shapes.
    fn shapes(&self, at: u32) -> u64;
    /// The class of a port.
    fn class(&self, port: u16) -> u16;
}

/// Ports per number of 64 bits in a table of classes, the first one in the lowest bits.
pub const CLASSES_PER_WORD: u32 = 4;

/// The class of `port` in the number of the table that has it, number `port / CLASSES_PER_WORD`.
#[inline(always)]
#[must_use]
pub const fn class_in(word: u64, port: u16) -> u16 {
    (word >> (port as u32 % CLASSES_PER_WORD * u16::BITS)) as u16
}

/// The flow that takes `datagram`, which arrived on the interface with this slot;
/// [`FlowValue::NONE`] if none does.
#[inline(always)]
pub fn find<T: Tables>(tables: T, slot: u8, datagram: &Datagram) -> FlowValue {
    let (place, port) = (place(slot, datagram.vlan), datagram.port);
    match datagram.addresses {
        Addresses::V4 { source, group } => {
            let exact = tables.exact4(&ExactKey4 {
                place,
                group,
                port: u32::from(port),
            });
            if exact.is_final() || has_nothing_beyond(tables, slot, exact) {
                return exact;
            }
            let wanted = Wanted4 {
                place,
                source,
                group,
            };
            beyond(tables, &wanted, slot, port, exact)
        }
        Addresses::V6 { source, group } => {
            let exact = tables.exact6(&ExactKey6 {
                place,
                port: u32::from(port),
                group,
            });
            if exact.is_final() || has_nothing_beyond(tables, slot, exact) {
                return exact;
            }
            let wanted = Wanted6 {
                place,
                source,
                group,
            };
            beyond(tables, &wanted, slot, port, exact)
        }
    }
}

/// What a flow is looked for by, but the port.
trait Wanted {
    const EXACT: Shape;
    const ANY: List;
    const NAMED: List;

    fn shaped<T: Tables>(&self, tables: T, named: bool, shape: Shape, port: u16) -> FlowValue;
}

/// Whether there is nothing to look for where the exact table has `exact`: the price of frames that
/// no flow takes, on most interfaces.
#[inline(always)]
fn has_nothing_beyond<T: Tables>(tables: T, slot: u8, exact: FlowValue) -> bool {
    exact.0 == FlowValue::NONE.0 && tables.shapes(List::summary(slot)) == 0
}

/// The flow that takes a datagram for which the exact table has `exact`. A function of its own in
/// the kernel programs as well, where everything around it is there once for every kind of header.
#[inline(never)]
fn beyond<T: Tables, W: Wanted>(
    tables: T,
    wanted: &W,
    slot: u8,
    port: u16,
    exact: FlowValue,
) -> FlowValue {
    if exact.names_sources() {
        let found = wanted.shaped(tables, true, W::EXACT, port);
        if found.is_flow() {
            return found;
        }
    }
    if !exact.is_flow() || exact.is_covered() {
        let found = search(tables, wanted, true, W::NAMED.start(slot), port);
        if found.is_flow() {
            return found;
        }
    }
    if exact.is_flow() {
        return exact;
    }
    search(tables, wanted, false, W::ANY.start(slot), port)
}

/// Tries the shapes of the list that starts at `start`.
///
/// The verifier follows every path through the loop, so the loop has no branches but its exits.
#[inline(always)]
fn search<T: Tables, W: Wanted>(
    tables: T,
    wanted: &W,
    named: bool,
    start: u32,
    port: u16,
) -> FlowValue {
    if tables.shapes(start) == 0 {
        return FlowValue::NONE;
    }
    let forms = Forms::new(tables, port);
    let mut at = 0;
    while at < List::WORDS {
        let mut shapes = tables.shapes(start + at);
        let mut left = List::PER_WORD;
        while left > 0 {
            let shape = Shape(shapes as u16);
            if shape.0 == 0 {
                return FlowValue::NONE;
            }
            let found = wanted.shaped(tables, named, shape, forms.of(shape));
            if found.is_flow() {
                return found;
            }
            shapes >>= u16::BITS;
            left -= 1;
        }
        at += 1;
    }
    FlowValue::NONE
}

struct Wanted4 {
    place: u32,
    source: ipv4::Address,
    group: ipv4::Address,
}

impl Wanted for Wanted4 {
    const EXACT: Shape = Shape::EXACT4;
    const ANY: List = List::Any4;
    const NAMED: List = List::Named4;

    #[inline(always)]
    fn shaped<T: Tables>(&self, tables: T, named: bool, shape: Shape, port: u16) -> FlowValue {
        tables.shaped4(&ShapedKey4 {
            place: self.place,
            source: if named { self.source } else { 0 },
            group: u32::from_be(self.group) & mask4(shape.prefix_len()),
            shape_and_port: shape_and_port(shape, port),
        })
    }
}

struct Wanted6 {
    place: u32,
    source: ipv6::Address,
    group: ipv6::Address,
}

impl Wanted for Wanted6 {
    const EXACT: Shape = Shape::EXACT6;
    const ANY: List = List::Any6;
    const NAMED: List = List::Named6;

    #[inline(always)]
    fn shaped<T: Tables>(&self, tables: T, named: bool, shape: Shape, port: u16) -> FlowValue {
        let [first, second] = self.group;
        let [first_mask, second_mask] = mask6(shape.prefix_len());
        tables.shaped6(&ShapedKey6 {
            place: self.place,
            shape_and_port: shape_and_port(shape, port),
            halves: [
                Halves {
                    group: u64::from_be(first) & first_mask,
                    source: if named { self.source[0] } else { 0 },
                },
                Halves {
                    group: u64::from_be(second) & second_mask,
                    source: if named { self.source[1] } else { 0 },
                },
            ],
        })
    }
}

/// The first `len` bits of 32.
#[inline(always)]
const fn mask4(len: u32) -> u32 {
    !((u32::MAX as u64).wrapping_shr(len) as u32)
}

/// The first `len` bits of 128, without a branch; `len` is at most 128.
#[inline(always)]
const fn mask6(len: u32) -> [u64; 2] {
    let part = !u64::MAX.wrapping_shr(len & 63);
    // All ones from 64 on, and at 128.
    let from_64 = 0_u64.wrapping_sub(((len as u64 >> 6) + 1) >> 1);
    let at_128 = 0_u64.wrapping_sub(len as u64 >> 7);
    [part | from_64, part & from_64 | at_128]
}

#[cfg(feature = "user")]
mod pod {
    use super::{ExactKey4, ExactKey6, FlowValue, ShapedKey4, ShapedKey6};

    // SAFETY: `repr(transparent)` over an integer, valid for every bit pattern.
    unsafe impl aya::Pod for FlowValue {}
    // SAFETY: `repr(C)`, plain integers, no padding (asserted above), valid for every bit pattern.
    unsafe impl aya::Pod for ExactKey4 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ExactKey6 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ShapedKey4 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ShapedKey6 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_as_many_bits_as_the_prefix() {
        for len in 0..=32 {
            assert_eq!(
                (mask4(len).leading_ones(), mask4(len).count_ones()),
                (len, len)
            );
        }
        for len in 0..=128 {
            let [first, second] = mask6(len);
            let mask = u128::from(first) << 64 | u128::from(second);
            assert_eq!((mask.leading_ones(), mask.count_ones()), (len, len));
        }
    }

    #[test]
    fn a_value_keeps_number_limit_and_flags_apart() {
        for flow in [0, 1, u32::MAX] {
            for limit in [None, Some(0), Some(0x0fff_fffe)] {
                let value = FlowValue::new(flow, limit);
                assert_eq!((value.flow(), value.limit()), (flow, limit));
                assert!(value.is_flow() && value.is_final());
                let flagged = value.with_flags(true, true);
                assert_eq!((flagged.flow(), flagged.limit()), (flow, limit));
                assert!(flagged.is_flow() && !flagged.is_final());
                assert_eq!(flagged.with_flags(false, false), value);
            }
        }
        let carrier = FlowValue::NONE.with_flags(true, false);
        assert!(!carrier.is_flow() && !carrier.is_final());
    }
}
