//! The slots of interfaces: where the maps have their sockets and counters.
//!
//! An interface keeps its slot when the relay stops receiving there, so that its counters go on if
//! it comes back. Only when every slot is taken does a new interface get one of those, the one that
//! has been unused the longest.

use relay_common::abi::MAX_INTERFACES;

use crate::plan::Backend;

/// The slots of all interfaces that the relay has received on.
#[derive(Debug, Default)]
pub struct Slots {
    entries: Vec<Slot>,
    /// How often an interface was released.
    releases: u64,
}

/// The slot of one interface.
#[derive(Debug)]
pub struct Slot {
    /// The interface's index.
    index: u32,
    /// Its name, for errors, and for the counters of the next interface of that name.
    pub name: String,
    /// The backend whose program counts and matches its frames.
    pub state: State,
}

/// Whether a program serves an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The program of this backend serves it.
    Served(Backend),
    /// None does. The number orders the interfaces by their release.
    Released(u64),
}

/// What became of a request for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The interface has this slot already.
    Kept(u16),
    /// No interface has used this slot before.
    New(u16),
    /// Another interface has used this slot: its counters must be zeroed.
    Reused(u16),
}

impl Taken {
    /// The slot's number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Kept(number) | Self::New(number) | Self::Reused(number) => number,
        }
    }
}

impl Slots {
    /// The slot that `interface` has or would get; `None` if all of them serve others. Changes
    /// nothing: [`Self::serve`] does.
    pub fn choose(&self, interface: u32) -> Option<Taken> {
        if let Some(number) = self.position(interface) {
            return Some(Taken::Kept(number));
        }
        if self.entries.len() < MAX_INTERFACES as usize {
            return Some(Taken::New(self.entries.len() as u16));
        }
        let released = self.entries.iter().zip(0..);
        let released = released.filter_map(|(slot, number)| match slot.state {
            State::Released(release) => Some((release, number)),
            State::Served(_) => None,
        });
        released.min().map(|(_, number)| Taken::Reused(number))
    }

    /// Gives a slot that [`Self::choose`] chose to the interface with `index`, which the program of
    /// `backend` serves.
    pub fn serve(&mut self, taken: Taken, index: u32, name: &str, backend: Backend) {
        let slot = Slot {
            index,
            name: name.to_owned(),
            state: State::Served(backend),
        };
        match self.entries.get_mut(usize::from(taken.number())) {
            Some(entry) => *entry = slot,
            None => self.entries.push(slot),
        }
    }

    /// Marks the slot of an interface, given by its index, as unused, and returns its number.
    /// `None` if no program serves the interface.
    pub fn release(&mut self, interface: u32) -> Option<u16> {
        let number = self.position(interface)?;
        let slot = self.entries.get_mut(usize::from(number))?;
        if let State::Served(_) = slot.state {
            slot.state = State::Released(self.releases);
            self.releases += 1;
            return Some(number);
        }
        None
    }

    /// The slot of an interface, given by its index, and the slot's number.
    pub fn get(&self, interface: u32) -> Option<(u16, &Slot)> {
        let number = self.position(interface)?;
        Some((number, self.entries.get(usize::from(number))?))
    }

    /// The numbers of the slots of all interfaces that had `name` when a program served them last.
    pub fn named(&self, name: &str) -> impl Iterator<Item = u16> {
        let entries = self.entries.iter().zip(0..);
        let named = entries.filter(move |(slot, _)| slot.name == name);
        named.map(|(_, number)| number)
    }

    /// The index of the interface that has a slot, and its name.
    pub fn interface(&self, number: u16) -> Option<(u32, &str)> {
        let slot = self.entries.get(usize::from(number))?;
        Some((slot.index, &slot.name))
    }

    /// The indices of the interfaces that a program serves.
    pub fn served(&self) -> impl Iterator<Item = u32> {
        let served = |slot: &&Slot| matches!(slot.state, State::Served(_));
        self.entries.iter().filter(served).map(|slot| slot.index)
    }

    fn position(&self, interface: u32) -> Option<u16> {
        let mut entries = self.entries.iter().zip(0..);
        let found = entries.find(|(slot, _)| slot.index == interface);
        found.map(|(_, number)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(slots: &mut Slots, index: u32) -> Taken {
        let taken = slots.choose(index).unwrap();
        slots.serve(taken, index, "in0", Backend::Xdp);
        taken
    }

    #[test]
    fn an_interface_keeps_its_slot_while_it_is_away() {
        let mut slots = Slots::default();
        assert_eq!(serve(&mut slots, 7), Taken::New(0));
        assert_eq!(serve(&mut slots, 8), Taken::New(1));
        assert_eq!(slots.release(7), Some(0));
        assert_eq!(slots.release(7), None, "released already");
        assert_eq!(slots.release(9), None, "never served");
        assert_eq!(serve(&mut slots, 9), Taken::New(2));
        assert_eq!(serve(&mut slots, 7), Taken::Kept(0));
        assert_eq!(slots.get(7).unwrap().1.state, State::Served(Backend::Xdp));
    }

    #[test]
    fn interfaces_of_one_name_are_found_by_it() {
        let mut slots = Slots::default();
        for (index, name) in [(7, "in0"), (8, "in1"), (9, "in0")] {
            let taken = slots.choose(index).unwrap();
            slots.serve(taken, index, name, Backend::Xdp);
            slots.release(index);
        }
        assert_eq!(Vec::from_iter(slots.named("in0")), [0, 2]);
        assert_eq!(slots.interface(1), Some((8, "in1")));
        assert_eq!(slots.interface(3), None);
    }

    #[test]
    fn the_slot_that_was_unused_the_longest_is_given_away_first_and_one_in_use_never() {
        let mut slots = Slots::default();
        for index in 1..=MAX_INTERFACES {
            serve(&mut slots, index);
        }
        assert_eq!(slots.choose(1000), None);
        for index in [30, 10, 20] {
            slots.release(index);
        }
        assert_eq!(serve(&mut slots, 10), Taken::Kept(9));
        assert_eq!(serve(&mut slots, 1000), Taken::Reused(29));
        assert_eq!(serve(&mut slots, 1001), Taken::Reused(19));
        assert_eq!(slots.choose(1002), None);
        assert!(slots.get(30).is_none());
        assert_eq!(slots.choose(1001), Some(Taken::Kept(19)));
    }
}
