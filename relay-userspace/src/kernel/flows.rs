//! The flows that match, with their limits.
//!
//! The kernel replaces the value of a flow that is open in one step (`htab_map_update_elem`,
//! kernel/bpf/hashtab.c): no frame misses it meanwhile.

use std::collections::HashMap;

use aya::Ebpf;
use relay_common::matching::FlowValue;

use super::{error::KernelError, flow_maps::FlowMaps, limits::Limits};
use crate::{config::rules::Limit, matching::MatchKey};

/// The flows of one loaded program.
pub struct Flows {
    maps: FlowMaps,
    limits: Limits,
    /// What is in the map.
    open: HashMap<MatchKey, Open>,
}

/// A flow that is open.
#[derive(Debug, Clone, Copy)]
struct Open {
    value: FlowValue,
    limit: Option<Limit>,
    /// Datagrams that were above limits which the flow had before.
    over: u64,
}

impl Flows {
    /// Takes the maps out of a loaded object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            maps: FlowMaps::take_from(ebpf)?,
            limits: Limits::take_from(ebpf)?,
            open: HashMap::new(),
        })
    }

    /// Makes a flow match, or changes the rule and the limit of one that does. `rule` is the rule's
    /// number, `name` its name. A limit that is as before keeps its bucket; the number of datagrams
    /// above the flow's limits goes on in any case.
    pub fn open(
        &mut self,
        key: MatchKey,
        rule: u32,
        name: &str,
        limit: Option<Limit>,
    ) -> Result<(), KernelError> {
        let before = self.open.get(&key).copied();
        let bucket = match (before, limit) {
            (Some(before), Some(_)) if before.limit == limit => before.value.limit(),
            (_, Some(limit)) => Some(self.limits.add(limit, name)?),
            (_, None) => None,
        };
        let former = before.and_then(|before| before.value.limit());
        let value = FlowValue::new(rule, bucket);
        if let Err(error) = self.maps.open(key, value, name) {
            if let Some(added) = bucket.filter(|_| bucket != former) {
                self.limits.remove(added);
            }
            return Err(error);
        }
        let mut over = before.map_or(0, |before| before.over);
        if let Some(former) = former.filter(|_| bucket != former) {
            over += self.limits.remove(former);
        }
        self.open.insert(key, Open { value, limit, over });
        Ok(())
    }

    /// Makes a flow stop matching, and returns how many datagrams were above its limits while it
    /// was open. A flow that is not open is no error.
    pub fn close(&mut self, key: &MatchKey) -> u64 {
        self.maps.close(key);
        let Some(open) = self.open.remove(key) else {
            return 0;
        };
        let bucket = open.value.limit();
        open.over + bucket.map_or(0, |bucket| self.limits.remove(bucket))
    }

    /// Closes the flows of an interface, by its slot, which another interface gets.
    pub fn close_slot(&mut self, slot: u8) {
        let of_slot = self.open.keys().filter(|key| key.slot == slot);
        for key in of_slot.copied().collect::<Vec<_>>() {
            self.close(&key);
        }
    }

    /// The number of datagrams above the limits of a flow since it was opened; 0 if it is not open.
    pub fn over_limit(&self, key: &MatchKey) -> u64 {
        self.open.get(key).map_or(0, |open| {
            let bucket = open.value.limit();
            open.over + bucket.map_or(0, |bucket| self.limits.over(bucket))
        })
    }
}
