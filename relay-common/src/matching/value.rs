//! What a look-up finds.

/// What a look-up finds: the flow's number, flags, and the position of its limit. All zeros stands
/// for nothing.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowValue(u64);

impl FlowValue {
    /// No flow.
    pub const NONE: Self = Self(0);
    /// Where the position of the limit starts, counted from 1; below it is the flow's number.
    const LIMIT: u32 = 32;
    /// A flow, and no mere carrier of the other flags.
    const IS_FLOW: u64 = 1 << 61;
    /// Flows with the same group and port name sources.
    const NAMES_SOURCES: u64 = 1 << 62;
    /// Flows with a prefix around the group name sources.
    const IS_COVERED: u64 = 1 << 63;

    /// The value of flow number `flow`, whose limit is at position `limit` of
    /// [`LIMITS`](crate::abi::LIMITS). Of a limit, 28 bits count.
    #[must_use]
    pub const fn new(flow: u32, limit: Option<u32>) -> Self {
        let limit = match limit {
            Some(position) => (position + 1) & 0x0fff_ffff,
            None => 0,
        };
        Self(Self::IS_FLOW | (limit as u64) << Self::LIMIT | flow as u64)
    }

    /// The same with the flags of an entry of the exact table.
    #[must_use]
    pub const fn with_flags(self, names_sources: bool, is_covered: bool) -> Self {
        let mut value = self.0 & !(Self::NAMES_SOURCES | Self::IS_COVERED);
        if names_sources {
            value |= Self::NAMES_SOURCES;
        }
        if is_covered {
            value |= Self::IS_COVERED;
        }
        Self(value)
    }

    /// Its number in the map.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The value with this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its flags alone.
    #[inline(always)]
    pub(super) const fn flags(self) -> Self {
        Self(self.0 & (Self::IS_FLOW | Self::NAMES_SOURCES | Self::IS_COVERED))
    }

    /// This one or else `other`, whichever is a flow; [`Self::NONE`] if neither is.
    #[inline(always)]
    pub(super) const fn or(self, other: Self) -> Self {
        if self.is_flow() {
            self
        } else if other.is_flow() {
            other
        } else {
            Self::NONE
        }
    }

    /// Whether it is a flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_flow(self) -> bool {
        self.0 & Self::IS_FLOW != 0
    }

    /// The flow's number.
    #[inline(always)]
    #[must_use]
    pub const fn flow(self) -> u32 {
        self.0 as u32
    }

    /// The position of its limit, `None` where it has none.
    #[inline(always)]
    #[must_use]
    pub const fn limit(self) -> Option<u32> {
        ((self.0 >> Self::LIMIT) as u32 & 0x0fff_ffff).checked_sub(1)
    }

    /// Whether it is a flow, and nothing more specific can take a datagram of its group and port.
    #[inline(always)]
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.0 >> 61 == Self::IS_FLOW >> 61
    }

    #[inline(always)]
    pub(super) const fn names_sources(self) -> bool {
        self.0 & Self::NAMES_SOURCES != 0
    }

    #[inline(always)]
    pub(super) const fn is_covered(self) -> bool {
        self.0 & Self::IS_COVERED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_number_limit_and_flags_apart() {
        for flow in [0, 1, u32::MAX] {
            for limit in [None, Some(0), Some(0x0fff_fffe)] {
                let value = FlowValue::new(flow, limit);
                assert_eq!((value.flow(), value.limit()), (flow, limit));
                assert!(value.is_flow() && value.is_final());
                let flagged = value.with_flags(true, true);
                assert_eq!((flagged.flow(), flagged.limit()), (flow, limit));
                assert!(flagged.is_flow() && !flagged.is_final());
                assert_eq!(flagged.with_flags(false, false), value);
            }
        }
        let carrier = FlowValue::NONE.with_flags(true, false);
        assert!(!carrier.is_flow() && !carrier.is_final());
    }
}
