//! Where copies of this relay came back, and the last of these copies for each destination.

use std::net::IpAddr;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use relay_common::{
    abi::{self, CameBackKey},
    wire::Vlan,
};

use super::{error::KernelError, maps::hash_map};

/// A copy of this relay that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameBack {
    /// Where.
    pub to: Destination,
    /// When, in nanoseconds since boot.
    pub at: u64,
    /// Its Ethernet source.
    pub mac: [u8; 6],
    /// Its source address.
    pub source: IpAddr,
}

/// What a copy that came back was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The index of the interface that it arrived on.
    pub interface: u32,
    key: CameBackKey,
}

impl Destination {
    /// The VLAN that it arrived in.
    #[must_use]
    pub const fn vlan(&self) -> Vlan {
        self.key.vlan()
    }

    /// The group.
    #[must_use]
    pub const fn group(&self) -> IpAddr {
        self.key.group()
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.key.port()
    }
}

impl CameBack {
    /// What a program noted of an interface, given by its index.
    pub(super) const fn new(interface: u32, key: CameBackKey, last: abi::CameBack) -> Self {
        let [_, _, a, b, c, d, e, f] = last.from.to_ne_bytes();
        Self {
            to: Destination { interface, key },
            at: last.at,
            mac: [a, b, c, d, e, f],
            source: last.source(),
        }
    }
}

/// What one loaded program has noted.
pub struct Noted(HashMap<MapData, CameBackKey, abi::CameBack>);

impl Noted {
    /// Takes the map out of a loaded object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self(hash_map(ebpf, abi::CAME_BACK)?))
    }

    /// The last copy that came back to each destination. Entries that cannot be read are left out.
    pub fn all(&self) -> impl Iterator<Item = (CameBackKey, abi::CameBack)> {
        self.0.iter().filter_map(Result::ok)
    }

    /// Makes room for another destination. One that is not there is no error.
    pub fn forget(&mut self, to: &Destination) {
        let _ = self.0.remove(&to.key);
    }

    /// Forgets what came back on an interface, by its slot, which another interface gets.
    pub fn forget_slot(&mut self, slot: u8) {
        let of_slot = self.all().filter(|(key, _)| key.slot() == slot);
        for (key, _) in of_slot.collect::<Vec<_>>() {
            let _ = self.0.remove(&key);
        }
    }
}
