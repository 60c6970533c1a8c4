//! The payload sum by AVX2: 32 bytes in three instructions.
//!
//! `vpmaddwd` adds neighbouring 16-bit words into 32-bit lanes, but takes words as signed. So each
//! word has its highest bit flipped, which subtracts 32768 from its value, and 32768 per word is
//! added at the end. The sum is exact, not only modulo 65535, and no lane can overflow within
//! [`LENGTHS`].

use std::{
    arch::x86_64::{
        __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_extract_epi32, _mm_unpackhi_epi64,
        _mm256_add_epi32, _mm256_and_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
        _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi16, _mm256_setzero_si256,
        _mm256_xor_si256,
    },
    ops::RangeInclusive,
};

use super::fold;

/// Bytes per vector.
const VECTOR: usize = 32;

/// The lengths in bytes that [`sum_payload`] takes: from one vector to the longest UDP payload.
pub const LENGTHS: RangeInclusive<usize> = VECTOR..=65_535;

/// Masks that select the last bytes of a vector: the one from offset `n` on selects the last `n`.
static LAST: [u8; 2 * VECTOR] = {
    let mut mask = [0; 2 * VECTOR];
    let mut at = VECTOR;
    while at < 2 * VECTOR {
        mask[at] = 0xff;
        at += 1;
    }
    mask
};

/// See [`super::sum_payload`]; the length of `bytes` must be in [`LENGTHS`].
#[target_feature(enable = "avx2")]
pub fn sum_payload(bytes: &[u8]) -> u16 {
    let (mut a, mut b) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let (fours, mut rest) = bytes.as_chunks::<{ 4 * VECTOR }>();
    for four in fours {
        for pair in four.as_chunks().0 {
            (a, b) = add_two(a, b, pair);
        }
    }
    if let Some((pair, after)) = rest.split_first_chunk() {
        (a, b) = add_two(a, b, pair);
        rest = after;
    }
    if let Some(one) = rest.first_chunk() {
        a = add(a, load(one));
    }
    // The whole words after the last full vector: loads the vector that ends with them, and masks
    // the words that have been added already.
    let (words, odd) = bytes.split_at(bytes.len() & !1);
    if let (Some(end), Some(mask)) = (
        words.last_chunk(),
        LAST[words.len() % VECTOR..].first_chunk(),
    ) {
        b = add(b, _mm256_and_si256(load(end), load(mask)));
    }
    let vectors = bytes.len() / VECTOR + 1;
    let words = (VECTOR / 2 * vectors) as u32;
    let odd = odd
        .first()
        .map_or(0, |byte| u32::from(u16::from_ne_bytes([*byte, 0])));
    // The 32-bit sum may wrap on the way; the result is below 2^31: 32,767 words and a byte.
    let sum = lanes(_mm256_add_epi32(a, b))
        .wrapping_add(words * 0x8000)
        .wrapping_add(odd);
    fold(sum)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; VECTOR]) -> __m256i {
    // SAFETY: the reference covers all bytes that the instruction reads; it needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Adds each 16-bit word of `words`, minus 32768, to the lanes of `sums`.
#[inline]
#[target_feature(enable = "avx2")]
fn add(sums: __m256i, words: __m256i) -> __m256i {
    let signed = _mm256_xor_si256(words, _mm256_set1_epi16(i16::MIN));
    _mm256_add_epi32(sums, _mm256_madd_epi16(signed, _mm256_set1_epi16(1)))
}

/// Adds the words of the first vector to the lanes of `a`, of the second to those of `b`.
#[inline]
#[target_feature(enable = "avx2")]
fn add_two(a: __m256i, b: __m256i, pair: &[u8; 2 * VECTOR]) -> (__m256i, __m256i) {
    match pair.as_chunks().0 {
        [one, two] => (add(a, load(one)), add(b, load(two))),
        _ => (a, b),
    }
}

/// The sum of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(sums: __m256i) -> u32 {
    let high = _mm256_extracti128_si256::<1>(sums);
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), high);
    let sums = _mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums));
    (_mm_cvtsi128_si32(sums) as u32).wrapping_add(_mm_extract_epi32::<1>(sums) as u32)
}
