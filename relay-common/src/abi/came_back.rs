//! What the kernel programs note of copies of this relay that came back.

use core::net::IpAddr;

use crate::{
    matching,
    wire::{Addresses, Datagram, Mac, Vlan, ipv6},
};

/// What a copy that came back was sent to, and where it arrived.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CameBackKey {
    /// See [`matching::place`].
    place: u32,
    port: u32,
    /// An IPv4 group in IPv6 form ([`ipv6::mapped`]).
    group: ipv6::Address,
}

impl CameBackKey {
    /// The key of a datagram that arrived on the interface with this slot.
    #[inline(always)]
    #[must_use]
    pub const fn new(slot: u8, datagram: &Datagram) -> Self {
        Self {
            place: matching::place(slot, datagram.vlan),
            port: datagram.port as u32,
            group: match datagram.addresses {
                Addresses::V4 { group, .. } => ipv6::mapped(group),
                Addresses::V6 { group, .. } => group,
            },
        }
    }

    /// The slot of the interface that it arrived on.
    #[must_use]
    pub const fn slot(&self) -> u8 {
        (self.place >> Vlan::BITS) as u8
    }

    /// The VLAN that it arrived in.
    #[must_use]
    pub const fn vlan(&self) -> Vlan {
        Vlan::from_bits(self.place)
    }

    /// Its destination group.
    #[must_use]
    pub const fn group(&self) -> IpAddr {
        ipv6::from_memory(self.group).to_canonical()
    }

    /// Its destination port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port as u16
    }
}

/// The last copy of this relay that came back to one destination.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameBack {
    /// When, in nanoseconds since boot.
    pub at: u64,
    /// Its Ethernet source.
    pub from: Mac,
    /// An IPv4 source in IPv6 form ([`ipv6::mapped`]).
    source: ipv6::Address,
}

impl CameBack {
    /// A datagram that came back at `at`, from the Ethernet address `from`.
    #[inline(always)]
    #[must_use]
    pub const fn new(at: u64, datagram: &Datagram, from: Mac) -> Self {
        Self {
            at,
            from,
            source: match datagram.addresses {
                Addresses::V4 { source, .. } => ipv6::mapped(source),
                Addresses::V6 { source, .. } => source,
            },
        }
    }

    /// Its source address.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        ipv6::from_memory(self.source).to_canonical()
    }
}

const _: () = assert!(size_of::<CameBackKey>() == 24 && size_of::<CameBack>() == 32);

#[cfg(feature = "user")]
mod pod {
    use super::{CameBack, CameBackKey};

    // SAFETY: `repr(C)`, plain integers, no padding (asserted above), valid for every bit pattern.
    unsafe impl aya::Pod for CameBackKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for CameBack {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv4;

    const GROUP: ipv4::Address = u32::from_ne_bytes([239, 1, 1, 1]);
    const SOURCE: ipv4::Address = u32::from_ne_bytes([10, 9, 0, 7]);

    #[test]
    fn a_note_tells_what_came_back_over_either_ip_version() {
        let mut datagram = Datagram {
            addresses: Addresses::V4 {
                source: SOURCE,
                group: GROUP,
            },
            port: 5001,
            vlan: Vlan::double(100, 200),
            ttl: 1,
            network: 14,
            payload_len: 0,
        };
        let key = CameBackKey::new(7, &datagram);
        assert_eq!((key.slot(), key.vlan()), (7, Vlan::double(100, 200)));
        assert_eq!((key.group(), key.port()), (datagram.group(), 5001));
        assert_eq!(CameBack::new(1, &datagram, 2).source(), datagram.source());
        let [group, source] = [[0xff3e_u64, 9], [0x2001_0db8_u64 << 32, 7]]
            .map(|[first, second]| [first.to_be(), second.to_be()]);
        datagram.addresses = Addresses::V6 { source, group };
        let key = CameBackKey::new(255, &datagram);
        assert_eq!((key.slot(), key.group()), (255, datagram.group()));
        assert_eq!(CameBack::new(1, &datagram, 2).source(), datagram.source());
    }
}
