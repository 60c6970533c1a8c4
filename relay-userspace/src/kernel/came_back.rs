//! The flows of which copies of this relay came back, each with the last of these.

use std::net::Ipv4Addr;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use relay_common::abi::{self, FlowKey};

use super::{error::KernelError, maps::hash_map};

/// A copy of this relay that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameBack {
    /// The flow that it came back as.
    pub flow: FlowKey,
    /// When, in nanoseconds since boot.
    pub at: u64,
    /// Its Ethernet source.
    pub mac: [u8; 6],
    /// Its IPv4 source.
    pub source: Ipv4Addr,
}

/// What one loaded program has noted.
pub struct Noted(HashMap<MapData, FlowKey, abi::CameBack>);

impl Noted {
    /// Takes the map out of a loaded object.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self(hash_map(ebpf, abi::CAME_BACK)?))
    }

    /// The last copy that came back of each flow. Entries that cannot be read are left out.
    pub fn all(&self) -> impl Iterator<Item = CameBack> {
        self.0.iter().filter_map(Result::ok).map(|(flow, last)| {
            let [_, _, mac @ ..] = last.from.to_ne_bytes();
            CameBack {
                flow,
                at: last.at,
                mac,
                source: Ipv4Addr::from(last.source.to_ne_bytes()),
            }
        })
    }

    /// Makes room for another flow. One that is not there is no error.
    pub fn forget(&mut self, flow: &FlowKey) {
        let _ = self.0.remove(flow);
    }
}
