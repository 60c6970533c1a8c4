//! The maps that every kernel program has: which interfaces it serves, which flows match, what it counted.

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData, PerCpuArray},
};
use relay_common::abi::{self, Counter, FlowKey, FlowValue, InterfaceValue};

use super::{KernelError, chain};
use crate::plan::Interface;

/// The maps of one loaded program.
pub struct Maps {
    interfaces: HashMap<MapData, u32, InterfaceValue>,
    flows: HashMap<MapData, FlowKey, FlowValue>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Takes them out of an object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            interfaces: hash_map(ebpf, abi::INTERFACES)?,
            flows: hash_map(ebpf, abi::FLOWS)?,
            counters: PerCpuArray::try_from(take(ebpf, abi::COUNTERS)?)
                .map_err(|_| KernelError::Map(abi::COUNTERS))?,
        })
    }

    /// Lets the program count and match what comes in by `interface`, whose position in the plan is `slot`.
    pub fn serve(&mut self, slot: usize, interface: &Interface) -> Result<(), KernelError> {
        let value = InterfaceValue { slot: slot as u32 };
        self.interfaces
            .insert(interface.index, value, 0)
            .map_err(|error| KernelError::MapWrite {
                map: abi::INTERFACES,
                what: interface.name.clone(),
                reason: chain(&error),
            })
    }

    /// Makes a flow match; `rule` is its position in the plan, `name` its name.
    pub fn open(&mut self, key: FlowKey, rule: usize, name: &str) -> Result<(), KernelError> {
        let value = FlowValue { rule: rule as u32 };
        self.flows
            .insert(key, value, 0)
            .map_err(|error| KernelError::MapWrite {
                map: abi::FLOWS,
                what: format!("the rule \"{name}\""),
                reason: chain(&error),
            })
    }

    /// Ends the match of a flow. One that is missing already is as good.
    pub fn close(&mut self, key: &FlowKey) {
        let _ = self.flows.remove(key);
    }

    /// What the program counted for the interface at position `slot` of the plan, summed over all CPUs.
    pub fn counters(&self, slot: usize) -> Option<[u64; Counter::COUNT as usize]> {
        let value = InterfaceValue { slot: slot as u32 };
        let mut sums = [0; Counter::COUNT as usize];
        for (sum, counter) in sums.iter_mut().zip(Counter::ALL) {
            let per_cpu = self.counters.get(&value.counter(counter), 0).ok()?;
            *sum = per_cpu.iter().sum();
        }
        Some(sums)
    }
}

/// Takes the map `name` out of an object.
pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Map(name))
}

fn hash_map<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    HashMap::try_from(take(ebpf, name)?).map_err(|_| KernelError::Map(name))
}
