//! Ids of interfaces, flows and outputs, which the compiler keeps apart, and the lists that they
//! lead into.
//!
//! An id is a position in one plan. Another plan has ids of its own.

use std::{fmt, marker::PhantomData, slice};

use serde::{Serialize, Serializer};

/// A number that leads to an entry of a [`List`].
pub trait Id: Copy {
    /// The id of the entry at `position`.
    fn new(position: usize) -> Self;

    /// The position of the entry.
    fn position(self) -> usize;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(u32);

        impl $name {
            /// The id of the entry at `position`.
            #[must_use]
            pub const fn new(position: usize) -> Self {
                Self(position as u32)
            }

            /// The position of the entry.
            #[inline]
            #[must_use]
            pub const fn position(self) -> usize {
                self.0 as usize
            }
        }

        impl Id for $name {
            fn new(position: usize) -> Self {
                Self::new(position)
            }

            #[inline]
            fn position(self) -> usize {
                self.position()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    )*};
}

ids! {
    /// An interface of a plan.
    InterfaceId
    /// A flow of a plan: a rule, resolved.
    FlowId
    /// An output of a worker: where its counters are.
    OutputId
}

/// A list whose entries are found by ids of their own kind, so that no other number leads into it.
#[derive(Clone, PartialEq, Eq)]
pub struct List<I, T> {
    entries: Vec<T>,
    ids: PhantomData<I>,
}

impl<I: Id, T> List<I, T> {
    /// The entry with an id.
    #[inline]
    #[must_use]
    pub fn get(&self, id: I) -> Option<&T> {
        self.entries.get(id.position())
    }

    /// The same, to change it.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, id: I) -> Option<&mut T> {
        self.entries.get_mut(id.position())
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = I> + use<I, T> {
        (0..self.entries.len()).map(I::new)
    }

    /// All entries in order.
    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.entries.iter()
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, T> {
        self.entries.iter_mut()
    }

    /// All entries with their ids, in order.
    pub fn with_ids(&self) -> impl DoubleEndedIterator<Item = (I, &T)> {
        let entries = self.entries.iter().enumerate();
        entries.map(|(position, entry)| (I::new(position), entry))
    }
}

impl<I, T: fmt::Debug> fmt::Debug for List<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.fmt(f)
    }
}

impl<I, T: Serialize> Serialize for List<I, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.entries.serialize(serializer)
    }
}

impl<I, T> Default for List<I, T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<I, T> From<Vec<T>> for List<I, T> {
    fn from(entries: Vec<T>) -> Self {
        Self {
            entries,
            ids: PhantomData,
        }
    }
}

impl<I, T> FromIterator<T> for List<I, T> {
    fn from_iter<A: IntoIterator<Item = T>>(entries: A) -> Self {
        Vec::from_iter(entries).into()
    }
}

impl<I, T> IntoIterator for List<I, T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a, I, T> IntoIterator for &'a mut List<I, T> {
    type Item = &'a mut T;
    type IntoIter = slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter_mut()
    }
}

impl<'a, I, T> IntoIterator for &'a List<I, T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

/// For tests, which may panic.
#[cfg(test)]
mod indexing {
    use std::ops::{Index, IndexMut};

    use super::{Id, List};

    impl<I: Id, T> Index<I> for List<I, T> {
        type Output = T;

        fn index(&self, id: I) -> &T {
            &self.entries[id.position()]
        }
    }

    impl<I: Id, T> Index<usize> for List<I, T> {
        type Output = T;

        fn index(&self, position: usize) -> &T {
            &self.entries[position]
        }
    }

    impl<I: Id, T> IndexMut<usize> for List<I, T> {
        fn index_mut(&mut self, position: usize) -> &mut T {
            &mut self.entries[position]
        }
    }
}
