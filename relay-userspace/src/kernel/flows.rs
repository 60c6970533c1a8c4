//! The flows that match, with their limits.
//!
//! A rule may have several flows, one per source, and they share the rule's limit. The kernel
//! replaces the value of a flow that is open in one step (`htab_map_update_elem`,
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
    /// By name, the rules of these flows.
    rules: HashMap<String, OfRule>,
}

/// A flow that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    value: FlowValue,
    rule: String,
    limit: Option<Limit>,
}

/// What the flows of one rule have in common.
#[derive(Debug, Default)]
struct OfRule {
    /// How many are open.
    flows: usize,
    /// The limits that some of them have, with their buckets: two while a limit changes.
    buckets: Vec<Bucket>,
    /// Datagrams that were above limits which none of them has any more.
    over: u64,
}

/// A limit in use.
#[derive(Debug)]
struct Bucket {
    limit: Limit,
    position: u32,
    /// How many flows have it.
    flows: usize,
}

impl Flows {
    /// Takes the maps out of a loaded object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            maps: FlowMaps::take_from(ebpf)?,
            limits: Limits::take_from(ebpf)?,
            open: HashMap::new(),
            rules: HashMap::new(),
        })
    }

    /// Makes a flow match, or changes the rule and the limit of one that does. `rule` is the rule's
    /// number, `name` its name. Flows of one rule with the same limit share its bucket; the number
    /// of datagrams above the limits of the rule goes on in any case, also under another name.
    pub fn open(
        &mut self,
        key: MatchKey,
        rule: u32,
        name: &str,
        limit: Option<Limit>,
    ) -> Result<(), KernelError> {
        let position = self.enter(name, limit)?;
        let open = Open {
            value: FlowValue::new(rule, position),
            rule: name.to_owned(),
            limit,
        };
        if let Err(error) = self.maps.open(key, open.value, name) {
            let over = self.leave(&open);
            self.add_over(name, over);
            return Err(error);
        }
        if let Some(former) = self.open.insert(key, open) {
            let over = self.leave(&former);
            self.add_over(name, over);
        }
        Ok(())
    }

    /// Makes a flow stop matching. With the last flow of its rule, returns how many datagrams were
    /// above the rule's limits while it had flows, otherwise 0. A flow that is not open is no
    /// error.
    pub fn close(&mut self, key: &MatchKey) -> u64 {
        self.maps.close(key);
        let open = self.open.remove(key);
        open.map_or(0, |open| self.leave(&open))
    }

    /// Closes the flows of an interface, by its slot, which another interface gets.
    pub fn close_slot(&mut self, slot: u8) {
        let of_slot = self.open.keys().filter(|key| key.slot == slot);
        for key in of_slot.copied().collect::<Vec<_>>() {
            self.close(&key);
        }
    }

    /// The number of datagrams above the limits of each rule since its first flow was opened, with
    /// the rule's name. Rules that never had a limit are left out.
    pub fn over_limits(&self) -> impl Iterator<Item = (&str, u64)> {
        let had_one = |of_rule: &OfRule| of_rule.over > 0 || !of_rule.buckets.is_empty();
        let rules = self.rules.iter().filter(move |(_, one)| had_one(one));
        rules.map(|(name, of_rule)| {
            let buckets = of_rule.buckets.iter();
            let over = buckets.map(|bucket| self.limits.over(bucket.position));
            (name.as_str(), of_rule.over + over.sum::<u64>())
        })
    }

    /// Counts one more flow of a rule, and returns the position of its limit's bucket.
    fn enter(&mut self, rule: &str, limit: Option<Limit>) -> Result<Option<u32>, KernelError> {
        let of_rule = self.rules.entry(rule.to_owned()).or_default();
        let position = match limit {
            None => None,
            Some(limit) => {
                let mut buckets = of_rule.buckets.iter_mut();
                if let Some(bucket) = buckets.find(|bucket| bucket.limit == limit) {
                    bucket.flows += 1;
                    Some(bucket.position)
                } else {
                    match self.limits.add(limit, rule) {
                        Ok(position) => {
                            of_rule.buckets.push(Bucket {
                                limit,
                                position,
                                flows: 1,
                            });
                            Some(position)
                        }
                        Err(error) => {
                            if of_rule.flows == 0 {
                                self.rules.remove(rule);
                            }
                            return Err(error);
                        }
                    }
                }
            }
        };
        of_rule.flows += 1;
        Ok(position)
    }

    /// Counts one flow of a rule less, and frees its bucket if no other flow has that. With the
    /// last flow, returns how many datagrams were above the limits.
    fn leave(&mut self, open: &Open) -> u64 {
        let Some(of_rule) = self.rules.get_mut(&open.rule) else {
            return 0;
        };
        of_rule.flows = of_rule.flows.saturating_sub(1);
        let mut buckets = of_rule.buckets.iter();
        let found = buckets.position(|bucket| Some(bucket.limit) == open.limit);
        if let Some(at) = found
            && let Some(bucket) = of_rule.buckets.get_mut(at)
        {
            bucket.flows = bucket.flows.saturating_sub(1);
            if bucket.flows == 0 {
                of_rule.over += self.limits.remove(bucket.position);
                of_rule.buckets.swap_remove(at);
            }
        }
        if of_rule.flows > 0 {
            return 0;
        }
        let gone = self.rules.remove(&open.rule);
        gone.map_or(0, |gone| gone.over)
    }

    /// Adds datagrams that were above a limit under a rule's former name.
    fn add_over(&mut self, rule: &str, over: u64) {
        if let Some(of_rule) = self.rules.get_mut(rule) {
            of_rule.over += over;
        }
    }
}
