//! The payloads of a run in one piece, for runs that leave through several outputs.
//!
//! The kernel copies a message's payloads once per output, and copies one piece of 64 KiB faster
//! than 64 pieces of a kilobyte in chunks of their own. One more copy here, into memory that stays
//! in the cache, is then cheaper than it costs.

use std::ptr;

/// Bytes of a place: no message is longer.
const PLACE: usize = 1 << 16;
/// Places: as many runs of [`WORTH`] outputs as a queue has messages for, and the last one before.
const PLACES: u32 = 10;
/// From how many messages of the same payloads on it is worth it.
const WORTH: usize = 4;

/// Places for the payloads of the runs whose messages wait in a queue.
#[derive(Debug, Default)]
pub struct Gathered {
    memory: Box<[u8]>,
    /// The places that messages refer to, one bit each.
    busy: u32,
    /// The place of the last run, if it is in one.
    last: Option<u32>,
}

impl Gathered {
    /// With memory; the default has none, and gathers nothing.
    pub fn with_memory() -> Self {
        Self {
            memory: vec![0; PLACES as usize * PLACE].into(),
            ..Self::default()
        }
    }

    /// Takes the payloads that `parts` refer to into one piece, and makes one part of them, if
    /// as many messages may repeat them as make that worth it, and a place is free. Returns how many
    /// parts there are then.
    ///
    /// # Safety
    ///
    /// The parts must refer to memory that can be read.
    pub unsafe fn take(&mut self, parts: &mut [libc::iovec], repeated: usize) -> usize {
        self.last = None;
        if repeated + 1 < WORTH {
            return parts.len();
        }
        let place = self.busy.trailing_ones();
        let len: usize = parts.iter().map(|part| part.iov_len).sum();
        let start = place as usize * PLACE;
        let Some(to) = self.memory.get_mut(start..start + PLACE) else {
            return parts.len();
        };
        if len > PLACE || parts.len() < 2 {
            return parts.len();
        }
        let mut rest = &mut to[..];
        for part in parts.iter() {
            let Some((to, after)) = rest.split_at_mut_checked(part.iov_len) else {
                return parts.len();
            };
            // SAFETY: the caller's promise; `to` is as long, and no part is in this memory.
            unsafe {
                ptr::copy_nonoverlapping(part.iov_base.cast::<u8>(), to.as_mut_ptr(), to.len());
            }
            rest = after;
        }
        let Some(first) = parts.first_mut() else {
            return 0;
        };
        first.iov_base = to.as_mut_ptr().cast();
        first.iov_len = len;
        self.busy |= 1 << place;
        self.last = Some(place);
        1
    }

    /// Frees all places but the one of the last run, which the next messages may repeat.
    pub fn handed_over(&mut self) {
        self.busy = self.last.map_or(0, |place| 1 << place);
    }
}
