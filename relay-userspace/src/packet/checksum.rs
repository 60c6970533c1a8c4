//! One's complement sums of the Internet checksum (RFC 1071).
//!
//! Sums are of 16-bit words as they lie in memory, and a folded sum is 0 only if every byte was 0.
//! The order of the two bytes does not matter as long as it is the same everywhere (RFC 1071,
//! section 2 B): a checksum is read and written as it lies in memory, and no byte is swapped. A
//! number that stands in no header, such as a length, enters a sum by [`word`].
//!
//! The payload sum is the only part of the relay that reads a payload, so it uses the widest
//! instructions of the CPU: `avx2` where it has AVX2, 64-bit words otherwise. Both give the same
//! value for every input.

#[cfg(target_arch = "x86_64")]
mod avx2;

/// The one's complement sum of an even number of bytes, not folded.
#[inline(always)]
pub(crate) fn sum_words(bytes: &[u8]) -> u32 {
    let (longs, rest) = bytes.as_chunks();
    let longs = longs.iter().map(|long| u32::from_ne_bytes(*long));
    let sum = longs.fold(0, |sum: u32, long| {
        // The carry out of the highest bit is added at the lowest one.
        let (sum, carry) = sum.overflowing_add(long);
        sum + u32::from(carry)
    });
    let last = rest
        .first_chunk()
        .map_or(0, |last| u16::from_ne_bytes(*last));
    (sum & 0xffff) + (sum >> 16) + u32::from(last)
}

/// What a field of 16 bits with this value adds to a sum.
#[inline]
pub(crate) fn word(value: u16) -> u32 {
    u32::from(value.to_be())
}

/// The folded one's complement sum of a payload; an odd last byte is padded with zero (RFC 1071).
///
/// The process detects the CPU's instructions once; after that the check is a load and a branch.
/// Not inlined, so that callers that seldom read a payload do not pay for it.
#[inline(never)]
pub(crate) fn sum_payload(bytes: &[u8]) -> u16 {
    #[cfg(target_arch = "x86_64")]
    if avx2::LENGTHS.contains(&bytes.len()) && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { avx2::sum_payload(bytes) };
    }
    sum_by_64_bits(bytes)
}

/// [`sum_payload`] with the instructions that every CPU has. Not inlined, so that the AVX2 branch
/// stays short.
#[inline(never)]
fn sum_by_64_bits(bytes: &[u8]) -> u16 {
    // A carry out of the highest bit is added at the lowest one.
    let add = |sum: u64, word: u64| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u64::from(carry)
    };
    let mut sum = 0;
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for word in block.as_chunks().0 {
            sum = add(sum, u64::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks();
    for word in words {
        sum = add(sum, u64::from_ne_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum = add(sum, u64::from_ne_bytes(last));
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    fold(sum as u32)
}

/// Folds the carries of a one's complement sum (RFC 1071).
#[inline]
pub(crate) fn fold(sum: u32) -> u16 {
    // The upper half becomes the sum of both, and the carry of the lower half is added to it.
    let (sum, _) = sum.overflowing_add(sum.rotate_left(16));
    (sum >> 16) as u16
}

/// Completes a partial checksum that covers `bytes`. Its field begins at `at` among them, and has
/// the sum of what else it covers. Without room for the field nothing changes.
pub fn complete(bytes: &mut [u8], at: usize) {
    let checksum = nonzero(!sum_payload(bytes));
    let field = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    if let Some(field) = field {
        *field = checksum.to_ne_bytes();
    }
}

/// A computed UDP checksum of 0 leaves as `0xffff`, because 0 means none (RFC 768).
#[inline]
pub(crate) fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 word by word, with the carry added back after each, as it lies in memory.
    fn reference(bytes: &[u8]) -> u16 {
        let sum = bytes.chunks(2).fold(0, |sum, word| {
            let low = word.get(1).copied().unwrap_or(0);
            let sum = sum + (u32::from(word[0]) << 8 | u32::from(low));
            (sum & 0xffff) + (sum >> 16)
        });
        (sum as u16).to_be()
    }

    /// Bytes without a pattern (xorshift).
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(len)
        .collect()
    }

    fn assert_right(bytes: &[u8], what: &str) {
        let right = reference(bytes);
        let len = bytes.len();
        assert_eq!(sum_payload(bytes), right, "{what}, {len} bytes");
        assert_eq!(sum_by_64_bits(bytes), right, "{what}, {len} bytes");
    }

    #[test]
    fn every_carry_is_folded() {
        let halves = [0, 1, 2, 0x7fff, 0x8000, 0xfffe, 0xffff];
        for (high, low) in halves
            .iter()
            .flat_map(|&high| halves.map(|low| (high, low)))
        {
            let sum = high + low;
            let right = (sum & 0xffff) + (sum >> 16);
            assert_eq!(u32::from(fold(high << 16 | low)), right, "{high:x} {low:x}");
        }
    }

    #[test]
    fn sums_are_those_of_the_rfc_for_every_length_and_alignment() {
        for (what, bytes) in [
            ("noise", noise(2100)),
            ("ones", vec![0xff; 2100]),
            ("zeros", vec![0; 2100]),
            ("sign bits", [0x80, 0].repeat(1050)),
            ("all but sign bits", [0x7f, 0xff].repeat(1050)),
        ] {
            for start in 0..32 {
                // Every length at which the code branches, then those around a full frame.
                for len in (0..=420).chain(990..=1010).chain(1460..=1480) {
                    assert_right(&bytes[start..start + len], what);
                }
            }
        }
    }

    #[test]
    fn sums_are_right_up_to_the_longest_payload_and_beyond() {
        for bytes in [noise(140_001), vec![0xff; 140_001], vec![0; 140_001]] {
            for len in [9000, 65_507, 65_535, 65_536, 65_537, 140_000, 140_001] {
                assert_right(&bytes[..len], "long");
            }
        }
    }

    #[test]
    fn what_has_been_completed_adds_up() {
        for len in 8..100 {
            let mut bytes = noise(len);
            let pseudo_header = u16::from_ne_bytes([bytes[6], bytes[7]]);
            complete(&mut bytes, 6);
            let sum = u32::from(sum_payload(&bytes)) + u32::from(pseudo_header);
            assert_eq!(fold(sum), 0xffff, "{len} bytes");
        }
        let mut short = noise(7);
        complete(&mut short, 6);
        complete(&mut short, 8);
        assert_eq!(short, noise(7));
    }

    #[test]
    fn a_single_byte_counts_wherever_it_is() {
        for len in 0..300 {
            let mut bytes = vec![0; len];
            for at in 0..len {
                bytes[at] = 0x5a;
                let right: u16 = if at % 2 == 0 { 0x5a00 } else { 0x5a };
                assert_eq!(sum_payload(&bytes), right.to_be(), "byte {at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
