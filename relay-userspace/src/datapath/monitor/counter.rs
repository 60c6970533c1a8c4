//! A counter at a fixed place of the payload.

use super::{
    Details,
    counts::CountCells,
    sequence::{Tracker, Width},
    sources::Stream,
};
use crate::config::rules::{Counter, Order};

/// The number of a datagram, if it is long enough.
#[inline]
fn number(at: Counter, payload: &[u8]) -> Option<(Width, u64)> {
    let field = payload.get(usize::from(at.offset)..)?;
    let (width, big) = match at.bytes {
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
    let number = match at.order {
        Order::Big => big,
        // The bytes that it has are the last ones of eight.
        Order::Little => big.swap_bytes() >> (u64::BITS - 8 * u32::from(at.bytes)),
    };
    Some((width, number))
}

/// The counter of one source.
#[derive(Debug, Default)]
pub struct Numbers {
    tracker: Tracker,
    own: (),
}

impl Numbers {
    /// Looks at a datagram. `false` if it is too short.
    #[inline]
    pub fn see(&self, at: Counter, payload: &[u8], counts: &CountCells) -> bool {
        let Some((width, number)) = number(at, payload) else {
            return false;
        };
        self.tracker.see(width, number, 1, counts);
        true
    }
}

impl Stream for Numbers {
    type Own = ();

    fn own(&self) -> &() {
        &self.own
    }

    fn tracker(&self) -> Option<&Tracker> {
        Some(&self.tracker)
    }

    fn reset(&self) {}

    fn details(&self) -> Details {
        Details::None
    }
}
