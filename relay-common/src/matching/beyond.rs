//! What the look-up behind the exact table is told, in one number.
//!
//! A kernel program does that look-up in a function that takes nothing but numbers, of which five
//! are the most: four are the addresses of IPv6.

use super::{FlowValue, List};

/// The place, the port, the lists of the interface that have shapes, and what the exact table said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beyond(u64);

impl Beyond {
    /// Where the parts start: the place is below, the flags of [`FlowValue`] are above.
    const PORT: u32 = 32;
    const LISTS: u32 = 48;
    const WITH_SOURCES: u64 = 1 << 52;

    /// The datagram of this place and port, on an interface whose number of [`List::bits`] is
    /// `lists`, for which the exact table has `exact`.
    #[inline(always)]
    pub(super) const fn new(place: u32, port: u16, lists: u64, exact: FlowValue) -> Self {
        Self(
            exact.flags().bits()
                | (lists & List::ALL_BITS) << Self::LISTS
                | (port as u64) << Self::PORT
                | place as u64,
        )
    }

    /// Its number.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The one with this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline(always)]
    pub(super) const fn place(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub(super) const fn port(self) -> u16 {
        (self.0 >> Self::PORT) as u16
    }

    /// The same for the list of flows with a source instead of the one of those without.
    #[inline(always)]
    pub(super) const fn with_sources(self) -> Self {
        Self(self.0 | Self::WITH_SOURCES)
    }

    #[inline(always)]
    pub(super) const fn is_with_sources(self) -> bool {
        self.0 & Self::WITH_SOURCES != 0
    }

    /// Whether the interface has shapes in this list.
    #[inline(always)]
    pub(super) const fn has_list(self, list: List) -> bool {
        self.0 >> Self::LISTS & list.bit() != 0
    }

    /// What the exact table said, but the flow itself.
    #[inline(always)]
    pub(super) const fn exact(self) -> FlowValue {
        FlowValue::from_bits(self.0).flags()
    }
}
