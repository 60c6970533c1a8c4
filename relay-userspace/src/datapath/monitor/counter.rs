//! A counter at a fixed place of the payload.

use super::{
    Details,
    counts::CountCells,
    kind::ByteOrder,
    sequence::{Tracker, Width},
    sources::Stream,
};

/// Where in the payload the counter is.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Where it begins.
    pub offset: u16,
    /// Its length.
    pub bytes: u8,
    /// Which byte comes first.
    pub order: ByteOrder,
}

impl Layout {
    /// The counter of a datagram, if it is long enough.
    #[inline]
    fn number(self, payload: &[u8]) -> Option<(Width, u64)> {
        let field = payload.get(usize::from(self.offset)..)?;
        let (width, big) = match self.bytes {
            1 => (Width::Bits8, u64::from(*field.first()?)),
            2 => (
                Width::Bits16,
                u64::from(u16::from_be_bytes(*field.first_chunk()?)),
            ),
            4 => (
                Width::Bits32,
                u64::from(u32::from_be_bytes(*field.first_chunk()?)),
            ),
            8 => (Width::Bits64, u64::from_be_bytes(*field.first_chunk()?)),
            _ => return None,
        };
        let number = match self.order {
            ByteOrder::Big => big,
            // The bytes that it has are the last ones of eight.
            ByteOrder::Little => big.swap_bytes() >> (u64::BITS - 8 * u32::from(self.bytes)),
        };
        Some((width, number))
    }
}

/// The counter of one source.
#[derive(Debug, Default)]
pub struct Counter {
    tracker: Tracker,
    own: (),
}

impl Counter {
    /// Looks at a datagram. `false` if it is too short.
    #[inline]
    pub fn see(&self, layout: Layout, payload: &[u8], counts: &CountCells) -> bool {
        let Some((width, number)) = layout.number(payload) else {
            return false;
        };
        self.tracker.see(width, number, 1, counts);
        true
    }
}

impl Stream for Counter {
    type Own = ();

    fn own(&self) -> &() {
        &self.own
    }

    fn end(&self, counts: &CountCells) {
        self.tracker.end(counts);
    }

    fn reset(&self) {
        self.tracker.end(&CountCells::default());
    }

    fn missing(&self) -> u64 {
        self.tracker.missing()
    }

    fn details(&self) -> Details {
        Details::None
    }
}
