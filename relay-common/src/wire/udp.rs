//! UDP (RFC 768): where the fields lie.

/// Where the fields lie, in bytes from the start of the UDP header.
pub mod field {
    use super::super::layout::Field;

    /// Source port.
    pub const SOURCE_PORT: Field = 0..2;
    /// Destination port.
    pub const DESTINATION_PORT: Field = 2..4;
    /// Length of header and payload.
    pub const LEN: Field = 4..6;
    /// Checksum of pseudo-header, header and payload; 0 where the sender computed none.
    pub const CHECKSUM: Field = 6..8;
}

/// Length of a UDP header.
pub const HEADER_LEN: usize = field::CHECKSUM.end;
