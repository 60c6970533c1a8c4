//! The payloads of datagrams: a sequence header, and bytes that follow from it.
//!
//! Sender and receiver derive the same bytes from (flow, sequence), so a receiver knows every byte
//! that it must see without having seen the sender.
//!
//! ```text
//!  0        4       8                16
//!  +--------+-------+----------------+----------------------------+
//!  | magic  | flow  | sequence       | pseudo-random from (flow,  |
//!  |        |       | (big endian)   | sequence)                  |
//!  +--------+-------+----------------+----------------------------+
//! ```
//!
//! A payload shorter than the header is pseudo-random only; its sequence is its place in the order
//! of arrival.

/// Length of the sequence header.
pub const HEADER_LEN: usize = 16;

/// The first bytes of every payload that has a header.
const MAGIC: [u8; 4] = *b"rlyT";

/// SplitMix64 (Steele, Lea, Flood 2014): each state gives one well mixed value.
pub fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes the payload of one datagram over `payload`.
pub fn fill(flow: u32, sequence: u64, payload: &mut [u8]) {
    let seed = mix(u64::from(flow) << 32 ^ sequence);
    for (i, chunk) in payload.chunks_mut(8).enumerate() {
        let value = mix(seed.wrapping_add(i as u64 + 1)).to_ne_bytes();
        chunk.copy_from_slice(&value[..chunk.len()]);
    }
    if payload.len() >= HEADER_LEN {
        payload[0..4].copy_from_slice(&MAGIC);
        payload[4..8].copy_from_slice(&flow.to_be_bytes());
        payload[8..16].copy_from_slice(&sequence.to_be_bytes());
    }
}

/// The payload of one datagram.
pub fn payload(flow: u32, sequence: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fill(flow, sequence, &mut bytes);
    bytes
}

/// Flow and sequence, if `payload` begins with a sequence header.
pub fn header(payload: &[u8]) -> Option<(u32, u64)> {
    let (header, _) = payload.split_at_checked(HEADER_LEN)?;
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (flow, rest) = rest.split_first_chunk::<4>()?;
    let sequence = rest.first_chunk::<8>()?;
    (*magic == MAGIC).then(|| (u32::from_be_bytes(*flow), u64::from_be_bytes(*sequence)))
}

/// A hash of payloads in their order: equal only if every length and every byte was equal and in
/// the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderedHash(u64);

impl Default for OrderedHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl OrderedHash {
    /// Adds the next payload.
    pub fn update(&mut self, payload: &[u8]) {
        let mut state = mix(self.0 ^ payload.len() as u64);
        for chunk in payload.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = (state ^ u64::from_ne_bytes(word))
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(29);
        }
        self.0 = state;
    }

    /// The hash over `count` payloads of `size` bytes from sequence `first` on.
    pub fn of(flow: u32, first: u64, count: u64, size: usize) -> Self {
        let mut hash = Self::default();
        let mut bytes = vec![0; size];
        for sequence in first..first + count {
            fill(flow, sequence, &mut bytes);
            hash.update(&bytes);
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_its_flow_and_sequence() {
        assert_eq!(header(&payload(7, 1 << 40, 16)), Some((7, 1 << 40)));
        assert_eq!(header(&payload(7, 1, 15)), None);
        assert_eq!(header(&[0; 64]), None);
    }

    #[test]
    fn payloads_of_different_sequences_and_flows_differ() {
        assert_ne!(payload(1, 1, 12), payload(1, 2, 12));
        assert_ne!(payload(1, 1, 12), payload(2, 1, 12));
    }

    #[test]
    fn the_hash_depends_on_order_and_on_every_byte() {
        let hash = |payloads: &[&[u8]]| {
            let mut hash = OrderedHash::default();
            payloads.iter().for_each(|p| hash.update(p));
            hash
        };
        assert_ne!(hash(&[b"one", b"two"]), hash(&[b"two", b"one"]));
        assert_ne!(hash(&[b"one", b"two"]), hash(&[b"onet", b"wo"]));
        assert_ne!(hash(&[b"0123456789"]), hash(&[b"0123456788"]));
        let in_order: Vec<_> = (5..8).map(|n| payload(3, n, 100)).collect();
        let views: Vec<&[u8]> = in_order.iter().map(Vec::as_slice).collect();
        assert_eq!(hash(&views), OrderedHash::of(3, 5, 3, 100));
    }
}
