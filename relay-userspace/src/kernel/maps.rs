//! The maps that every kernel program has: which interfaces it serves, which flows match, which sources are the
//! relay's own, what it counted.

use std::{collections::BTreeSet, net::Ipv4Addr};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
};
use relay_common::{
    abi::{self, Counter, FlowKey, FlowValue, InterfaceValue, LimitValue, OwnKey},
    wire,
};

use super::{KernelError, chain};
use crate::{
    plan::{Interface, Mac, Plan},
    rules::Limit,
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
    /// Takes them out of an object.
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

    /// Tells the program the sources that the copies of `plan` leave with, whatever backend sends them: what comes in
    /// with one of them is a copy that came back.
    pub fn disown(&mut self, plan: &Plan) -> Result<(), KernelError> {
        let mut insert = |key, what: String| {
            self.own
                .insert(key, 0, 0)
                .map_err(|error| KernelError::MapWrite {
                    map: abi::OWN,
                    what,
                    reason: chain(&error),
                })
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

    /// Lets the program count and match what comes in by `interface`, whose position in the plan is `slot`.
    pub fn serve(&mut self, slot: usize, interface: &Interface) -> Result<(), KernelError> {
        let value = InterfaceValue::new(slot as u16, interface.mac);
        self.interfaces
            .insert(interface.index, value, 0)
            .map_err(|error| KernelError::MapWrite {
                map: abi::INTERFACES,
                what: interface.name.clone(),
                reason: chain(&error),
            })
    }

    /// Makes a flow match; `rule` is its position in the plan, `name` its name. With a limit also its position among
    /// those of the plan.
    pub fn open(
        &mut self,
        key: FlowKey,
        rule: usize,
        name: &str,
        limit: Option<(u32, Limit)>,
    ) -> Result<(), KernelError> {
        if let Some((position, limit)) = limit {
            let value = LimitValue::new(limit.packets_per_second, limit.burst);
            self.limits
                .set(position, value, 0)
                .map_err(|error| KernelError::MapWrite {
                    map: abi::LIMITS,
                    what: format!("the limit of the rule \"{name}\""),
                    reason: chain(&error),
                })?;
        }
        let value = FlowValue::new(rule as u32, limit.map(|(position, _)| position));
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

    /// Datagrams that were above a limit, by its position among those of the plan.
    pub fn over_limit(&self, position: u32) -> u64 {
        let per_cpu = self.over_limit.get(&position, 0);
        per_cpu.map_or(0, |values| values.iter().sum())
    }

    /// What the program counted for the interface at position `slot` of the plan, summed over all CPUs, and
    /// [`Counter::Received`], which is the sum of it all.
    pub fn counters(&self, slot: usize) -> Option<[u64; Counter::COUNT as usize]> {
        let value = InterfaceValue::new(slot as u16, [0; 6]);
        let mut sums = [0; Counter::COUNT as usize];
        for (sum, counter) in sums.iter_mut().zip(Counter::ALL) {
            let per_cpu = self.counters.get(&value.counter(counter), 0).ok()?;
            *sum = per_cpu.iter().sum();
        }
        sums[Counter::Received as usize] = sums.iter().sum();
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
