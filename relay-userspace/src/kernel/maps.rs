//! The maps that both kernel programs have: the interfaces they serve, the flows that match, the
//! relay's own sources, the limits and the counters.
//!
//! Each loaded program has its own set of maps.

use std::sync::Arc;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use relay_common::abi::{self, Counter, InterfaceValue};

use super::{
    came_back::Noted,
    error::{KernelError, map_write},
    flows::Flows,
    interfaces::Interfaces,
    limits::zero,
    marks::Marks,
    own_maps::OwnMaps,
};
use crate::plan::Interface;

/// The counters of one interface, by the numbers of [`Counter`].
pub type Counters = [u64; Counter::COUNT as usize];

/// The maps of one loaded program.
pub struct Maps {
    interfaces: Interfaces,
    pub flows: Flows,
    pub own: OwnMaps,
    counters: PerCpuArray<MapData, u64>,
    pub came_back: Noted,
    pub marks: Arc<Marks>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            interfaces: Interfaces::take_from(ebpf)?,
            flows: Flows::take_from(ebpf)?,
            own: OwnMaps::take_from(ebpf)?,
            counters: PerCpuArray::try_from(take(ebpf, abi::COUNTERS)?)
                .map_err(|_| KernelError::Map(abi::COUNTERS))?,
            came_back: Noted::take_from(ebpf)?,
            marks: Arc::new(Marks::take_from(ebpf)?),
        })
    }

    /// Makes the program count and match frames that arrive on `interface`, which has this slot.
    pub fn serve(&mut self, slot: u16, interface: &Interface) -> Result<(), KernelError> {
        let value = InterfaceValue::new(slot, interface.mac);
        let Interface { index, name, .. } = interface;
        self.interfaces.serve(*index, name, value)
    }

    /// Makes the program ignore frames that arrive on an interface, given by its index. One that it
    /// does not serve is no error.
    pub fn unserve(&mut self, interface: u32) {
        self.interfaces.unserve(interface);
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

/// Takes the array `name` out of a loaded object.
pub fn array<V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Array<MapData, V>, KernelError> {
    Array::try_from(take(ebpf, name)?).map_err(|_| KernelError::Map(name))
}

/// Takes the hash map `name` out of a loaded object.
pub fn hash_map<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    HashMap::try_from(take(ebpf, name)?).map_err(|_| KernelError::Map(name))
}
