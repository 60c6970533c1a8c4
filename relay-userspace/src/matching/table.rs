//! The tables in user space: what the maps are in the kernel.

use relay_common::{
    abi::MAX_PORT_CLASSES,
    matching::{
        self, CLASSES_PER_WORD, ExactKey4, ExactKey6, FlowValue, List, ShapedKey4, ShapedKey6,
        Tables, class_in,
    },
    wire::{Addresses, Datagram},
};
use rustc_hash::FxHashMap;

use super::{index::Index, key::MatchKey, shapes::TooManyShapes, write::Write};

/// Flows by what they match, for look-ups per frame.
#[derive(Debug, Default)]
pub struct Table {
    exact4: FxHashMap<ExactKey4, FlowValue>,
    exact6: FxHashMap<ExactKey6, FlowValue>,
    shaped4: FxHashMap<ShapedKey4, FlowValue>,
    shaped6: FxHashMap<ShapedKey6, FlowValue>,
    /// As long as the slots with shapes need it.
    shapes: Vec<u64>,
    /// Empty until a flow has a range.
    classes: Vec<u64>,
    /// What the last frame of an exact IPv4 flow matched, and its number: feeds come in bursts.
    last: Option<(ExactKey4, u32)>,
    /// The same for IPv6.
    last6: Option<(ExactKey6, u32)>,
    /// What the last datagram was that is not of an exact flow, or not only that, and its flow.
    last_searched: Option<(Wanted, Option<u32>)>,
}

/// All that a flow can be looked for by: the place, the addresses, and the port.
type Wanted = (u32, Addresses, u16);

impl Table {
    /// The table of `flows`, each with its number.
    ///
    /// # Errors
    ///
    /// An interface has too many shapes.
    pub fn new(flows: impl IntoIterator<Item = (MatchKey, u32)>) -> Result<Self, TooManyShapes> {
        let mut index = Index::default();
        let mut table = Self::default();
        for (key, flow) in flows {
            for write in index.open(key, FlowValue::new(flow, None))? {
                table.write(write);
            }
        }
        Ok(table)
    }

    /// Writes an entry.
    pub fn write(&mut self, write: Write) {
        (self.last, self.last6, self.last_searched) = (None, None, None);
        match write {
            Write::Exact4(key, value) => set(&mut self.exact4, key, value),
            Write::Exact6(key, value) => set(&mut self.exact6, key, value),
            Write::Shaped4(key, value) => set(&mut self.shaped4, key, value),
            Write::Shaped6(key, value) => set(&mut self.shaped6, key, value),
            Write::Shapes(at, word) => {
                let needed = (at / List::STRIDE + 1) * List::STRIDE;
                if self.shapes.len() < needed as usize {
                    self.shapes.resize(needed as usize, 0);
                }
                if let Some(place) = self.shapes.get_mut(at as usize) {
                    *place = word;
                }
            }
            Write::Classes(at, word) => {
                self.classes.resize(MAX_PORT_CLASSES as usize, 0);
                if let Some(place) = self.classes.get_mut(at as usize) {
                    *place = word;
                }
            }
        }
    }

    /// The number of the flow that takes `datagram`, which arrived on the interface with this slot.
    // Always inlined: a call costs 6 to 15 instructions per frame.
    #[inline(always)]
    pub fn look_up(&mut self, slot: u8, datagram: &Datagram) -> Option<u32> {
        let place = matching::place(slot, datagram.vlan);
        let port = u32::from(datagram.port);
        let group = match datagram.addresses {
            Addresses::V4 { group, .. } => group,
            Addresses::V6 { group, .. } => {
                return self.look_up6(ExactKey6 { group, place, port }, slot, datagram);
            }
        };
        let key = ExactKey4 { place, group, port };
        if let Some((last, flow)) = self.last
            && last == key
        {
            return Some(flow);
        }
        let value = (&*self).exact4(&key);
        if value.is_final() {
            self.last = Some((key, value.flow()));
            return Some(value.flow());
        }
        self.search(slot, *datagram)
    }

    /// The same for IPv6, with the exact `key` of `datagram`.
    #[inline(always)]
    fn look_up6(&mut self, key: ExactKey6, slot: u8, datagram: &Datagram) -> Option<u32> {
        if let Some((last, flow)) = self.last6
            && last == key
        {
            return Some(flow);
        }
        let value = (&*self).exact6(&key);
        if value.is_final() {
            self.last6 = Some((key, value.flow()));
            return Some(value.flow());
        }
        self.search(slot, *datagram)
    }

    /// The same for what is not an exact flow, or not only that.
    #[inline(never)]
    fn search(&mut self, slot: u8, datagram: Datagram) -> Option<u32> {
        let place = matching::place(slot, datagram.vlan);
        let wanted = (place, datagram.addresses, datagram.port);
        if let Some((last, flow)) = self.last_searched
            && last == wanted
        {
            return flow;
        }
        let value = matching::find(&*self, slot, &datagram);
        let flow = value.is_flow().then(|| value.flow());
        self.last_searched = Some((wanted, flow));
        flow
    }
}

fn set<K: std::hash::Hash + Eq>(map: &mut FxHashMap<K, FlowValue>, key: K, value: FlowValue) {
    if value == FlowValue::NONE {
        map.remove(&key);
    } else {
        map.insert(key, value);
    }
}

impl Tables for &Table {
    #[inline(always)]
    fn exact4(&self, key: &ExactKey4) -> FlowValue {
        self.exact4.get(key).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn exact6(&self, key: &ExactKey6) -> FlowValue {
        self.exact6.get(key).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn shaped4(&self, key: &ShapedKey4) -> FlowValue {
        self.shaped4.get(key).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn shaped6(&self, key: &ShapedKey6) -> FlowValue {
        self.shaped6.get(key).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn shapes(&self, at: u32) -> u64 {
        self.shapes.get(at as usize).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn class(&self, port: u16) -> u16 {
        let word = self
            .classes
            .get((u32::from(port) / CLASSES_PER_WORD) as usize);
        class_in(word.copied().unwrap_or(0), port)
    }
}
