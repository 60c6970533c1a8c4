//! The reasons why a frame is left to the Linux stack.

/// Why a frame is not a datagram that a rule could match. Such a frame belongs to the Linux stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Hash))]
pub enum Skip {
    /// Neither IPv4 nor IPv6: ARP, LLDP, PTP over Ethernet and so on, or a frame shorter than an
    /// Ethernet header.
    NotIp,
    /// IPv6 with an extension header other than that of a fragment: where UDP starts, if there is
    /// any, and whether a forwarder may ignore the options in front of it, is for the Linux stack
    /// to find out (RFC 8200, section 4).
    Ipv6Extension,
    /// VLAN tags that no rule can name: three, or a service tag (IEEE 802.1ad) that has no customer
    /// tag inside it. Tags without an identifier, which have only a priority, count among the three
    /// and otherwise not.
    Tags,
    /// An IPv4 header with options, which a forwarder may not ignore (RFC 791).
    IpOptions,
    /// A fragment: only the first one has ports, so none can be matched.
    Fragment,
    /// IP, but not UDP.
    NotUdp,
    /// UDP to a unicast or broadcast address, where no rule names one.
    NotMulticast,
    /// UDP over IPv6 without a checksum. A host drops it, unless a program has asked for such
    /// datagrams on its port (RFC 8200, section 8.1; RFC 6935).
    NoChecksum,
    /// A length that contradicts another or the frame, or a wrong IPv4 header checksum.
    Malformed,
    /// A source that no host can have, or an IPv6 group whose scope ends at its host: the Linux
    /// stack drops such datagrams as martian, too.
    Martian,
    /// Sent neither to the Ethernet address of its group nor to that of the interface: a host that
    /// listens to the group, or has the address, would not take it.
    OtherMac,
}
