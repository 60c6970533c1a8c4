//! What a rule asks its monitor to follow.

/// What the datagrams of a flow are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RTP (RFC 3550).
    Rtp,
    /// MPEG transport streams in UDP (ISO/IEC 13818-1), also with an RTP header in front.
    MpegTs,
    /// MoldUDP64 1.00.
    MoldUdp64,
    /// A counter at a fixed place, one more in each datagram.
    Counter {
        /// Where it begins, in bytes from the start of the UDP payload.
        offset: u16,
        /// Its length: 1, 2, 4 or 8. With another one no datagram is understood.
        bytes: u8,
        /// Which of its bytes comes first.
        order: ByteOrder,
    },
}

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// The highest: network order.
    Big,
    /// The lowest.
    Little,
}
