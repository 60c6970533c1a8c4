//! The maps between user space and the kernel programs: names, keys, values and counters. Each
//! program has its own set of maps.
//!
//! Both sides compile this file, so a layout can only change for both at once. Every structure is
//! free of padding, because the kernel hashes and compares keys byte by byte.

mod came_back;
mod counter;
pub mod mark;

pub use self::{
    came_back::{CameBack, CameBackKey},
    counter::Counter,
    mark::Mark,
};
use crate::{
    matching::{CLASSES_PER_WORD, List, OwnPresence},
    wire::{Mac, ipv4, ipv6},
};

/// The XDP program's function.
pub const PROGRAM: &str = "relay_xdp";
/// The socket filter's function.
pub const FILTER: &str = "relay_filter";
/// The function of the tc program that gives frames back to the Linux stack.
pub const LOCAL: &str = "relay_local";
/// Hash map from [`ExactKey4`](crate::matching::ExactKey4) to
/// [`FlowValue`](crate::matching::FlowValue): flows of one IPv4 group and port.
pub const FLOWS: &str = "FLOWS";
/// The same over IPv6, by [`ExactKey6`](crate::matching::ExactKey6).
pub const FLOWS6: &str = "FLOWS6";
/// Hash map from [`ShapedKey4`](crate::matching::ShapedKey4) to
/// [`FlowValue`](crate::matching::FlowValue): all other flows over IPv4.
pub const SHAPED: &str = "SHAPED";
/// The same over IPv6, by [`ShapedKey6`](crate::matching::ShapedKey6).
pub const SHAPED6: &str = "SHAPED6";
/// Array of `u64`: the presence bits of the entries of the four maps above, see
/// [`FlowPresence`](crate::matching::FlowPresence).
pub const PRESENCE: &str = "PRESENCE";
/// Array of `u64`: the lists of shapes, see [`List`].
pub const SHAPES: &str = "SHAPES";
/// Array of `u64`: the classes of ports, see [`class_in`](crate::matching::class_in).
pub const PORT_CLASSES: &str = "PORT_CLASSES";
/// Hash map from interface index (`u32`) to [`InterfaceValue`].
pub const INTERFACES: &str = "INTERFACES";
/// Array of [`NearInterface`]: the entries of [`INTERFACES`] again, each at the
/// [place](NearInterface::place) of its index unless another interface is there.
pub const NEAR_INTERFACES: &str = "NEAR_INTERFACES";
/// Hash map whose keys are [`OwnKey`]s: the sources that the relay's copies leave with.
pub const OWN: &str = "OWN";
/// Hash map whose keys are [`ipv6::Address`]es: the IPv6 sources that the relay's copies leave
/// with.
pub const OWN6: &str = "OWN6";
/// Array of `u64`: the presence bits of the entries of both, see [`OwnPresence`].
pub const OWN_PRESENCE: &str = "OWN_PRESENCE";
/// Array of [`LimitValue`]: one for each rule that has a limit.
pub const LIMITS: &str = "LIMITS";
/// Per-CPU array of `u64`: how many datagrams were above each of [`LIMITS`].
pub const OVER_LIMIT: &str = "OVER_LIMIT";
/// Hash map from [`CameBackKey`] to [`CameBack`]: where copies of this relay came back. Once it is
/// full, the kernel drops those that came back least recently (`BPF_MAP_TYPE_LRU_HASH`).
pub const CAME_BACK: &str = "CAME_BACK";
/// Array of [`Mark`], which user space maps: when frames arrived.
pub const MARKS: &str = "MARKS";
/// XSKMAP: AF_XDP sockets, by slot. Only the XDP program has it.
pub const SOCKETS: &str = "SOCKETS";
/// Per-CPU array of `u64`: [`Counter::COUNT`] for every interface slot.
pub const COUNTERS: &str = "COUNTERS";

/// How many interfaces one loaded program, and so one relay, can serve.
pub const MAX_INTERFACES: u32 = 256;
/// Entries of [`NEAR_INTERFACES`]: a power of two.
pub const MAX_NEAR_INTERFACES: u32 = 4 * MAX_INTERFACES;
/// How many queues one interface can have. Also the stride of [`SOCKETS`].
pub const MAX_QUEUES: u32 = 256;
/// How many flows of one group and port a loaded program can match, over IPv4 and over IPv6 each.
pub const MAX_FLOWS: u32 = 65_536;
/// How many entries other flows can have, over IPv4 and over IPv6 each: one per source, and where a
/// flow has a range of ports, one per class.
pub const MAX_SHAPED: u32 = 2 * MAX_FLOWS;
/// Numbers in [`SHAPES`].
pub const MAX_SHAPES: u32 = MAX_INTERFACES * List::STRIDE;
/// Numbers in [`PORT_CLASSES`].
pub const MAX_PORT_CLASSES: u32 = (u16::MAX as u32 + 1) / CLASSES_PER_WORD;
/// How many sources the copies of one relay can leave with: two per interface, and twice as many
/// while they change.
pub const MAX_OWN: u32 = 4 * MAX_INTERFACES;
/// How many destinations [`CAME_BACK`] has room for.
pub const MAX_CAME_BACK: u32 = 1024;
/// Entries of [`MARKS`]: a power of two.
pub const MAX_MARKS: u32 = 1024;

/// A token bucket in the form of the generic cell rate algorithm (ITU-T I.371, annex A): it stores
/// no tokens, but the time at which the next datagram is due. Times are in sixteenths of a
/// nanosecond since boot.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitValue {
    /// When the next datagram is due. Only the kernel program changes it.
    pub due: u64,
    /// The time from one datagram to the next.
    pub interval: u64,
    /// How long before it is due a datagram may arrive.
    pub slack: u64,
}

impl LimitValue {
    /// The binary logarithm of the parts of a nanosecond.
    pub const PARTS: u32 = 4;

    /// A limit of `packets_per_second`, of which `burst` may arrive at once. Both are at least 1.
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

/// A source of the relay's own copies: a frame that has it must not be relayed again.
///
/// An Ethernet address and an IPv4 address never have the same key: the first two bytes tell them
/// apart.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnKey(u64);

impl OwnKey {
    /// The key of an Ethernet source.
    #[inline(always)]
    #[must_use]
    pub const fn mac(mac: Mac) -> Self {
        Self(mac)
    }

    /// The key of an IPv4 source, as it lies in memory.
    #[inline(always)]
    #[must_use]
    pub const fn address(address: ipv4::Address) -> Self {
        let [a, b, c, d] = address.to_ne_bytes();
        Self(u64::from_ne_bytes([1, 0, 0, 0, a, b, c, d]))
    }
}

impl From<&OwnKey> for OwnPresence {
    #[inline(always)]
    fn from(key: &OwnKey) -> Self {
        Self::of([key.0])
    }
}

/// Where the sockets and counters of an interface are, and its Ethernet address.
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
    /// The value for the interface with this slot and Ethernet address.
    #[must_use]
    pub const fn new(slot: u16, mac: [u8; 6]) -> Self {
        Self { slot, mac }
    }

    /// The slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u8 {
        self.slot as u8
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

/// An interface where the kernel programs look first: to read an array is part of the program, to
/// search a hash table is a call, which costs several times as much.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearInterface {
    /// Its index, or [`Self::FREE`].
    pub index: u64,
    /// Its value.
    pub value: InterfaceValue,
}

impl NearInterface {
    /// The index in an entry that is free: no interface has it.
    pub const FREE: u64 = 0;

    /// Where the interface with this index is.
    #[inline(always)]
    #[must_use]
    pub const fn place(index: u32) -> u32 {
        index % MAX_NEAR_INTERFACES
    }
}

const _: () = assert!(size_of::<InterfaceValue>() == 8 && size_of::<NearInterface>() == 16);
const _: () = assert!(size_of::<OwnKey>() == 8 && MAX_INTERFACES <= 1 << u8::BITS);
const _: () = assert!(size_of::<ipv6::Address>() == 16);

#[cfg(feature = "user")]
mod pod {
    use super::{InterfaceValue, LimitValue, NearInterface, OwnKey};

    // SAFETY: `repr(C)`, plain integers, no padding (asserted above), valid for every bit pattern.
    unsafe impl aya::Pod for InterfaceValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NearInterface {}
    // SAFETY: as above.
    unsafe impl aya::Pod for OwnKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LimitValue {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_its_rate_and_its_burst() {
        let limit = LimitValue::new(2000, 100);
        assert_eq!(limit.interval >> LimitValue::PARTS, 500_000);
        assert_eq!(limit.slack, 99 * limit.interval);
        assert_eq!(LimitValue::new(1, 1).slack, 0);
    }
}
