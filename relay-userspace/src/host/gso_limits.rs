//! The limits of an interface for one GSO packet.

/// The limits of an interface for one GSO packet, over either version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GsoLimits {
    /// A packet, Ethernet header included, is shorter than this many bytes: the smaller one of
    /// `gso_max_size`, which is that of IPv6, and `gso_ipv4_max_size`, which Linux has since 6.3.
    /// Never more than the default.
    pub bytes: u32,
    /// The most frames that a packet is cut into (`gso_max_segs`).
    pub segments: u32,
}

impl Default for GsoLimits {
    /// The limits of a new interface (`GSO_LEGACY_MAX_SIZE`, `GSO_MAX_SEGS`,
    /// include/linux/netdevice.h).
    fn default() -> Self {
        Self {
            bytes: 65_536,
            segments: 65_535,
        }
    }
}

impl GsoLimits {
    /// Whether a packet of `len` bytes that is cut into `frames` is within the limits.
    #[inline]
    #[must_use]
    pub fn take(self, frames: u16, len: usize) -> bool {
        u32::from(frames) <= self.segments && len < self.bytes as usize
    }

    /// The most datagrams of `payload_len` bytes that a packet with `headers` bytes of headers may
    /// have. At least one: a datagram that leaves alone is no GSO packet.
    #[must_use]
    pub fn frames_of(self, headers: usize, payload_len: usize) -> usize {
        let payload = (self.bytes as usize).saturating_sub(headers + 1);
        (payload / payload_len.max(1))
            .min(self.segments as usize)
            .max(1)
    }
}
