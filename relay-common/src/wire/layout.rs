//! What the `field` modules of the protocols are made of, and where a field lies in the words that
//! the decoder reads.

use core::ops::Range;

/// Where a field lies, in bytes from the start of its header. A field of one byte is a `usize`.
pub type Field = Range<usize>;

/// Bytes of a word.
pub(super) const WORD: usize = size_of::<u32>();

/// A word of a header, as it lies in memory, that has `bytes` from the field at `start` on and is 0
/// elsewhere.
pub(super) const fn in_word<const N: usize>(start: usize, bytes: [u8; N]) -> u32 {
    let mut word = [0; WORD];
    let mut at = 0;
    while at < N {
        word[start % WORD + at] = bytes[at];
        at += 1;
    }
    u32::from_ne_bytes(word)
}

/// Eight bytes of a header, as they lie in memory, that start with `bytes` and are 0 elsewhere.
pub(super) const fn in_long<const N: usize>(bytes: [u8; N]) -> u64 {
    let mut long = [0; size_of::<u64>()];
    let mut at = 0;
    while at < N {
        long[at] = bytes[at];
        at += 1;
    }
    u64::from_ne_bytes(long)
}

/// The 16 bits of `field`, in host order, out of the word of its header that they lie in.
#[inline(always)]
pub(super) const fn half_of(word: u32, field: Field) -> u16 {
    let bytes = word.to_ne_bytes();
    let at = field.start % WORD;
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
