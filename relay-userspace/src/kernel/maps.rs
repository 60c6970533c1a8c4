//! The maps that both kernel programs have: the interfaces they serve, the flows that match, the
//! relay's own sources, the limits and the counters.
//!
//! Each loaded program has its own set of maps.

use std::collections::BTreeSet;

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
};
use relay_common::{
    abi::{self, Counter, InterfaceValue, OwnKey},
    wire::ipv6,
};

use super::{
    came_back::Noted,
    error::{KernelError, map_write},
    flows::Flows,
    limits::zero,
    own_sources::{MapKey, OwnSource},
};
use crate::plan::Interface;

/// The counters of one interface, by the numbers of [`Counter`].
pub type Counters = [u64; Counter::COUNT as usize];

/// The maps of one loaded program.
pub struct Maps {
    interfaces: HashMap<MapData, u32, InterfaceValue>,
    pub flows: Flows,
    own: HashMap<MapData, OwnKey, u8>,
    own6: HashMap<MapData, ipv6::Address, u8>,
    /// What is in both.
    own_sources: BTreeSet<OwnSource>,
    counters: PerCpuArray<MapData, u64>,
    pub came_back: Noted,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            interfaces: hash_map(ebpf, abi::INTERFACES)?,
            flows: Flows::take_from(ebpf)?,
            own: hash_map(ebpf, abi::OWN)?,
            own6: hash_map(ebpf, abi::OWN6)?,
            own_sources: BTreeSet::new(),
            counters: PerCpuArray::try_from(take(ebpf, abi::COUNTERS)?)
                .map_err(|_| KernelError::Map(abi::COUNTERS))?,
            came_back: Noted::take_from(ebpf)?,
        })
    }

    /// Makes the program take frames from `sources`, and no others, for copies that came back. New
    /// sources are written before old ones are removed. If the kernel refuses one, the sources are
    /// as before.
    pub fn set_own_sources(&mut self, sources: &BTreeSet<OwnSource>) -> Result<(), KernelError> {
        let mut added = Vec::new();
        let new: Vec<_> = sources.difference(&self.own_sources).copied().collect();
        for source in new {
            if let Err((map, error)) = self.add_own(source) {
                for source in added {
                    self.remove_own(source);
                }
                return Err(map_write(map, source.to_string(), &error));
            }
            added.push(source);
        }
        let gone: Vec<_> = self.own_sources.difference(sources).copied().collect();
        for source in gone {
            self.remove_own(source);
        }
        self.own_sources.clone_from(sources);
        Ok(())
    }

    /// Writes an own source. An error has the name of the map.
    fn add_own(&mut self, source: OwnSource) -> Result<(), (&'static str, MapError)> {
        match source.key() {
            MapKey::Own(key) => self.own.insert(key, 0, 0).map_err(|e| (abi::OWN, e)),
            MapKey::Own6(key) => self.own6.insert(key, 0, 0).map_err(|e| (abi::OWN6, e)),
        }
    }

    /// Removes an own source. One that is not there is no error.
    fn remove_own(&mut self, source: OwnSource) {
        let _ = match source.key() {
            MapKey::Own(key) => self.own.remove(&key),
            MapKey::Own6(key) => self.own6.remove(&key),
        };
    }

    /// Makes the program count and match frames that arrive on `interface`, which has this slot.
    pub fn serve(&mut self, slot: u16, interface: &Interface) -> Result<(), KernelError> {
        let value = InterfaceValue::new(slot, interface.mac);
        self.interfaces
            .insert(interface.index, value, 0)
            .map_err(|error| map_write(abi::INTERFACES, &interface.name, &error))
    }

    /// Makes the program ignore frames that arrive on an interface, given by its index. One that it
    /// does not serve is no error.
    pub fn unserve(&mut self, interface: u32) {
        let _ = self.interfaces.remove(&interface);
    }

    /// The program's counters of a slot, summed over all CPUs. [`Counter::Received`] is the sum of
    /// the others. `None` if the map cannot be read.
    pub fn counters(&self, slot: u16) -> Option<Counters> {
        let value = InterfaceValue::new(slot, [0; 6]);
        let mut sums = [0; Counter::COUNT as usize];
        for (sum, counter) in sums.iter_mut().zip(Counter::ALL) {
            let per_cpu = self.counters.get(&value.counter(counter), 0).ok()?;
            *sum = per_cpu.iter().sum();
        }
        sums[Counter::Received as usize] = sums.iter().sum();
        Some(sums)
    }

    /// Zeroes the counters of a slot for `interface`, which no program serves yet.
    pub fn zero(&mut self, slot: u16, interface: &str) -> Result<(), KernelError> {
        let value = InterfaceValue::new(slot, [0; 6]);
        for counter in Counter::ALL {
            zero(&mut self.counters, value.counter(counter)).map_err(|error| {
                map_write(
                    abi::COUNTERS,
                    format!("the counters of {interface}"),
                    &*error,
                )
            })?;
        }
        Ok(())
    }
}

/// Takes the map `name` out of a loaded object.
pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Map(name))
}

/// Takes the hash map `name` out of a loaded object.
pub fn hash_map<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    HashMap::try_from(take(ebpf, name)?).map_err(|_| KernelError::Map(name))
}
