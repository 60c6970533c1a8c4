//! The look-up: from a datagram to the flow that takes it, the most specific one. One algorithm for
//! the kernel programs and for user space, over [`Tables`] of whatever kind.
//!
//! A flow names, or leaves open, the source, the group and the port. One that names the source
//! comes before one that does not; a longer prefix before a shorter one; one port before a range,
//! and that before any port. The interface and the VLAN are always exact: together they are the
//! *place*.
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
//! A number per interface tells which of its lists have shapes, and whether a flow names the
//! address of a host instead of a group.
//!
//! Ranges of ports that overlap cut the ports into **classes**: the ports of one class are in the
//! same ranges. A flow with a range has an entry for each of its classes.

mod beyond;
mod keys;
mod presence;
mod shape;
mod value;

pub use self::{
    beyond::Beyond,
    keys::{ExactKey4, ExactKey6, Halves, ShapedKey4, ShapedKey6, place, shape_and_port},
    presence::{FLOW_BITS, FlowPresence, OWN_BITS, OwnPresence, Presence},
    shape::{List, PortForm, Shape},
    value::FlowValue,
};
use self::{keys::slot, shape::Forms};
use crate::wire::{Addresses, Datagram, ipv4, ipv6};

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

    /// [`search4`]. The kernel programs call a function of their own.
    #[inline(always)]
    fn search4(self, source: ipv4::Address, group: ipv4::Address, wanted: Beyond) -> FlowValue {
        search4(self, source, group, wanted)
    }

    /// [`search6`]. The kernel programs call a function of their own.
    #[inline(always)]
    fn search6(self, source: ipv6::Address, group: ipv6::Address, wanted: Beyond) -> FlowValue {
        search6(self, source, group, wanted)
    }
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
            let Some(lists) = lists_beyond(tables, slot, exact) else {
                return exact;
            };
            let wanted = Beyond::new(place, port, lists, exact);
            let addresses = Wanted4 {
                place,
                source,
                group,
            };
            beyond(tables, &addresses, wanted).or(exact)
        }
        Addresses::V6 { source, group } => {
            let exact = tables.exact6(&ExactKey6 {
                place,
                port: u32::from(port),
                group,
            });
            let Some(lists) = lists_beyond(tables, slot, exact) else {
                return exact;
            };
            let wanted = Beyond::new(place, port, lists, exact);
            let addresses = Wanted6 {
                place,
                source,
                group,
            };
            beyond(tables, &addresses, wanted).or(exact)
        }
    }
}

/// Whether a flow of the interface with this slot names the address of a host. Where none does,
/// datagrams to hosts need not be looked up.
#[inline(always)]
pub fn takes_unicast<T: Tables>(tables: T, slot: u8) -> bool {
    tables.shapes(List::bits(slot)) & List::UNICAST != 0
}

/// What a flow is looked for by, but the port.
trait Wanted {
    const EXACT: Shape;
    const ANY: List;
    const NAMED: List;

    fn search<T: Tables>(&self, tables: T, wanted: Beyond) -> FlowValue;
    fn shaped<T: Tables>(&self, tables: T, named: bool, shape: Shape, port: u16) -> FlowValue;
}

/// The number of [`List::bits`] of an interface; `None` where the exact table has `exact` and there
/// is nothing else to look for.
#[inline(always)]
fn lists_beyond<T: Tables>(tables: T, slot: u8, exact: FlowValue) -> Option<u64> {
    if exact.is_final() {
        return None;
    }
    let lists = tables.shapes(List::bits(slot)) & List::ALL_BITS;
    (lists != 0 || exact.bits() != 0).then_some(lists)
}

/// The flow of the shaped table that takes a datagram for which the exact table has no final
/// answer; [`FlowValue::NONE`] if none does. A function of its own in the kernel programs as well,
/// where everything around it is there once for every kind of header. Five arguments are all that a
/// function of a kernel program may have, those of no size included: Linux 7.3 counts them in the
/// BTF.
#[inline(never)]
fn beyond<T: Tables, W: Wanted>(tables: T, addresses: &W, wanted: Beyond) -> FlowValue {
    let exact = wanted.exact();
    if exact.names_sources() {
        let found = addresses.shaped(tables, true, W::EXACT, wanted.port());
        if found.is_flow() {
            return found;
        }
    }
    if wanted.has_list(W::NAMED) && (!exact.is_flow() || exact.is_covered()) {
        let found = addresses.search(tables, wanted.with_sources());
        if found.is_flow() {
            return found;
        }
    }
    if exact.is_flow() || !wanted.has_list(W::ANY) {
        return FlowValue::NONE;
    }
    addresses.search(tables, wanted)
}

/// The first flow over IPv4 of the list of shapes that `wanted` names; [`FlowValue::NONE`] if it
/// has none.
#[inline(always)]
pub fn search4<T: Tables>(
    tables: T,
    source: ipv4::Address,
    group: ipv4::Address,
    wanted: Beyond,
) -> FlowValue {
    let place = wanted.place();
    let addresses = Wanted4 {
        place,
        source,
        group,
    };
    search(tables, &addresses, wanted)
}

/// The same over IPv6.
#[inline(always)]
pub fn search6<T: Tables>(
    tables: T,
    source: ipv6::Address,
    group: ipv6::Address,
    wanted: Beyond,
) -> FlowValue {
    let place = wanted.place();
    let addresses = Wanted6 {
        place,
        source,
        group,
    };
    search(tables, &addresses, wanted)
}

/// Tries the shapes of a list.
///
/// The verifier follows every path through the loop, so the loop has no branches but its exits.
#[inline(always)]
fn search<T: Tables, W: Wanted>(tables: T, addresses: &W, wanted: Beyond) -> FlowValue {
    let named = wanted.is_with_sources();
    let list = if named { W::NAMED } else { W::ANY };
    let (start, port) = (list.start(slot(wanted.place())), wanted.port());
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
            let found = addresses.shaped(tables, named, shape, forms.of(shape));
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
    fn search<T: Tables>(&self, tables: T, wanted: Beyond) -> FlowValue {
        tables.search4(self.source, self.group, wanted)
    }

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
    fn search<T: Tables>(&self, tables: T, wanted: Beyond) -> FlowValue {
        tables.search6(self.source, self.group, wanted)
    }

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
}
