//! Where the next frame may join a run: the last run of each flow, and of each offset in the flows
//! whose copies all keep it.
//!
//! Frames of a line-up of groups arrive in turns. Copies that go to different groups can leave in
//! any order, so each offset in such a flow has a run of its own; otherwise hardly two frames could
//! leave together. Flows have an entry each. Offsets share a fixed number of entries, found by a
//! hash: senders choose the offsets, so the search ends after a few entries, and an offset that
//! finds none has no run that others join.

use crate::packet::Offset;

/// No run, and no entry.
const NONE: u32 = u32::MAX;
/// Entries for offsets: four for each frame of the largest batch, so that most offsets find theirs
/// at once.
const OFFSETS: u32 = 1 << OFFSETS_BITS;
const OFFSETS_BITS: u32 = 12;
/// Entries that an offset may have.
const PROBES: u32 = 8;

/// The last runs of a batch, by entry.
#[derive(Debug)]
pub struct OpenRuns {
    /// By flow; behind these, the entries for offsets.
    last: Box<[u32]>,
}

/// Where the position of a run is noted, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u32);

impl Entry {
    /// Of a flow.
    #[inline]
    pub(super) const fn of_flow(flow: u32) -> Self {
        Self(flow)
    }
}

impl OpenRuns {
    /// For `flows` flows without a run.
    #[must_use]
    pub fn new(flows: usize) -> Self {
        Self {
            last: vec![NONE; flows + OFFSETS as usize].into(),
        }
    }

    /// The entry of an offset in a flow: that of its last run, which `is_mine` tells by its
    /// position, or one that is free.
    pub(super) fn entry_at_offset(
        &self,
        flow: u32,
        offset: Offset,
        is_mine: impl Fn(usize) -> bool,
    ) -> Entry {
        let first = self.last.len() as u32 - OFFSETS;
        let hash = offset.hash(flow, OFFSETS_BITS);
        let mut entries = (0..PROBES).map(|next| first + (hash + next) % OFFSETS);
        let fits = |&entry: &u32| match self.last.get(entry as usize) {
            Some(&NONE) => true,
            Some(&run) => is_mine(run as usize),
            None => false,
        };
        Entry(entries.find(fits).unwrap_or(NONE))
    }

    /// The position of the last run of `entry`; more than any batch has if there is none.
    #[inline]
    pub(super) fn get(&self, entry: Entry) -> usize {
        self.last.get(entry.0 as usize).copied().unwrap_or(NONE) as usize
    }

    /// Notes the position of a run.
    #[inline]
    pub(super) fn set(&mut self, entry: Entry, run: usize) {
        if let Some(last) = self.last.get_mut(entry.0 as usize) {
            *last = run as u32;
        }
    }

    /// Forgets the last run of `entry`.
    #[inline]
    pub(super) fn clear(&mut self, entry: Entry) {
        if let Some(last) = self.last.get_mut(entry.0 as usize) {
            *last = NONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(number: u32) -> Offset {
        Offset::at(u128::from(number), 0)
    }

    /// Puts `offsets` of flow 7 into `open`, each with a run of its own. Returns their entries.
    fn fill(open: &mut OpenRuns, offsets: impl Iterator<Item = u32>) -> Vec<Entry> {
        let mut runs = Vec::new();
        let mut entries = Vec::new();
        for number in offsets {
            let mine = |run: usize| runs.get(run) == Some(&number);
            let entry = open.entry_at_offset(7, offset(number), mine);
            open.set(entry, runs.len());
            runs.push(number);
            entries.push(entry);
        }
        entries
    }

    #[test]
    fn each_offset_of_a_full_batch_has_an_entry_of_its_own_behind_those_of_the_flows() {
        let mut open = OpenRuns::new(100);
        let mut entries = fill(&mut open, 0..1024);
        assert!(
            entries
                .iter()
                .all(|entry| entry.0 >= 100 && *entry != Entry(NONE))
        );
        entries.sort_unstable_by_key(|entry| entry.0);
        entries.dedup();
        assert_eq!(entries.len(), 1024);
    }

    #[test]
    fn an_offset_finds_its_entry_again() {
        let mut open = OpenRuns::new(1);
        let entries = fill(&mut open, (0..64).chain(0..64));
        assert_eq!(entries[..64], entries[64..]);
    }

    #[test]
    fn an_offset_without_a_free_entry_has_none_and_keeps_having_none() {
        let mut open = OpenRuns::new(1);
        let same = offset(0).hash(7, OFFSETS_BITS);
        let colliding = (0..).filter(|&number| offset(number).hash(7, OFFSETS_BITS) == same);
        let colliding: Vec<u32> = colliding.take(PROBES as usize + 1).collect();
        let twice = colliding.iter().chain(&colliding).copied();
        let entries = fill(&mut open, twice);
        let nowhere = entries.iter().filter(|&&entry| entry == Entry(NONE));
        assert_eq!(nowhere.count(), 2);
        let (first, second) = entries.split_at(colliding.len());
        assert_eq!(first, second);
    }

    #[test]
    fn what_is_noted_nowhere_is_not_found() {
        let mut open = OpenRuns::new(1);
        open.set(Entry(NONE), 3);
        assert_eq!(open.get(Entry(NONE)), NONE as usize);
        open.clear(Entry(NONE));
        assert_eq!(open.get(Entry::of_flow(0)), NONE as usize);
    }
}
