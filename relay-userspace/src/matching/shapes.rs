//! The lists of shapes: how many flows have each, and what the tables have of that.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use relay_common::matching::{List, Shape};

use super::write::Write;

/// The flows of an interface have more shapes, of one IP version and with or without a source, than
/// the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the rules of one interface have more than {} combinations of prefix length and kind of port",
    List::LEN
)]
pub struct TooManyShapes;

/// How many flows have which shape.
#[derive(Debug, Default)]
pub struct Shapes {
    lists: HashMap<(u8, List), BTreeMap<Reverse<Shape>, usize>>,
    /// How many flows name the address of a host, by slot.
    unicast: HashMap<u8, usize>,
}

impl Shapes {
    /// Whether there is room for the shape of one more flow.
    pub fn check(&self, slot: u8, list: List, shape: Shape) -> Result<(), TooManyShapes> {
        let full = self.lists.get(&(slot, list)).is_some_and(|shapes| {
            shapes.len() >= List::LEN && !shapes.contains_key(&Reverse(shape))
        });
        if full { Err(TooManyShapes) } else { Ok(()) }
    }

    /// Counts one more flow of a shape.
    pub fn add(&mut self, slot: u8, list: List, shape: Shape, writes: &mut Vec<Write>) {
        let shapes = self.lists.entry((slot, list)).or_default();
        let count = shapes.entry(Reverse(shape)).or_default();
        *count += 1;
        if *count == 1 {
            // From the last number to the first: meanwhile a shape is there twice, never missing.
            writes.extend(words(shapes, slot, list).rev());
            self.write_bits(slot, writes);
        }
    }

    /// Counts one flow less.
    pub fn remove(&mut self, slot: u8, list: List, shape: Shape, writes: &mut Vec<Write>) {
        let Some(shapes) = self.lists.get_mut(&(slot, list)) else {
            return;
        };
        let Some(count) = shapes.get_mut(&Reverse(shape)) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            shapes.remove(&Reverse(shape));
            // From the first number to the last, for the same reason.
            writes.extend(words(shapes, slot, list));
            self.write_bits(slot, writes);
        }
    }

    /// Counts a flow that names the address of a host, one more or one less.
    pub fn count_unicast(&mut self, slot: u8, is_more: bool, writes: &mut Vec<Write>) {
        let count = self.unicast.entry(slot).or_default();
        let before = *count;
        *count = if is_more {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        if (before == 0) != (*count == 0) {
            self.write_bits(slot, writes);
        }
    }

    /// Writes the number that says which lists of an interface have shapes, and whether a flow
    /// names the address of a host.
    fn write_bits(&self, slot: u8, writes: &mut Vec<Write>) {
        let of_slot = self.lists.iter().filter(|((of, _), _)| *of == slot);
        let with_shapes = of_slot.filter(|(_, shapes)| !shapes.is_empty());
        let unicast = match self.unicast.get(&slot) {
            None | Some(0) => 0,
            Some(_) => List::UNICAST,
        };
        let bits = with_shapes.fold(unicast, |bits, ((_, list), _)| bits | list.bit());
        writes.push(Write::Shapes(List::bits(slot), bits));
    }
}

/// The numbers of a list, up to the first that is 0.
fn words(
    shapes: &BTreeMap<Reverse<Shape>, usize>,
    slot: u8,
    list: List,
) -> impl DoubleEndedIterator<Item = Write> {
    let all: Vec<_> = shapes.keys().map(|shape| shape.0.bits()).collect();
    let used = all.len() / List::PER_WORD as usize + 1;
    let start = list.start(slot);
    let word = move |at: usize| {
        let shapes = all.iter().skip(at * List::PER_WORD as usize);
        let shapes = shapes.take(List::PER_WORD as usize).rev();
        shapes.fold(0, |word, &shape| word << u16::BITS | u64::from(shape))
    };
    let used = used.min(List::WORDS as usize);
    (0..used).map(move |at| Write::Shapes(start + at as u32, word(at)))
}
