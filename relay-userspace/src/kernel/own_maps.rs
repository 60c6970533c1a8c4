//! The maps of the relay's own sources.

use std::collections::BTreeSet;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use relay_common::{
    abi::{self, OwnKey},
    matching::OwnPresence,
    wire::ipv6,
};

use super::{
    error::{KernelError, map_write},
    maps::hash_map,
    own_sources::{MapKey, OwnSource},
    presence_bits::OwnBits,
};

/// The maps of one loaded program, and what is in them.
pub struct OwnMaps {
    own: HashMap<MapData, OwnKey, u8>,
    own6: HashMap<MapData, ipv6::Address, u8>,
    presence: OwnBits,
    /// What is in both.
    sources: BTreeSet<OwnSource>,
}

impl OwnMaps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// The object has no such map: it is of another version.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            own: hash_map(ebpf, abi::OWN)?,
            own6: hash_map(ebpf, abi::OWN6)?,
            presence: OwnBits::take_from(ebpf, abi::OWN_PRESENCE)?,
            sources: BTreeSet::new(),
        })
    }

    /// Makes the program take frames from `sources`, and no others, for copies that came back. New
    /// sources are written before old ones are removed. If the kernel refuses one, the sources are
    /// as before.
    ///
    /// # Errors
    ///
    /// A map refused an entry.
    pub fn set(&mut self, sources: &BTreeSet<OwnSource>) -> Result<(), KernelError> {
        let mut added = Vec::new();
        let new: Vec<_> = sources.difference(&self.sources).copied().collect();
        for source in new {
            if let Err((map, error)) = self.add(source) {
                for source in added {
                    self.remove(source);
                }
                return Err(map_write(map, source.to_string(), &error));
            }
            added.push(source);
        }
        let gone: Vec<_> = self.sources.difference(sources).copied().collect();
        for source in gone {
            self.remove(source);
        }
        self.sources.clone_from(sources);
        Ok(())
    }

    /// Writes an own source that is not there. An error has the name of the map.
    fn add(&mut self, source: OwnSource) -> Result<(), (&'static str, MapError)> {
        self.presence.add(presence(source), || match source.key() {
            MapKey::Own(key) => self.own.insert(key, 0, 0).map_err(|e| (abi::OWN, e)),
            MapKey::Own6(key) => self.own6.insert(key, 0, 0).map_err(|e| (abi::OWN6, e)),
        })
    }

    /// Removes an own source that is there.
    fn remove(&mut self, source: OwnSource) {
        let removed = match source.key() {
            MapKey::Own(key) => self.own.remove(&key),
            MapKey::Own6(key) => self.own6.remove(&key),
        };
        if removed.is_ok() {
            self.presence.remove(presence(source));
        }
    }
}

/// Where the presence bit of an own source is.
fn presence(source: OwnSource) -> OwnPresence {
    match source.key() {
        MapKey::Own(key) => (&key).into(),
        MapKey::Own6(key) => (&key).into(),
    }
}
