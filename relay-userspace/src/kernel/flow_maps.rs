//! The maps of flows: what is open, written entry by entry.

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap as BpfHashMap, MapData, MapError},
};
use relay_common::{
    abi,
    matching::{ExactKey4, ExactKey6, FlowPresence, FlowValue, ShapedKey4, ShapedKey6},
};

use super::{
    error::{KernelError, map_write},
    maps::{array, hash_map},
    presence_bits::FlowBits,
};
use crate::matching::{Index, MatchKey, Write};

/// The maps of one loaded program, and what is in them.
pub struct FlowMaps {
    index: Index,
    exact4: BpfHashMap<MapData, ExactKey4, FlowValue>,
    exact6: BpfHashMap<MapData, ExactKey6, FlowValue>,
    shaped4: BpfHashMap<MapData, ShapedKey4, FlowValue>,
    shaped6: BpfHashMap<MapData, ShapedKey6, FlowValue>,
    presence: FlowBits,
    shapes: Array<MapData, u64>,
    classes: Array<MapData, u64>,
}

impl FlowMaps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// The object has no such map: it is of another version.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            index: Index::default(),
            exact4: hash_map(ebpf, abi::FLOWS)?,
            exact6: hash_map(ebpf, abi::FLOWS6)?,
            shaped4: hash_map(ebpf, abi::SHAPED)?,
            shaped6: hash_map(ebpf, abi::SHAPED6)?,
            presence: FlowBits::take_from(ebpf, abi::PRESENCE)?,
            shapes: array(ebpf, abi::SHAPES)?,
            classes: array(ebpf, abi::PORT_CLASSES)?,
        })
    }

    /// Makes a flow match, or gives one that does another value, without missing a frame; `value`
    /// must be a flow. `rule` is its name, for errors.
    ///
    /// # Errors
    ///
    /// A map refused an entry, or the interface has too many shapes. The flow is as before.
    pub fn open(&mut self, key: MatchKey, value: FlowValue, rule: &str) -> Result<(), KernelError> {
        let before = self.index.get(&key);
        if before == Some(value) {
            return Ok(());
        }
        let writes = self.index.open(key, value);
        let writes = writes.map_err(|_| KernelError::TooManyShapes {
            rule: rule.to_owned(),
        })?;
        for write in writes {
            if let Err((map, error)) = self.write(write) {
                match before {
                    Some(before) => {
                        let back = self.index.open(key, before).unwrap_or_default();
                        self.write_all(back);
                    }
                    None => self.close(&key),
                }
                return Err(map_write(map, format!("the rule \"{rule}\""), &error));
            }
        }
        Ok(())
    }

    /// Makes a flow stop matching. One that is not open is no error.
    pub fn close(&mut self, key: &MatchKey) {
        let writes = self.index.close(key);
        self.write_all(writes);
    }

    /// Writes entries that take no memory.
    fn write_all(&mut self, writes: Vec<Write>) {
        for write in writes {
            // What cannot be removed is not there.
            let _ = self.write(write);
        }
    }

    /// Writes an entry. An error has the name of the map.
    fn write(&mut self, write: Write) -> Result<(), (&'static str, MapError)> {
        let bits = &mut self.presence;
        match write {
            Write::Exact4(key, value) => set(&mut self.exact4, bits, key, value, abi::FLOWS),
            Write::Exact6(key, value) => set(&mut self.exact6, bits, key, value, abi::FLOWS6),
            Write::Shaped4(key, value) => set(&mut self.shaped4, bits, key, value, abi::SHAPED),
            Write::Shaped6(key, value) => set(&mut self.shaped6, bits, key, value, abi::SHAPED6),
            Write::Shapes(at, word) => {
                let written = self.shapes.set(at, word, 0);
                written.map_err(|error| (abi::SHAPES, error))
            }
            Write::Classes(at, word) => {
                let written = self.classes.set(at, word, 0);
                written.map_err(|error| (abi::PORT_CLASSES, error))
            }
        }
    }
}

fn set<K: Pod>(
    map: &mut BpfHashMap<MapData, K, FlowValue>,
    bits: &mut FlowBits,
    key: K,
    value: FlowValue,
    name: &'static str,
) -> Result<(), (&'static str, MapError)>
where
    for<'a> FlowPresence: From<&'a K>,
{
    let bit = FlowPresence::from(&key);
    if value == FlowValue::NONE {
        if map.remove(&key).is_ok() {
            bits.remove(bit);
        }
        return Ok(());
    }
    let is_new = map.get(&key, 0).is_err();
    let mut write = || map.insert(key, value, 0).map_err(|error| (name, error));
    if is_new {
        bits.add(bit, write)
    } else {
        write()
    }
}
