//! Ranges of ports cut the ports into classes: the ports of one class are in the same ranges.
//!
//! A boundary stays when its last range goes, as long as there are other ranges: to join two
//! classes takes an entry away that a look-up may just be about to read.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
};

use relay_common::{abi::MAX_PORT_CLASSES, matching::CLASSES_PER_WORD};

use super::{key::MatchKey, write::Write};

/// One more than the last port.
const PORTS: u32 = u16::MAX as u32 + 1;
/// With so many classes and no range left, they become one again.
const MANY: usize = 64;

/// The classes of all ports, and the flows whose ranges have them.
#[derive(Debug)]
pub struct PortClasses {
    /// The classes, by their first port.
    starts: BTreeMap<u32, u16>,
    /// By class.
    flows: Vec<HashSet<MatchKey>>,
    words: Vec<u64>,
    ranges: usize,
}

/// A class that was cut in two.
#[derive(Debug)]
pub struct Cut {
    /// The class that was cut.
    pub class: u16,
    /// The new class.
    pub new: u16,
    ports: Range<u32>,
}

impl Default for PortClasses {
    fn default() -> Self {
        Self {
            starts: [(0, 0)].into(),
            flows: vec![HashSet::new()],
            words: vec![0; MAX_PORT_CLASSES as usize],
            ranges: 0,
        }
    }
}

impl PortClasses {
    /// Makes all classes one again if no flow has a range and there are many. To be called before a
    /// range is cut out.
    pub fn tidy(&mut self, writes: &mut Vec<Write>) {
        if self.ranges > 0 || self.starts.len() <= MANY {
            return;
        }
        *self = Self::default();
        writes.extend((0..MAX_PORT_CLASSES).map(|at| Write::Classes(at, 0)));
    }

    /// Cuts the class that `port` is in, so that one begins there. `None` if one does. The flows of
    /// the class have the new class as well: write their entries, and then [`Self::assign`] it.
    pub fn cut(&mut self, port: u32) -> Option<Cut> {
        if port >= PORTS || self.starts.contains_key(&port) {
            return None;
        }
        let (&start, &class) = self.starts.range(..port).next_back()?;
        let end = self.end(port);
        let new = u16::try_from(self.flows.len()).ok()?;
        self.flows.push(self.flows(class).cloned()?);
        // The smaller part gets the new class: there is less to write.
        let ports = if port - start < end - port {
            self.starts.insert(start, new);
            self.starts.insert(port, class);
            start..port
        } else {
            self.starts.insert(port, new);
            port..end
        };
        Some(Cut { class, new, ports })
    }

    /// Gives the ports of a new class their class.
    pub fn assign(&mut self, cut: &Cut, writes: &mut Vec<Write>) {
        let mut changed = Vec::new();
        for port in cut.ports.clone() {
            let at = port / CLASSES_PER_WORD;
            let shift = port % CLASSES_PER_WORD * u16::BITS;
            if let Some(word) = self.words.get_mut(at as usize) {
                *word = *word & !(u64::from(u16::MAX) << shift) | u64::from(cut.new) << shift;
            }
            if changed.last() != Some(&at) {
                changed.push(at);
            }
        }
        let word = |at: u32| self.words.get(at as usize).copied().unwrap_or(0);
        writes.extend(changed.into_iter().map(|at| Write::Classes(at, word(at))));
    }

    /// The classes from `first` to `last`, which begin and end with classes.
    pub fn between(&self, first: u16, last: u16) -> Vec<u16> {
        if first > last {
            return Vec::new();
        }
        let classes = self.starts.range(u32::from(first)..=u32::from(last));
        classes.map(|(_, &class)| class).collect()
    }

    /// The flows whose ranges have `class`.
    pub fn flows(&self, class: u16) -> Option<&HashSet<MatchKey>> {
        self.flows.get(usize::from(class))
    }

    /// Counts a flow among those of its classes.
    pub fn add(&mut self, key: MatchKey, classes: &[u16]) {
        self.ranges += 1;
        for &class in classes {
            if let Some(flows) = self.flows.get_mut(usize::from(class)) {
                flows.insert(key);
            }
        }
    }

    /// Takes a flow out of its classes.
    pub fn remove(&mut self, key: &MatchKey, classes: &[u16]) {
        self.ranges = self.ranges.saturating_sub(1);
        for &class in classes {
            if let Some(flows) = self.flows.get_mut(usize::from(class)) {
                flows.remove(key);
            }
        }
    }

    /// Where the class that `port` is in ends.
    fn end(&self, port: u32) -> u32 {
        let mut after = self.starts.range(port + 1..);
        after.next().map_or(PORTS, |(&start, _)| start)
    }
}
