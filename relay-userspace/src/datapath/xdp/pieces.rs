//! The payloads of a run in one piece, for runs that leave through several outputs.
//!
//! The kernel copies a message's payloads once per output, and copies one piece of 64 KiB faster
//! than 64 pieces of a kilobyte in chunks of their own. One more copy here, into memory that stays
//! in the cache, saves more than it costs.

use std::ptr;

use crate::datapath::gso_packets::InRun;

/// Bytes of a piece: no message is longer.
const SIZE: usize = 1 << 16;
/// Pieces: as many runs of [`WORTH`] outputs as a queue has messages for, and the last one before.
const COUNT: u32 = 10;
/// From how many messages of the same payloads on it is worth it.
const WORTH: usize = 4;

/// Memory for the payloads of the runs whose messages wait in a queue.
#[derive(Debug, Default)]
pub struct Pieces {
    memory: Box<[u8]>,
    /// The pieces that messages refer to, one bit each.
    busy: u32,
    /// The one of the last run, if its payloads are in one.
    last: Option<u32>,
}

impl Pieces {
    /// With memory. The default has none, and leaves all payloads where they are.
    pub fn with_memory() -> Self {
        Self {
            memory: vec![0; COUNT as usize * SIZE].into(),
            ..Self::default()
        }
    }

    /// Copies the payloads that `parts` refer to into one piece, and makes one part of them, if as
    /// many messages may repeat them as make that worth it, and a piece is free. Returns how many
    /// parts there are then.
    ///
    /// # Safety
    ///
    /// The parts must refer to memory that can be read.
    pub unsafe fn join(&mut self, parts: &mut [libc::iovec], in_run: InRun) -> usize {
        self.last = None;
        if in_run.may_follow + 1 < WORTH {
            return parts.len();
        }
        let number = self.busy.trailing_ones();
        let start = number as usize * SIZE;
        let Some(piece) = self.memory.get_mut(start..start + SIZE) else {
            return parts.len();
        };
        let mut len = 0;
        for part in parts.iter() {
            let Some(to) = piece.get_mut(len..len + part.iov_len) else {
                return parts.len();
            };
            // SAFETY: the caller's promise; `to` is as long, and no part is in this piece.
            unsafe {
                ptr::copy_nonoverlapping(part.iov_base.cast(), to.as_mut_ptr(), to.len());
            }
            len += to.len();
        }
        let Some(first) = parts.first_mut() else {
            return 0;
        };
        *first = libc::iovec {
            iov_base: piece.as_mut_ptr().cast(),
            iov_len: len,
        };
        self.busy |= 1 << number;
        self.last = Some(number);
        1
    }

    /// Frees all pieces but the one of the last run, which the next messages may repeat.
    pub fn handed_over(&mut self) {
        self.busy = self.last.map_or(0, |number| 1 << number);
    }
}
