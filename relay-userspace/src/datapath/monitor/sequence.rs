//! Follows the numbers of a stream, of any width: what is missing, late, or there twice.
//!
//! The highest number so far is known, and of the 64 numbers up to it which ones have come. The
//! window begins where the stream does: of what was before its first number nothing is expected.

use super::counts::CountCells;
use crate::datapath::stats::Count;

/// How many numbers up to the highest are remembered.
const WINDOW: u64 = u64::BITS as u64;

/// How many bits the numbers have, before they begin at 0 again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Bits8,
    /// Two bytes.
    Bits16,
    /// Four bytes.
    Bits32,
    /// Eight bytes.
    Bits64,
}

impl Width {
    /// The highest number.
    pub const fn mask(self) -> u64 {
        match self {
            Self::Bits8 => u8::MAX as u64,
            Self::Bits16 => u16::MAX as u64,
            Self::Bits32 => u32::MAX as u64,
            Self::Bits64 => u64::MAX,
        }
    }

    /// The longest jump ahead that is a loss; behind a longer one another stream may begin.
    pub const fn limit(self) -> u64 {
        match self {
            Self::Bits8 => 100,
            // MAX_DROPOUT of RFC 3550, A.1.
            Self::Bits16 => 3000,
            Self::Bits32 | Self::Bits64 => 1 << 20,
        }
    }
}

/// What a datagram was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The first of its stream.
    First,
    /// Its last number is the highest now.
    Highest,
    /// It filled holes.
    Late,
    /// All its numbers had come before.
    Again,
    /// Far from the others: the next one tells whether the numbers begin anew.
    Suspect,
    /// It follows a suspect: the numbers have begun anew.
    Restart,
}

/// The numbers of one stream.
#[derive(Debug, Default)]
pub struct Tracker {
    highest: Count,
    /// Bit `n`: the number `n` below the highest has come.
    window: Count,
    /// How many bits of the window mean something; 0 before the first number.
    depth: Count,
    /// How many numbers the suspect has, 0 if there is none, and which one would follow it.
    suspect: Count,
    follows: Count,
}

/// A number whose lowest `count` bits are set.
const fn ones(count: u64) -> u64 {
    if count >= WINDOW {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

impl Tracker {
    /// A datagram with `count` numbers, at least one, arrived; `first` is its first. Only the
    /// owning worker may call this.
    #[inline]
    pub fn see(&self, width: Width, first: u64, count: u64, counts: &CountCells) -> Seen {
        let mask = width.mask();
        let (first, more) = (first & mask, count.saturating_sub(1));
        let last = first.wrapping_add(more) & mask;
        let depth = self.depth.get();
        if depth == 0 {
            self.begin(last, more.saturating_add(1));
            return Seen::First;
        }
        let suspect = self.suspect.get();
        if suspect != 0 {
            if first == self.follows.get() {
                counts.restarts.add(1);
                counts.lost.add(self.missing());
                self.begin(first.wrapping_sub(1) & mask, suspect);
                self.advance(mask, 0, more.saturating_add(1), counts);
                return Seen::Restart;
            }
            self.suspect.set(0);
            counts.stray.add(1);
        }
        let highest = self.highest.get();
        let ahead = first.wrapping_sub(highest).wrapping_sub(1) & mask;
        if ahead < width.limit() {
            self.advance(mask, ahead, more.saturating_add(1), counts);
            return Seen::Highest;
        }
        let behind = highest.wrapping_sub(first) & mask;
        if behind >= depth.saturating_add(more) {
            self.suspect.set(more.saturating_add(1));
            self.follows.set(last.wrapping_add(1) & mask);
            return Seen::Suspect;
        }
        self.fill(mask, behind, more, counts)
    }

    /// A datagram of which at least one number is in the window: its first is `behind` the highest,
    /// and `more` follow.
    #[inline]
    fn fill(&self, mask: u64, behind: u64, more: u64, counts: &CountCells) -> Seen {
        let end = behind.saturating_add(1).min(self.depth.get());
        let bits = ones(end) & !ones(behind.saturating_sub(more));
        let window = self.window.get();
        let holes = bits & !window;
        self.window.set(window | bits);
        counts.reordered.add(u64::from(holes.count_ones()));
        if more > behind {
            self.advance(mask, 0, more - behind, counts);
            Seen::Highest
        } else if holes != 0 {
            Seen::Late
        } else {
            counts.duplicated.add(1);
            Seen::Again
        }
    }

    /// Begins with `count` numbers of which `highest` is the last.
    fn begin(&self, highest: u64, count: u64) {
        self.highest.set(highest);
        self.window.set(ones(count));
        self.depth.set(count.min(WINDOW));
        self.suspect.set(0);
    }

    /// Above the highest number `skipped` ones are holes, and `count` came. The work is the same
    /// however many they are.
    #[inline]
    fn advance(&self, mask: u64, skipped: u64, count: u64, counts: &CountCells) {
        let step = skipped.saturating_add(count);
        let holes = self.missing().saturating_add(skipped);
        let rest = match u32::try_from(step) {
            Ok(step) => self.window.get().checked_shl(step).unwrap_or(0),
            Err(_) => 0,
        };
        self.window.set(rest | ones(count));
        let depth = self.depth.get().saturating_add(step).min(WINDOW);
        self.depth.set(depth);
        self.highest
            .set(self.highest.get().wrapping_add(step) & mask);
        // Those that are holes no longer have left the window.
        counts.lost.add(holes.saturating_sub(self.missing()));
    }

    /// How many holes the window has.
    #[inline]
    pub fn missing(&self) -> u64 {
        let came = u64::from(self.window.get().count_ones());
        self.depth.get().saturating_sub(came)
    }

    /// The highest number, if one has come.
    pub fn highest(&self) -> Option<u64> {
        (self.depth.get() != 0).then(|| self.highest.get())
    }

    /// Ends the stream: what is missing is lost, and a suspect was a stray. Only the owning worker
    /// may call this.
    pub fn end(&self, counts: &CountCells) {
        counts.lost.add(self.missing());
        counts.stray.add(u64::from(self.suspect.get() != 0));
        for count in [&self.window, &self.depth, &self.suspect] {
            count.set(0);
        }
    }
}

#[cfg(test)]
mod tests;
