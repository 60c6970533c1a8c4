//! The limits of rules, and how many datagrams were above each.
//!
//! A limit has a bucket: a position in both maps. A changed limit gets another bucket, because the
//! kernel program writes to the one in use at any moment. For the same reason a bucket that is free
//! again is used last of all.

use std::collections::VecDeque;

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use relay_common::abi::{self, LimitValue};

use super::{
    error::{KernelError, map_write},
    maps::{array, take},
};
use crate::config::rules::Limit;

/// The limits of one loaded program.
pub struct Limits {
    limits: Array<MapData, LimitValue>,
    over: PerCpuArray<MapData, u64>,
    positions: Positions,
}

impl Limits {
    /// Takes the maps out of a loaded object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let limits: Array<MapData, LimitValue> = array(ebpf, abi::LIMITS)?;
        let over = PerCpuArray::try_from(take(ebpf, abi::OVER_LIMIT)?)
            .map_err(|_| KernelError::Map(abi::OVER_LIMIT))?;
        Ok(Self {
            positions: Positions::new(limits.len().min(over.len())),
            limits,
            over,
        })
    }

    /// Fills a free bucket for the rule `name`, with nothing above the limit yet, and returns its
    /// position.
    pub fn add(&mut self, limit: Limit, name: &str) -> Result<u32, KernelError> {
        let max = self.positions.capacity;
        let position = self
            .positions
            .take()
            .ok_or_else(|| KernelError::TooManyLimits {
                rule: name.to_owned(),
                max,
            })?;
        self.write(position, limit, name)
            .inspect_err(|_| self.positions.free(position))?;
        Ok(position)
    }

    fn write(&mut self, position: u32, limit: Limit, name: &str) -> Result<(), KernelError> {
        let what = || format!("the limit of the rule \"{name}\"");
        zero(&mut self.over, position)
            .map_err(|error| map_write(abi::OVER_LIMIT, what(), &*error))?;
        let value = LimitValue::new(limit.packets_per_second, limit.burst);
        self.limits
            .set(position, value, 0)
            .map_err(|error| map_write(abi::LIMITS, what(), &error))
    }

    /// Frees a bucket that no flow names any more, and returns how many datagrams were above its
    /// limit.
    pub fn remove(&mut self, position: u32) -> u64 {
        let over = self.over(position);
        self.positions.free(position);
        over
    }

    /// The number of datagrams above the limit at `position`.
    pub fn over(&self, position: u32) -> u64 {
        let per_cpu = self.over.get(&position, 0);
        per_cpu.map_or(0, |values| values.iter().sum())
    }
}

/// Writes 0 for every CPU.
pub fn zero(
    map: &mut PerCpuArray<MapData, u64>,
    position: u32,
) -> Result<(), Box<dyn std::error::Error>> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    map.set(position, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
    Ok(())
}

/// Which positions are free.
#[derive(Debug)]
struct Positions {
    capacity: u32,
    /// The first that was never used.
    next: u32,
    /// Those that were used, in the order in which they became free.
    freed: VecDeque<u32>,
}

impl Positions {
    const fn new(capacity: u32) -> Self {
        Self {
            capacity,
            next: 0,
            freed: VecDeque::new(),
        }
    }

    fn take(&mut self) -> Option<u32> {
        if self.next < self.capacity {
            self.next += 1;
            return Some(self.next - 1);
        }
        self.freed.pop_front()
    }

    fn free(&mut self, position: u32) {
        self.freed.push_back(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_position_is_taken_after_all_others() {
        let mut positions = Positions::new(4);
        assert_eq!(positions.take(), Some(0));
        assert_eq!(positions.take(), Some(1));
        positions.free(1);
        positions.free(0);
        let taken: Vec<_> = std::iter::from_fn(|| positions.take()).collect();
        assert_eq!(taken, [2, 3, 1, 0]);
        positions.free(3);
        assert_eq!(positions.take(), Some(3));
        assert_eq!(positions.take(), None);
    }
}
