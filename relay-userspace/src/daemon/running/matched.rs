//! Which running worker becomes which worker of the next plan.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use super::{Running, worker::RunningWorker};
use crate::plan::{Plan, WorkerKey, WorkerPlan};

/// Which worker of the next plan each running one becomes.
pub struct Matched {
    /// By position among the workers of the next plan: the number of the running one that is kept.
    pub kept: Vec<Option<usize>>,
    /// The running workers that end, by number.
    pub ended: BTreeSet<usize>,
}

impl Matched {
    /// The position that a running worker has in the next plan; `None` if it ends.
    pub fn place_of(&self, number: usize) -> Option<usize> {
        self.kept.iter().position(|kept| *kept == Some(number))
    }

    /// The running workers that are kept, each with its position in the next plan.
    pub fn kept_workers<'a>(
        &'a self,
        workers: &'a mut [RunningWorker],
    ) -> impl Iterator<Item = (usize, &'a mut RunningWorker)> {
        workers.iter_mut().filter_map(|worker| {
            let place = self.place_of(worker.number)?;
            Some((place, worker))
        })
    }
}

impl Running {
    /// Finds the workers that both plans have, and those that can become one of `next`. Workers
    /// that share an input through a fanout are kept together or not at all.
    pub(super) fn matched(&self, next: &Plan, keys: &[WorkerKey]) -> Matched {
        let mut running: HashMap<WorkerKey, Vec<usize>> = HashMap::new();
        for worker in self.workers.iter().rev() {
            let key = worker.key_now().filter(|_| !worker.has_ended());
            if let Some(key) = key {
                running.entry(key).or_default().push(worker.number);
            }
        }
        let mut kept: Vec<Option<usize>> = keys
            .iter()
            .map(|key| running.get_mut(key).and_then(Vec::pop))
            .collect();
        for ((key, planned), place) in keys.iter().zip(&next.workers).zip(0..) {
            if kept.get(place) == Some(&None) {
                let found = self.most_alike(key, planned, &kept);
                if let Some(kept) = kept.get_mut(place) {
                    *kept = found;
                }
            }
        }
        let broken: BTreeSet<u32> = keys
            .iter()
            .zip(&kept)
            .filter(|(_, kept)| kept.is_none())
            .filter_map(|(key, _)| key.input)
            .collect();
        for (key, kept) in keys.iter().zip(&mut kept) {
            if key.input.is_some_and(|input| broken.contains(&input)) {
                *kept = None;
            }
        }
        let numbers = self.workers.iter().map(|worker| worker.number);
        let ended = numbers.filter(|&number| !kept.contains(&Some(number)));
        Matched {
            ended: ended.collect(),
            kept,
        }
    }

    /// The number of the running worker that can become the one with `key`, and goes on to receive
    /// from the most of its queues; none of `kept`.
    fn most_alike(
        &self,
        key: &WorkerKey,
        planned: &WorkerPlan,
        kept: &[Option<usize>],
    ) -> Option<usize> {
        let free = self.workers.iter().filter(|worker| {
            !worker.has_ended()
                && !kept.contains(&Some(worker.number))
                && worker.remote.has_room_for(planned)
        });
        let alike = free.filter_map(|worker| {
            let staying = worker.key_now()?.can_become(key)?;
            Some((staying, Reverse(worker.number)))
        });
        alike.max().map(|(_, Reverse(number))| number)
    }
}
