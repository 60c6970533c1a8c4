//! The maps between user space and the kernel programs: names, keys, values and counters. Each program has its own
//! set of maps.
//!
//! Both sides compile this file, so a layout can only change for both at once. Every structure is
//! free of padding, because the kernel hashes and compares keys byte by byte.

use crate::wire::{Addresses, Datagram, Mac, Skip};

/// The XDP program's function.
pub const PROGRAM: &str = "relay_xdp";
/// The socket filter's function.
pub const FILTER: &str = "relay_filter";
/// Hash map from [`FlowKey`] to [`FlowValue`]: what goes to the relay.
pub const FLOWS: &str = "FLOWS";
/// Hash map from interface index (`u32`) to [`InterfaceValue`].
pub const INTERFACES: &str = "INTERFACES";
/// Hash map whose keys are [`OwnKey`]s: the sources that the relay's copies leave with.
pub const OWN: &str = "OWN";
/// Array of [`LimitValue`]: one for each rule that has a limit.
pub const LIMITS: &str = "LIMITS";
/// Per-CPU array of `u64`: what was above each of [`LIMITS`].
pub const OVER_LIMIT: &str = "OVER_LIMIT";
/// XSKMAP: AF_XDP sockets, by slot. The XDP program alone has it.
pub const SOCKETS: &str = "SOCKETS";
/// Per-CPU array of `u64`: [`Counter::COUNT`] for every interface slot.
pub const COUNTERS: &str = "COUNTERS";

/// The interfaces one loaded program can serve, and so one relay.
pub const MAX_INTERFACES: u32 = 256;
/// The queues one interface can have. Also the stride of [`SOCKETS`].
pub const MAX_QUEUES: u32 = 256;
/// The flows one loaded program can match.
pub const MAX_FLOWS: u32 = 65_536;
/// The sources that the copies of one relay can leave with: two an interface.
pub const MAX_OWN: u32 = 2 * MAX_INTERFACES;

/// What the kernel programs match a datagram by.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Index of the interface that the frame came in by.
    pub interface: u32,
    /// Destination group, network order.
    pub group: [u8; 4],
    /// Destination port, host order.
    pub port: u16,
    /// VLAN identifier, [`Datagram::UNTAGGED`] for untagged frames.
    pub vlan: u16,
}

impl FlowKey {
    /// The key of a datagram that came in by `interface`.
    #[inline(always)]
    #[must_use]
    pub const fn new(interface: u32, datagram: &Datagram) -> Self {
        Self {
            interface,
            group: datagram.group,
            port: datagram.port,
            vlan: datagram.vlan,
        }
    }
}

/// What the kernel programs know of a flow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowValue {
    /// Position of the rule in its file, for people who dump the map.
    pub rule: u32,
    /// Position in [`LIMITS`], counted from 1; 0 where the rule has none.
    limit: u32,
}

impl FlowValue {
    /// Of a rule with a limit at a position in [`LIMITS`], or without one.
    #[must_use]
    pub const fn new(rule: u32, limit: Option<u32>) -> Self {
        let limit = match limit {
            Some(position) => position + 1,
            None => 0,
        };
        Self { rule, limit }
    }

    /// The position in [`LIMITS`].
    #[inline(always)]
    #[must_use]
    pub const fn limit(self) -> Option<u32> {
        self.limit.checked_sub(1)
    }
}

/// A token bucket as the generic cell rate algorithm has it (ITU-T I.371, annex A): not tokens are kept, but when the next
/// datagram is due. Times are in sixteenths of a nanosecond since boot.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitValue {
    /// When the next datagram is due. Only the kernel program changes it.
    pub due: u64,
    /// The time from one datagram to the next.
    pub interval: u64,
    /// How long before it is due a datagram may come.
    pub slack: u64,
}

impl LimitValue {
    /// The binary logarithm of the parts of a nanosecond.
    pub const PARTS: u32 = 4;

    /// So many datagrams a second, and so many at once. Both at least 1.
    #[must_use]
    pub const fn new(packets_per_second: u32, burst: u32) -> Self {
        let interval = (1_000_000_000 << Self::PARTS) / packets_per_second as u64;
        Self {
            due: 0,
            interval,
            slack: interval * (burst as u64).saturating_sub(1),
        }
    }
}

/// A source of the relay's own copies: what has it must not be relayed again.
///
/// An Ethernet address and an IPv4 address never have the same key: the first two bytes tell them apart.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnKey(u64);

impl OwnKey {
    /// Of an Ethernet source.
    #[inline(always)]
    #[must_use]
    pub const fn mac(mac: Mac) -> Self {
        Self(mac)
    }

    /// Of an IPv4 source, as [`Addresses::source`] has it.
    #[inline(always)]
    #[must_use]
    pub const fn address(address: u32) -> Self {
        let [a, b, c, d] = address.to_ne_bytes();
        Self(u64::from_ne_bytes([1, 0, 0, 0, a, b, c, d]))
    }

    /// Both of a frame.
    #[inline(always)]
    #[must_use]
    pub const fn of(addresses: &Addresses) -> [Self; 2] {
        [Self::mac(addresses.from), Self::address(addresses.source)]
    }
}

/// Where an interface's sockets and counters are, and its address.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceValue {
    /// The interface's slot, below [`MAX_INTERFACES`]: its socket for queue `q` is number
    /// `slot * MAX_QUEUES + q`, its counter `c` is number `slot * Counter::COUNT + c`.
    slot: u16,
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

impl InterfaceValue {
    /// Of the interface with this slot and Ethernet address.
    #[must_use]
    pub const fn new(slot: u16, mac: [u8; 6]) -> Self {
        Self { slot, mac }
    }

    /// Where [`SOCKETS`] has the socket of `queue`, or `None` when there cannot be one.
    #[inline(always)]
    #[must_use]
    pub const fn socket(self, queue: u32) -> Option<u32> {
        if queue < MAX_QUEUES {
            Some(self.slot as u32 * MAX_QUEUES + queue)
        } else {
            None
        }
    }

    /// Where [`COUNTERS`] has `counter`.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self, counter: Counter) -> u32 {
        self.slot as u32 * Counter::COUNT + counter as u32
    }
}

const _: () = assert!(size_of::<FlowKey>() == 12 && align_of::<FlowKey>() == 4);
const _: () = assert!(size_of::<FlowValue>() == 8 && size_of::<InterfaceValue>() == 8);
const _: () = assert!(size_of::<OwnKey>() == 8);

/// What the kernel programs count for an interface. Every frame counts once, under what became of it;
/// [`Counter::Received`] is the sum of all others, which user space computes. A super-frame that the socket filter
/// matches counts as its datagrams.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Every frame that reached the program. The programs do not count it.
    Received = 0,
    /// Matched, and handed to the relay: by the XDP program to the socket of its queue, by the socket filter to its
    /// packet socket.
    Redirected = 1,
    /// Matched, but no socket serves its queue: the frame went to the Linux stack instead. Of the XDP program alone.
    PassNoSocket = 2,
    /// Untagged multicast UDP that no rule names.
    PassNoRule = 3,
    /// Multicast UDP with a VLAN tag that no rule names, or [`Skip::DoubleTag`].
    PassVlan = 4,
    /// [`Skip::NotIp`].
    PassNotIp = 5,
    /// [`Skip::Ipv6`].
    PassIpv6 = 6,
    /// [`Skip::IpOptions`].
    PassIpOptions = 7,
    /// [`Skip::Fragment`].
    PassFragment = 8,
    /// [`Skip::NotUdp`].
    PassNotUdp = 9,
    /// [`Skip::NotMulticast`].
    PassNotMulticast = 10,
    /// [`Skip::Malformed`].
    PassMalformed = 11,
    /// [`Skip::Martian`].
    PassMartian = 12,
    /// [`Skip::OtherMac`].
    PassOtherMac = 13,
    /// Matched, but its source is one of [`OWN`]: a copy of this relay came back. It went to the Linux stack.
    OwnFrame = 14,
    /// Matched, and above the rule's limit: the XDP program dropped it, the socket filter left it to the Linux stack.
    OverLimit = 15,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 16;

    /// All of them, in order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Received,
        Self::Redirected,
        Self::PassNoSocket,
        Self::PassNoRule,
        Self::PassVlan,
        Self::PassNotIp,
        Self::PassIpv6,
        Self::PassIpOptions,
        Self::PassFragment,
        Self::PassNotUdp,
        Self::PassNotMulticast,
        Self::PassMalformed,
        Self::PassMartian,
        Self::PassOtherMac,
        Self::OwnFrame,
        Self::OverLimit,
    ];

    /// What a datagram counts as that no rule matches.
    #[inline(always)]
    #[must_use]
    pub const fn unmatched(datagram: &Datagram) -> Self {
        if datagram.vlan == Datagram::UNTAGGED {
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
            Self::PassIpv6 => "pass_ipv6",
            Self::PassIpOptions => "pass_ip_options",
            Self::PassFragment => "pass_fragment",
            Self::PassNotUdp => "pass_not_udp",
            Self::PassNotMulticast => "pass_not_multicast",
            Self::PassMalformed => "pass_malformed",
            Self::PassMartian => "pass_martian",
            Self::PassOtherMac => "pass_other_mac",
            Self::OwnFrame => "own_frame",
            Self::OverLimit => "over_limit",
        }
    }
}

impl From<Skip> for Counter {
    #[inline(always)]
    fn from(skip: Skip) -> Self {
        match skip {
            Skip::NotIp => Self::PassNotIp,
            Skip::Ipv6 => Self::PassIpv6,
            Skip::DoubleTag => Self::PassVlan,
            Skip::IpOptions => Self::PassIpOptions,
            Skip::Fragment => Self::PassFragment,
            Skip::NotUdp => Self::PassNotUdp,
            Skip::NotMulticast => Self::PassNotMulticast,
            Skip::Malformed => Self::PassMalformed,
            Skip::Martian => Self::PassMartian,
            Skip::OtherMac => Self::PassOtherMac,
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    use super::{FlowKey, FlowValue, InterfaceValue, LimitValue, OwnKey};

    // SAFETY: `repr(C)`, plain integers, no padding (asserted above), valid for every bit pattern.
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for InterfaceValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for OwnKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LimitValue {}
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
