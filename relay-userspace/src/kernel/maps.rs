//! The maps that both kernel programs have: the interfaces they serve, the flows that match, the
//! relay's own sources, the limits and the counters.
//!
//! Each loaded program has its own set of maps.

use std::{collections::BTreeSet, net::Ipv4Addr};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use relay_common::{
    abi::{self, Counter, FlowKey, FlowValue, InterfaceValue, LimitValue, OwnKey},
    wire,
};

use super::error::{KernelError, map_write};
use crate::{
    config::rules::Limit,
    plan::{FlowId, Interface, InterfaceId, Mac, Plan},
};

/// The maps of one loaded program.
pub struct Maps {
    interfaces: HashMap<MapData, u32, InterfaceValue>,
    flows: HashMap<MapData, FlowKey, FlowValue>,
    own: HashMap<MapData, OwnKey, u8>,
    limits: Array<MapData, LimitValue>,
    over_limit: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            interfaces: hash_map(ebpf, abi::INTERFACES)?,
            flows: hash_map(ebpf, abi::FLOWS)?,
            own: hash_map(ebpf, abi::OWN)?,
            limits: Array::try_from(take(ebpf, abi::LIMITS)?)
                .map_err(|_| KernelError::Map(abi::LIMITS))?,
            over_limit: PerCpuArray::try_from(take(ebpf, abi::OVER_LIMIT)?)
                .map_err(|_| KernelError::Map(abi::OVER_LIMIT))?,
            counters: PerCpuArray::try_from(take(ebpf, abi::COUNTERS)?)
                .map_err(|_| KernelError::Map(abi::COUNTERS))?,
        })
    }

    /// Writes the sources that the copies of `plan` leave with, on either backend: a frame that
    /// arrives with one of them is a copy that came back, and the program does not match it.
    pub fn disown(&mut self, plan: &Plan) -> Result<(), KernelError> {
        let mut insert = |key, what: String| {
            self.own
                .insert(key, 0, 0)
                .map_err(|error| map_write(abi::OWN, what, &error))
        };
        for interface in plan.interfaces.iter().filter(|facts| facts.is_output) {
            let key = OwnKey::mac(wire::mac(interface.mac));
            insert(key, Mac(interface.mac).to_string())?;
        }
        let outputs = plan.flows.iter().flat_map(|flow| &flow.outputs);
        let sources: BTreeSet<Ipv4Addr> = outputs.map(|output| output.source).collect();
        for source in sources {
            let key = OwnKey::address(u32::from_ne_bytes(source.octets()));
            insert(key, source.to_string())?;
        }
        Ok(())
    }

    /// Makes the program count and match frames that arrive on `interface`; `slot` is the
    /// interface's id.
    pub fn serve(&mut self, slot: InterfaceId, interface: &Interface) -> Result<(), KernelError> {
        let value = InterfaceValue::new(slot.position() as u16, interface.mac);
        self.interfaces
            .insert(interface.index, value, 0)
            .map_err(|error| map_write(abi::INTERFACES, &interface.name, &error))
    }

    /// Makes a flow match; `rule` is its position in the plan, `name` its rule's name. A limit
    /// comes with its position among the limits of the plan.
    pub fn open(
        &mut self,
        key: FlowKey,
        rule: FlowId,
        name: &str,
        limit: Option<(u32, Limit)>,
    ) -> Result<(), KernelError> {
        if let Some((position, limit)) = limit {
            let value = LimitValue::new(limit.packets_per_second, limit.burst);
            self.limits.set(position, value, 0).map_err(|error| {
                map_write(
                    abi::LIMITS,
                    format!("the limit of the rule \"{name}\""),
                    &error,
                )
            })?;
        }
        let value = FlowValue::new(rule.position() as u32, limit.map(|(position, _)| position));
        self.flows
            .insert(key, value, 0)
            .map_err(|error| map_write(abi::FLOWS, format!("the rule \"{name}\""), &error))
    }

    /// Makes a flow stop matching. A flow that is already missing is no error.
    pub fn close(&mut self, key: &FlowKey) {
        let _ = self.flows.remove(key);
    }

    /// The number of datagrams above a limit, given by its position among the limits of the plan.
    pub fn over_limit(&self, position: u32) -> u64 {
        let per_cpu = self.over_limit.get(&position, 0);
        per_cpu.map_or(0, |values| values.iter().sum())
    }

    /// The program's counters of an interface, summed over all CPUs; `slot` is the interface's id.
    /// [`Counter::Received`] is the sum of the others. `None` if the map cannot be read.
    pub fn counters(&self, slot: InterfaceId) -> Option<[u64; Counter::COUNT as usize]> {
        let value = InterfaceValue::new(slot.position() as u16, [0; 6]);
        let mut sums = [0; Counter::COUNT as usize];
        for (sum, counter) in sums.iter_mut().zip(Counter::ALL) {
            let per_cpu = self.counters.get(&value.counter(counter), 0).ok()?;
            *sum = per_cpu.iter().sum();
        }
        sums[Counter::Received as usize] = sums.iter().sum();
        Some(sums)
    }
}

/// Takes the map `name` out of a loaded object.
pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Map(name))
}

fn hash_map<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    HashMap::try_from(take(ebpf, name)?).map_err(|_| KernelError::Map(name))
}
