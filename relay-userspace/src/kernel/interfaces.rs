//! The maps of interfaces that a program serves: all in a hash table, and nearly all once more in
//! an array, where the program looks first.
//!
//! What an entry of the array is about changes only while it is free, so that no frame finds the
//! value of another interface. Meanwhile the hash table answers.

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use relay_common::abi::{self, InterfaceValue, NearInterface};

use super::{
    error::{KernelError, map_write},
    maps::{array, hash_map},
};

/// The maps of one loaded program.
pub struct Interfaces {
    all: HashMap<MapData, u32, InterfaceValue>,
    near: Array<MapData, NearInterface>,
}

impl Interfaces {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// The object has no such map: it is of another version.
    pub fn take_from(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            all: hash_map(ebpf, abi::INTERFACES)?,
            near: array(ebpf, abi::NEAR_INTERFACES)?,
        })
    }

    /// Writes the value of an interface, given by its index. `name` is for errors.
    ///
    /// # Errors
    ///
    /// A map refused an entry.
    pub fn serve(
        &mut self,
        index: u32,
        name: &str,
        value: InterfaceValue,
    ) -> Result<(), KernelError> {
        let all = self.all.insert(index, value, 0);
        all.map_err(|error| map_write(abi::INTERFACES, name, &error))?;
        let near = self.set_near(index, value);
        near.map_err(|error| map_write(abi::NEAR_INTERFACES, name, &error))
    }

    /// Removes an interface, given by its index. One that is not there is no error.
    pub fn unserve(&mut self, index: u32) {
        let _ = self.free(index);
        let _ = self.all.remove(&index);
    }

    /// Writes the entry of the array, unless another interface is there.
    fn set_near(&mut self, index: u32, value: InterfaceValue) -> Result<(), MapError> {
        if !self.free(index)? {
            return Ok(());
        }
        let place = NearInterface::place(index);
        let free = NearInterface {
            index: NearInterface::FREE,
            value,
        };
        self.near.set(place, free, 0)?;
        let index = index.into();
        self.near.set(place, NearInterface { index, value }, 0)
    }

    /// Frees the entry of the array if it is this interface's. Returns whether it is free.
    fn free(&mut self, index: u32) -> Result<bool, MapError> {
        let place = NearInterface::place(index);
        let entry = self.near.get(&place, 0)?;
        if entry.index == u64::from(index) {
            let free = NearInterface {
                index: NearInterface::FREE,
                ..entry
            };
            self.near.set(place, free, 0)?;
        }
        Ok(entry.index == NearInterface::FREE || entry.index == u64::from(index))
    }
}
