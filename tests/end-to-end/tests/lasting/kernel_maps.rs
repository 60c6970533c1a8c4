//! The maps of a running relay's kernel programs, read from outside as `bpftool map dump` does it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapInfo};
use relay_common::abi::{self, FlowKey, FlowValue, InterfaceValue, OwnKey};
use relay_common::wire;
use relay_tests::relay::RelayProcess;

/// A flow that a program matches: the index of the input, the group and the port.
pub type Flow = (u32, Ipv4Addr, u16);

/// What the maps hold. Without a loaded program they hold nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelMaps {
    /// The flows that match, and whether each has a limit.
    pub flows: BTreeMap<Flow, bool>,
    /// The indices of the inputs that are served.
    pub interfaces: BTreeSet<u32>,
    /// What copies leave with, see [`own`].
    pub own: BTreeSet<String>,
}

/// How [`KernelMaps::own`] has the sources of an interface's copies.
pub fn own(mac: [u8; 6], address: Ipv4Addr) -> [String; 2] {
    let address = u32::from_ne_bytes(address.octets());
    [OwnKey::mac(wire::mac(mac)), OwnKey::address(address)].map(|key| format!("{key:?}"))
}

impl KernelMaps {
    /// Reads the maps of `relay`. Fails if it has two of the same name.
    pub fn of(relay: &RelayProcess) -> Result<Self> {
        let mut names = BTreeSet::new();
        let mut maps = Self::default();
        for id in relay.kernel_maps()? {
            let info = MapInfo::from_id(id).with_context(|| format!("asking for map {id}"))?;
            let name = info.name_as_str().unwrap_or_default().to_owned();
            match name.as_str() {
                abi::FLOWS => {
                    let flows = entries::<FlowKey, FlowValue>(id)?.into_iter();
                    let flows = flows.map(|(key, value)| {
                        let flow = (key.interface, Ipv4Addr::from(key.group), key.port);
                        (flow, value.limit().is_some())
                    });
                    maps.flows = flows.collect();
                }
                abi::INTERFACES => {
                    let entries = entries::<u32, InterfaceValue>(id)?.into_iter();
                    maps.interfaces = entries.map(|(index, _)| index).collect();
                }
                abi::OWN => {
                    let entries = entries::<OwnKey, u8>(id)?.into_iter();
                    maps.own = entries.map(|(key, _)| format!("{key:?}")).collect();
                }
                _ => {}
            }
            ensure!(names.insert(name.clone()), "two maps are called {name}");
        }
        Ok(maps)
    }
}

/// All entries of the hash map with this id.
fn entries<K: Pod, V: Pod>(id: u32) -> Result<Vec<(K, V)>> {
    let read = || -> Result<_> {
        let map: HashMap<MapData, K, V> = Map::HashMap(MapData::from_id(id)?).try_into()?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    };
    read().with_context(|| format!("reading map {id}"))
}
