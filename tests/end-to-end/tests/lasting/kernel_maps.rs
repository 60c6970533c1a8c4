//! The maps of a running relay's kernel programs, read from outside as `bpftool map dump` does it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapInfo};
use relay_common::abi::{self, InterfaceValue, OwnKey};
use relay_common::matching::{ExactKey4, ExactKey6, FlowValue, PortForm, ShapedKey4};
use relay_common::wire::{self, Vlan, ipv6};
use relay_tests::relay::RelayProcess;

/// A flow that a program matches: the index of the input, the group, and the rest in words: "5000",
/// or "/32 any from 10.1.1.2".
pub type Flow = (u32, IpAddr, String);

/// What the maps hold. Without a loaded program they hold nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelMaps {
    /// The flows that match, and whether each has a limit.
    pub flows: BTreeMap<Flow, bool>,
    /// The indices of the inputs that are served.
    pub interfaces: BTreeSet<u32>,
    /// What copies leave with, see [`own_mac`] and [`own_address`].
    pub own: BTreeSet<String>,
}

/// How [`KernelMaps::own`] has the Ethernet source of an interface's copies.
pub fn own_mac(mac: [u8; 6]) -> String {
    format!("{:?}", OwnKey::mac(wire::mac(mac)))
}

/// How [`KernelMaps::own`] has an IP source of copies.
pub fn own_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let address = u32::from_ne_bytes(address.octets());
            format!("{:?}", OwnKey::address(address))
        }
        IpAddr::V6(address) => address.to_string(),
    }
}

/// An address as it lies in the kernel's memory.
fn ipv6(words: ipv6::Address) -> Ipv6Addr {
    let [high, low] = words.map(|word| u128::from(u64::from_be(word)));
    Ipv6Addr::from_bits(high << 64 | low)
}

impl KernelMaps {
    /// Reads the maps of `relay`. Fails if it has two of the same name.
    pub fn of(relay: &RelayProcess) -> Result<Self> {
        let mut names = BTreeSet::new();
        let mut maps = Self::default();
        let (mut flows, mut flows6, mut shaped) = (Vec::new(), Vec::new(), Vec::new());
        let mut slots = BTreeMap::new();
        for id in relay.kernel_maps()? {
            let info = MapInfo::from_id(id).with_context(|| format!("asking for map {id}"))?;
            let name = info.name_as_str().unwrap_or_default().to_owned();
            match name.as_str() {
                abi::FLOWS => flows.extend(entries::<ExactKey4, FlowValue>(id)?),
                abi::FLOWS6 => flows6.extend(entries::<ExactKey6, FlowValue>(id)?),
                abi::SHAPED => shaped.extend(entries::<ShapedKey4, FlowValue>(id)?),
                abi::INTERFACES => {
                    for (index, value) in entries::<u32, InterfaceValue>(id)? {
                        maps.interfaces.insert(index);
                        slots.insert(value.slot(), index);
                    }
                }
                abi::OWN => {
                    let entries = entries::<OwnKey, u8>(id)?.into_iter();
                    maps.own.extend(entries.map(|(key, _)| format!("{key:?}")));
                }
                abi::OWN6 => {
                    let entries = entries::<ipv6::Address, u8>(id)?.into_iter();
                    let own = entries.map(|(key, _)| own_address(ipv6(key).into()));
                    maps.own.extend(own);
                }
                _ => {}
            }
            ensure!(names.insert(name.clone()), "two maps are called {name}");
        }
        // The index of no interface stands for a slot that is not served.
        let index = |place: u32| {
            slots
                .get(&((place >> Vlan::BITS) as u8))
                .copied()
                .unwrap_or(0)
        };
        for (key, value) in flows.into_iter().filter(|(_, value)| value.is_flow()) {
            let group = Ipv4Addr::from(key.group.to_ne_bytes());
            let flow = (index(key.place), group.into(), key.port.to_string());
            maps.flows.insert(flow, value.limit().is_some());
        }
        for (key, value) in flows6.into_iter().filter(|(_, value)| value.is_flow()) {
            let flow = (
                index(key.place),
                ipv6(key.group).into(),
                key.port.to_string(),
            );
            maps.flows.insert(flow, value.limit().is_some());
        }
        for (key, value) in shaped {
            let group = Ipv4Addr::from(key.group).into();
            let flow = (index(key.place), group, words(&key));
            maps.flows.insert(flow, value.limit().is_some());
        }
        Ok(maps)
    }
}

/// What the key of a shaped flow has beside interface and group. Of a range it has the class alone.
fn words(key: &ShapedKey4) -> String {
    const ANY: u32 = PortForm::Any as u32;
    const CLASS: u32 = PortForm::Class as u32;
    let (shape, port) = (key.shape_and_port >> 16, key.shape_and_port as u16);
    let port = match shape & 3 {
        ANY => "any".to_owned(),
        CLASS => "range".to_owned(),
        _ => port.to_string(),
    };
    let source = match key.source {
        0 => String::new(),
        source => format!(" from {}", Ipv4Addr::from(source.to_ne_bytes())),
    };
    format!("/{} {port}{source}", shape >> 2)
}

/// All entries of the hash map with this id.
fn entries<K: Pod, V: Pod>(id: u32) -> Result<Vec<(K, V)>> {
    let read = || -> Result<_> {
        let map: HashMap<MapData, K, V> = Map::HashMap(MapData::from_id(id)?).try_into()?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    };
    read().with_context(|| format!("reading map {id}"))
}
