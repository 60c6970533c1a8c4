//! The reasons why a frame is left to the Linux stack.

/// Why a frame is not a datagram that a rule could match. Such a frame belongs to the Linux stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Hash))]
pub enum Skip {
    /// Neither IPv4 nor IPv6: ARP, LLDP, PTP over Ethernet and so on, or a frame shorter than an
    /// Ethernet header.
    NotIp,
    /// IPv6.
    Ipv6,
    /// Two VLAN tags, or a service tag (IEEE 802.1ad), whatever follows.
    DoubleTag,
    /// An IPv4 header with options, which a forwarder may not ignore (RFC 791).
    IpOptions,
    /// A fragment: only the first one has ports, so none can be matched.
    Fragment,
    /// IP, but not UDP.
    NotUdp,
    /// UDP to a unicast or broadcast address.
    NotMulticast,
    /// A length that contradicts another or the frame, or a wrong IPv4 header checksum.
    Malformed,
    /// A source that no host can have: the Linux stack drops such datagrams as martian, too.
    Martian,
    /// Sent neither to the Ethernet address of its group nor to that of the interface: a host that
    /// listens to the group would not take it.
    OtherMac,
}
