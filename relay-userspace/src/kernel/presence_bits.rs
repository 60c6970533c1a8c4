//! The array of presence bits, see [`Presence`]: a bit is set before the first entry that has it is
//! written, and cleared after the last one is removed, so that no frame misses an entry.

use std::collections::HashMap;

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
};
use relay_common::matching::{FLOW_BITS, OWN_BITS, Presence};

use super::{error::KernelError, maps::array};

/// The bits, and how many entries have each.
pub struct PresenceBits<const BITS: u32> {
    name: &'static str,
    map: Array<MapData, u64>,
    entries: HashMap<Presence<BITS>, u32>,
}

/// Of the maps of flows.
pub type FlowBits = PresenceBits<FLOW_BITS>;
/// Of the maps of own sources.
pub type OwnBits = PresenceBits<OWN_BITS>;

impl<const BITS: u32> PresenceBits<BITS> {
    /// Takes the array `name` out of a loaded object. All bits are clear.
    pub fn take_from(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, KernelError> {
        Ok(Self {
            name,
            map: array(ebpf, name)?,
            entries: HashMap::new(),
        })
    }

    /// Makes `write` write an entry that is not there. An error has the name of the map.
    pub fn add(
        &mut self,
        bit: Presence<BITS>,
        write: impl FnOnce() -> Result<(), (&'static str, MapError)>,
    ) -> Result<(), (&'static str, MapError)> {
        self.set(bit).map_err(|error| (self.name, error))?;
        let written = write();
        match written {
            Ok(()) => *self.entries.entry(bit).or_default() += 1,
            Err(_) => self.tidy(bit),
        }
        written
    }

    /// Sets a bit.
    fn set(&mut self, bit: Presence<BITS>) -> Result<(), MapError> {
        if self.entries.contains_key(&bit) {
            return Ok(());
        }
        let word = self.map.get(&bit.word(), 0)?;
        self.map.set(bit.word(), word | bit.mask(), 0)
    }

    /// Counts an entry that was removed.
    pub fn remove(&mut self, bit: Presence<BITS>) {
        if let Some(count) = self.entries.get_mut(&bit) {
            *count -= 1;
            if *count == 0 {
                self.entries.remove(&bit);
            }
        }
        self.tidy(bit);
    }

    /// Clears the bit if no entry has it. One that cannot be cleared costs time, nothing else.
    fn tidy(&mut self, bit: Presence<BITS>) {
        if !self.entries.contains_key(&bit)
            && let Ok(word) = self.map.get(&bit.word(), 0)
        {
            let _ = self.map.set(bit.word(), word & !bit.mask(), 0);
        }
    }
}
