//! Where fields start, for code that adds offsets. New code uses the ranges of [`ipv4::field`] and
//! [`udp::field`].
//!
//! [`ipv4::field`]: super::ipv4::field
//! [`udp::field`]: super::udp::field

/// IPv4 (RFC 791).
pub mod ipv4 {
    use super::super::ipv4::field;

    /// Type of service: DSCP and ECN, 1 byte.
    pub const TOS: usize = field::TOS;
    /// Length of header and payload, 2 bytes.
    pub const TOTAL_LEN: usize = field::TOTAL_LEN.start;
    /// Identification, 2 bytes.
    pub const ID: usize = field::ID.start;
    /// Flags and fragment offset, 2 bytes.
    pub const FRAGMENT: usize = field::FRAGMENT.start;
    /// Time to live, 1 byte.
    pub const TTL: usize = field::TTL;
    /// Header checksum, 2 bytes.
    pub const CHECKSUM: usize = field::CHECKSUM.start;
    /// Source address, 4 bytes.
    pub const SOURCE: usize = field::SOURCE.start;
    /// Destination address, 4 bytes.
    pub const DESTINATION: usize = field::DESTINATION.start;
}

/// UDP (RFC 768).
pub mod udp {
    use super::super::udp::field;

    /// Source port, 2 bytes.
    pub const SOURCE: usize = field::SOURCE_PORT.start;
    /// Destination port, 2 bytes.
    pub const DESTINATION: usize = field::DESTINATION_PORT.start;
    /// Length of header and payload, 2 bytes.
    pub const LEN: usize = field::LEN.start;
    /// Checksum, 2 bytes.
    pub const CHECKSUM: usize = field::CHECKSUM.start;
}
