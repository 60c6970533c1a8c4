//! Shapes of flows, and the lists of them.

use super::Tables;

/// The form of a flow's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortForm {
    /// Any port: the key has 0.
    Any = 1,
    /// A range of ports: the key has the class.
    Class = 2,
    /// One port, which the key has.
    One = 3,
}

/// Prefix length and form of the port of a flow. Never 0; the larger number is more specific.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape(pub(super) u16);

impl Shape {
    /// Bits of the port's form.
    const FORM_BITS: u32 = 2;
    /// One group and one port, over IPv4 and over IPv6.
    pub const EXACT4: Self = Self::new(32, PortForm::One);
    /// See [`Self::EXACT4`].
    pub const EXACT6: Self = Self::new(128, PortForm::One);

    /// The shape of flows with a prefix of `prefix_len` bits, at most 128.
    #[must_use]
    pub const fn new(prefix_len: u8, form: PortForm) -> Self {
        Self((prefix_len as u16) << Self::FORM_BITS | form as u16)
    }

    /// Its number.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Length of the prefix.
    #[inline(always)]
    pub(super) const fn prefix_len(self) -> u32 {
        (self.0 >> Self::FORM_BITS) as u32
    }
}

/// A port in each of its forms, 16 bits each, by the numbers of [`PortForm`].
#[derive(Clone, Copy)]
pub(super) struct Forms(u64);

impl Forms {
    #[inline(always)]
    pub(super) fn new<T: Tables>(tables: T, port: u16) -> Self {
        const CLASS: u32 = PortForm::Class as u32 * u16::BITS;
        const ONE: u32 = PortForm::One as u32 * u16::BITS;
        Self(u64::from(tables.class(port)) << CLASS | u64::from(port) << ONE)
    }

    /// What a key with `shape` has for the port.
    #[inline(always)]
    pub(super) const fn of(self, shape: Shape) -> u16 {
        let form = shape.0 as u32 & ((1 << Shape::FORM_BITS) - 1);
        self.0.wrapping_shr(form * u16::BITS) as u16
    }
}

/// The lists of shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum List {
    /// Of flows over IPv4 without a source.
    Any4 = 0,
    /// Of flows over IPv4 with a source.
    Named4 = 1,
    /// Of flows over IPv6 without a source.
    Any6 = 2,
    /// Of flows over IPv6 with a source.
    Named6 = 3,
}

impl List {
    /// Numbers of 64 bits per list.
    pub const WORDS: u32 = 8;
    /// Shapes per number, the first one in the lowest bits.
    pub const PER_WORD: u32 = 4;
    /// Shapes per list.
    pub const LEN: usize = (Self::WORDS * Self::PER_WORD) as usize;
    /// Numbers per interface: its lists, and one with a [bit](Self::bit) per list with shapes, and
    /// with [`Self::UNICAST`].
    pub const STRIDE: u32 = 4 * Self::WORDS + 1;

    /// The bit that says that a flow of the interface names the address of a host.
    pub const UNICAST: u64 = 1 << 4;
    /// The bits of all lists.
    pub(super) const ALL_BITS: u64 = Self::UNICAST - 1;

    /// Where an interface has the number with the bits of its lists.
    #[inline(always)]
    #[must_use]
    pub const fn bits(slot: u8) -> u32 {
        slot as u32 * Self::STRIDE + 4 * Self::WORDS
    }

    /// The bit of this list.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self as u32
    }

    /// Where the list of an interface starts.
    #[inline(always)]
    #[must_use]
    pub const fn start(self, slot: u8) -> u32 {
        slot as u32 * Self::STRIDE + self as u32 * Self::WORDS
    }
}
