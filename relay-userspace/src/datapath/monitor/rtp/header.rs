//! The header of RTP (RFC 3550, section 5.1).

/// The fixed header.
const LEN: usize = 12;
/// Payload types that RFC 3551 keeps free, because RTCP packets would look like them.
const RTCP: std::ops::RangeInclusive<u8> = 72..=76;

/// What a monitor needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The payload type.
    pub payload_type: u8,
    /// The sequence number.
    pub sequence: u16,
    /// The timestamp, in units of the payload type's clock.
    pub timestamp: u32,
    /// The synchronization source.
    pub ssrc: u32,
    /// Length of the header with CSRCs and extension: not more than the datagram has.
    pub len: usize,
}

impl Header {
    /// The header of a datagram. `None` if it is no RTP of version 2, or shorter than its header.
    #[inline]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let fixed: &[u8; LEN] = payload.first_chunk()?;
        let [first, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3] = *fixed;
        let payload_type = second & 0x7f;
        if first >> 6 != 2 || RTCP.contains(&payload_type) {
            return None;
        }
        let mut len = LEN + 4 * usize::from(first & 0x0f);
        if first & 0x10 != 0 {
            let [_, _, high, low] = *payload.get(len..)?.first_chunk::<4>()?;
            len += 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        }
        if len > payload.len() {
            return None;
        }
        Some(Self {
            payload_type,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([i0, i1, i2, i3]),
            len,
        })
    }
}
