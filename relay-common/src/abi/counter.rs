//! The counters of the kernel programs: what became of a frame.

use crate::wire::{Datagram, Skip, Vlan};

/// What the kernel programs count for an interface. Every frame counts once, under what became of
/// it; [`Counter::Received`] is the sum of all others, which user space computes. A GSO packet, one
/// large packet that the kernel or the NIC cuts into datagrams, counts as its datagrams where the
/// socket filter matches it.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Every frame that reached the program. The programs themselves do not count it.
    Received = 0,
    /// Matched, and handed to the relay: by the XDP program to the socket of its queue, by the
    /// socket filter to its packet socket.
    Redirected = 1,
    /// Matched, but no socket serves its queue: the frame went to the Linux stack instead. Only the
    /// XDP program counts it.
    PassNoSocket = 2,
    /// Untagged multicast UDP that no rule takes.
    PassNoRule = 3,
    /// Multicast UDP of a VLAN that no rule takes, or [`Skip::Tags`].
    PassVlan = 4,
    /// [`Skip::NotIp`].
    PassNotIp = 5,
    /// [`Skip::Ipv6Extension`].
    PassIpv6Extension = 6,
    /// [`Skip::IpOptions`].
    PassIpOptions = 7,
    /// [`Skip::Fragment`].
    PassFragment = 8,
    /// [`Skip::NotUdp`].
    PassNotUdp = 9,
    /// UDP to a unicast or broadcast address that no rule takes, or [`Skip::NotMulticast`].
    PassNotMulticast = 10,
    /// [`Skip::Malformed`].
    PassMalformed = 11,
    /// [`Skip::Martian`].
    PassMartian = 12,
    /// [`Skip::OtherMac`].
    PassOtherMac = 13,
    /// Matched, but its source is one of [`OWN`](super::OWN): a copy of this relay came back. It
    /// went to the Linux stack.
    OwnFrame = 14,
    /// Matched, and above the rule's limit: the XDP program dropped it, the socket filter left it
    /// to the Linux stack.
    OverLimit = 15,
    /// [`Skip::NoChecksum`].
    PassNoChecksum = 16,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 17;

    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Received,
        Self::Redirected,
        Self::PassNoSocket,
        Self::PassNoRule,
        Self::PassVlan,
        Self::PassNotIp,
        Self::PassIpv6Extension,
        Self::PassIpOptions,
        Self::PassFragment,
        Self::PassNotUdp,
        Self::PassNotMulticast,
        Self::PassMalformed,
        Self::PassMartian,
        Self::PassOtherMac,
        Self::OwnFrame,
        Self::OverLimit,
        Self::PassNoChecksum,
    ];

    /// What a datagram that no rule matches counts as.
    #[inline(always)]
    #[must_use]
    pub const fn unmatched(datagram: &Datagram) -> Self {
        if !datagram.addresses.is_to_group() {
            Self::PassNotMulticast
        } else if datagram.vlan.bits() == Vlan::UNTAGGED.bits() {
            Self::PassNoRule
        } else {
            Self::PassVlan
        }
    }

    /// The name in logs and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Redirected => "redirected",
            Self::PassNoSocket => "pass_no_socket",
            Self::PassNoRule => "pass_no_rule",
            Self::PassVlan => "pass_vlan",
            Self::PassNotIp => "pass_not_ip",
            Self::PassIpv6Extension => "pass_ipv6_extension",
            Self::PassIpOptions => "pass_ip_options",
            Self::PassFragment => "pass_fragment",
            Self::PassNotUdp => "pass_not_udp",
            Self::PassNotMulticast => "pass_not_multicast",
            Self::PassMalformed => "pass_malformed",
            Self::PassMartian => "pass_martian",
            Self::PassOtherMac => "pass_other_mac",
            Self::OwnFrame => "own_frame",
            Self::OverLimit => "over_limit",
            Self::PassNoChecksum => "pass_no_checksum",
        }
    }
}

impl From<Skip> for Counter {
    #[inline(always)]
    fn from(skip: Skip) -> Self {
        match skip {
            Skip::NotIp => Self::PassNotIp,
            Skip::Ipv6Extension => Self::PassIpv6Extension,
            Skip::Tags => Self::PassVlan,
            Skip::IpOptions => Self::PassIpOptions,
            Skip::Fragment => Self::PassFragment,
            Skip::NotUdp => Self::PassNotUdp,
            Skip::NotMulticast => Self::PassNotMulticast,
            Skip::NoChecksum => Self::PassNoChecksum,
            Skip::Malformed => Self::PassMalformed,
            Skip::Martian => Self::PassMartian,
            Skip::OtherMac => Self::PassOtherMac,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_numbered_in_the_order_of_their_list() {
        for (number, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, number, "{}", counter.name());
        }
    }
}
